"""Two control nodes on one etcd, and an L7 node that is linked to both, each a process of its own."""

import asyncio
import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from control.etcd import Tls
from control.node.children import Child
from control.ports import free_port
from control.store_etcd import EtcdStore
from control.tokens import set_token
from tests.control.conftest import Authority
from tests.control.etcd_members import Members
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(180)
PREFIX = "/nodes/"


class ControlNode:
    """One `paifang control`."""

    def __init__(self, name: str, root: Path, authority: Authority, etcd: str) -> None:
        self.api, nodes = f"http://127.0.0.1:{free_port()}", free_port()
        self.nodes, self.log = f"https://127.0.0.1:{nodes}", root / f"{name}.log"
        argv = [
            sys.executable, "-m", "control", "--state", str(root / name), "--api", self.api.removeprefix("http://"),
            "--nodes", f"127.0.0.1:{nodes}", "--identity", str(authority.issue("control", name)),
            "--store", "etcd", "--etcd", etcd, "--etcd-prefix", PREFIX,
        ]  # fmt: skip
        self.child = Child.start(name, argv, log=self.log, notify_dir=root)
        self.token = ""

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Status and document."""
        headers = {"Authorization": f"Bearer {self.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


def site(port: int, status: int) -> dict[str, object]:
    return {
        "instances": [{"name": "i"}],
        "listeners": [{"name": "web", "instance": "i", "protocol": "http", "port": port, "backend_service": "b"}],
        "backend_services": [{"name": "b", "protocol": "http", "server_group": "g"}],
        "server_groups": [{"name": "g", "servers": [{"address": "127.0.0.1", "port": 9}]}],
        "rules": [{"name": "r", "listener": "web", "url": "/", "fixed_reply": {"status": status}}],
    }


def answers(port: int) -> int:
    """The status that the L7 node answers with; 0 for nothing."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        try:
            connection.request("GET", "/")
            return connection.getresponse().status
        except OSError:
            return 0


async def token(etcd: str) -> str:
    store = await EtcdStore.open([etcd], PREFIX, Tls())
    made = await set_token(store, "tester")
    await store.close()
    return made


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path, 1)
    yield members
    members.close()


def test_two_control_nodes_and_one_l7_node(members: Members, authority: Authority, tmp_path: Path) -> None:
    etcd, port, children = members.endpoints[0], free_port(), list[Child]()
    try:
        one, two = [ControlNode(name, tmp_path, authority, etcd) for name in ("c1", "c2")]
        children += [one.child, two.child]
        for each in children:
            each.wait_ready(60)
        one.token = two.token = asyncio.run(token(etcd))
        ready = free_port()
        argv = [
            sys.executable, "-m", "proxy", "--name", "l7-1", "--control", f"{one.nodes},{two.nodes}",
            "--identity", str(authority.issue("l7", "l7-1")), "--state", str(tmp_path / "l7"), "--workers", "1",
            "--ready", f"127.0.0.1:{ready}", "--metrics", "off",
        ]  # fmt: skip
        assert one.ask("PUT", "/v1/config", site(port, 201), If_Match='"0"')[0] == 200
        assert two.ask("PUT", "/v1/config", site(port, 202), If_Match='"0"')[0] == 412
        children.append(Child.start("l7", argv, log=tmp_path / "l7.log", notify_dir=tmp_path))
        children[-1].wait_ready(60)
        eventually(lambda: answers(port) == 201, "the L7 node serves version 1")
        assert two.ask("PUT", "/v1/config", site(port, 202), If_Match='"1"')[0] == 200
        eventually(lambda: answers(port) == 202, "what the second was told reaches who is linked to the first")
        for each in (one, two):
            eventually(lambda each=each: in_step(each, 2), "both know how the L7 node fares")

        one.child.signal(9)
        assert two.ask("PUT", "/v1/config", site(port, 203), If_Match='"2"')[0] == 200
        eventually(lambda: answers(port) == 203, "the L7 node follows the second")

        members.kill(0)
        assert two.ask("GET", "/v1/config")[1] == two.ask("GET", "/v1/config")[1]
        assert two.ask("GET", "/v1/listeners/web")[0] == 200
        code, problem = two.ask("PUT", "/v1/config", site(port, 204), If_Match='"3"')
        assert (code, "no etcd member answers" in problem["detail"]) == (503, True), problem
        eventually(lambda: "the storage is away" in str(two.ask("GET", "/v1/status")), "it is told of")
        assert answers(port) == 203
        members.start(0)
        members.wait_ready(0)
        eventually(
            lambda: two.ask("PUT", "/v1/config", site(port, 205), If_Match='"3"')[0] in (200, 412),
            "changes are made again",
        )
        eventually(lambda: answers(port) == 205, "and reach the L7 node")
    finally:
        for child in reversed(children):
            child.terminate(20)


def in_step(control: ControlNode, version: int) -> bool:
    nodes = control.ask("GET", "/v1/status")[1]["nodes"]
    return [(node["name"], node["step"], node["version"]) for node in nodes] == [("l7-1", "in step", version)]
