"""Explaining by the API and the command line: what nodes report is minded, whom they know is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from control import cli, cli_explain
from control.explaining import end, reports, resolved
from control.questions import Questions
from control.reconcile import NodeStatus, Step
from control.roles import ApiRole
from control.tokens import set_token
from core.config import from_dict
from core.explain import ExplainError
from tests.control.api_user import User

SITE: dict[str, Any] = {
    "instances": [{"name": "i", "vips": ["192.0.2.1"]}, {"name": "n", "type": "nlb", "vips": ["192.0.2.2"]}],
    "nodes": [
        {"name": "l4-1", "role": "l4", "address": "10.0.0.11"},
        {"name": "l7-1", "role": "l7", "address": "10.0.0.31"},
        {"name": "l7-2", "role": "l7", "address": "10.0.0.32"},
    ],
    "server_groups": [
        {"name": "g", "servers": [{"address": f"10.0.1.{n}", "port": 80} for n in (1, 2)]},
    ],
    "backend_services": [
        {"name": "b", "protocol": "http", "server_group": "g"},
        {"name": "t", "protocol": "tcp", "server_group": "g", "scheduler": "maglev"},
    ],
    "listeners": [
        {"name": "web", "instance": "i", "protocol": "http", "port": 80, "backend_service": "b"},
        {"name": "tcp", "instance": "n", "protocol": "tcp", "port": 80, "backend_service": "t"},
    ],
    "rules": [{"name": "old", "listener": "web", "path": "/old", "redirect": {"path": "/new"}}],
}


def node(role: str, name: str, step: Step = Step.IN_STEP, **facts: object) -> NodeStatus:
    return NodeStatus(role, name, step, "", 1, 0.1, facts, listed=True)


def test_whom_all_nodes_find_down_is_down_and_else_it_is_said() -> None:
    def sick(server: str, why: str = "refused") -> dict[str, object]:
        return {"service": "b", "server": server, "healthy": False, "why": why}

    told = reports(
        [
            node("l7", "l7-1", health=[sick("a:1"), sick("b:1"), {**sick("c:1"), "healthy": True}]),
            node(
                "l7", "l7-2", health=[sick("a:1", "late")], upstreams=[{"service": "b", "server": "d:1", "ejected": 1}]
            ),
            node("l7", "l7-3", Step.SILENT),
            node("l4", "l4-1", health=[{"server": "e:1/tcp", "healthy": False, "why": "gone"}]),
            node("l4", "l4-2", health="nonsense"),
        ]
    )
    assert told.down == {"b": {"a:1": "l7-1: refused; l7-2: late"}}
    assert told.differ == {"b": {"b:1": "unhealthy for some nodes alone (l7-1: refused)"}}
    assert told.ejected == {"b": {"d:1": "ejected by workers of l7-2"}}
    assert (told.l4_down, told.known) == ({}, True)
    assert reports([node("l4", "l4-1", health=[{"server": "e:1/tcp", "healthy": False}])]).l4_down == {
        "e:1/tcp": "l4-1: "
    }
    assert not reports([node("l7", "l7-3", Step.SILENT)]).known


def test_members_that_nodes_have_learnt_are_there() -> None:
    group = {"name": "a", "registered": True, "members": [{"address": "10.0.0.1", "port": 1}]}
    model = from_dict({"availability_groups": [group]})
    found = resolved(model, [node("l7", "l7-1", members={"a": [{"address": "10.0.0.9", "port": 80}]})])
    assert [each.address for each in found.availability_groups["a"].members] == ["10.0.0.1", "10.0.0.9"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1.2.3.4", ("1.2.3.4", 0)),
        ("1.2.3.4:5", ("1.2.3.4", 5)),
        ("::1", ("::1", 0)),
        ("[::1]:5", ("::1", 5)),
        (":5", None),
    ],
)
def test_ends(text: str, found: tuple[str, int] | None) -> None:
    if found is None:
        with pytest.raises(ExplainError):
            end(text)
    else:
        assert end(text) == found


class Nodes:
    """Answers the questions of a plane, by role, name and kind."""

    def __init__(self, questions: Questions, answers: Mapping[tuple[str, str, str], Callable[[Any], object]]) -> None:
        self._questions, self._answers = questions, answers
        self.asked: list[tuple[str, str, object]] = []
        self._tasks = [asyncio.ensure_future(self._answer(*each)) for each in {key[:2] for key in answers}]

    async def _answer(self, role: str, name: str) -> None:
        while True:
            for each in await self._questions.poll(role, name, 20, lambda: True):
                kind = str(each["kind"])
                self.asked.append((name, kind, each["arguments"]))
                answer = self._answers.get((role, name, kind))
                said = {"error": "unknown"} if answer is None else {"answer": answer(each["arguments"])}
                self._questions.answered(role, name, {"id": each["id"], **said})

    async def __aenter__(self) -> Nodes:
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_a_flow_by_the_api_is_asked_of_a_node_that_has_the_seed(user: User) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    path = "/v1/explain?protocol=tcp&from=198.51.100.7:4242&to=192.0.2.2:80"
    found = await user.ask("GET", path)
    assert (found["outcome"], found["listener"], found["server"]) == ("forwarded", "tcp", "")
    async with Nodes(user.plane.questions, {("l4", "l4-1", "chosen"): lambda _: {"server": "10.0.1.2:80"}}) as nodes:
        found = await user.ask("GET", path)
    assert found["server"] == "10.0.1.2:80"
    assert "as l4-1 does" in str(found["steps"])
    assert nodes.asked == [
        ("l4-1", "chosen", {"protocol": "tcp", "client": "198.51.100.7:4242", "vip": "192.0.2.2:80"})
    ]


async def test_a_request_by_the_api_minds_reports_and_versions(user: User) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    sick = {"service": "b", "server": "10.0.1.1:80", "healthy": False, "why": "refused"}
    user.plane.report("l7", "l7-1", 1, None, {"health": [sick]})
    user.plane.report("l4", "l4-1", 1, None, {"health": []})
    path = "/v1/explain?url=http://a.test/&from=198.51.100.7:4242"
    async with Nodes(user.plane.questions, {("l4", "l4-1", "chosen"): lambda _: {"server": "10.0.0.32:80"}}):
        found = await user.ask("GET", path)
    assert (found["version"], found["server"], found["l7_node"]) == (1, "10.0.1.2:80", "10.0.0.32")
    assert "+ Via: 1.1 l7-2" in str(found["steps"])
    await user.ask("DELETE", "/v1/rules/old")
    assert (await user.ask("GET", "/v1/explain?url=http://a.test/old"))["rule"] == ""
    found = await user.ask("GET", "/v1/explain?url=http://a.test/old&version=1")
    assert (found["version"], found["location"]) == (1, "http://a.test/new")
    assert (await user.ask("GET", "/v1/explain?url=http://a.test/&header=X_y:%201&header=Host:%20b"))["status"] == 0
    await user.ask("GET", "/v1/explain?url=http://a.test/&version=9", status=404)


@pytest.mark.parametrize(
    "query",
    [
        "", "url=http://a/&protocol=tcp", "protocol=sctp&from=a&to=b", "protocol=tcp&from=1.2.3.4&to=192.0.2.2",
        "protocol=tcp&from=1.2.3.4:5&to=[2001:db8::1]:80", "url=nowhere", "protocol=tcp",
        "url=http://a/&header=X%0d%0aY",
    ],
)  # fmt: skip
async def test_questions_that_make_no_sense_are_refused(user: User, query: str) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    await user.ask("GET", f"/v1/explain?{query}", status=400)


async def test_who_only_reads_sees_no_requests_of_clients(user: User) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    user.token = await set_token(user.plane.store, "reader", ApiRole.READ)
    await user.ask("GET", "/v1/explain?protocol=tcp&from=198.51.100.7:1&to=192.0.2.2:80")
    await user.ask("GET", "/v1/explain/live?request_id=id-1", status=403)


async def test_what_lives_is_asked_of_all_nodes(user: User, capsys: pytest.CaptureFixture[str]) -> None:
    session = {
        "client": "198.51.100.7:4242", "vip": "192.0.2.1:80", "real": "10.0.0.31:80", "protocol": "tcp", "source": "",
        "state": "established", "packets": 9, "bytes": 999, "idle_s": 3, "synced": False,
    }  # fmt: skip
    connection = {
        "worker": 77, "listener": "web", "activity": "request", "age_s": 5.0, "requests": 4, "tls": "TLSv1.3",
        "method": "GET", "host": "a", "path": "/x", "request_id": "id-1", "rule": "r", "service": "b",
        "server": "10.0.1.1:80", "stage": "request sent, answer waiting", "bytes_in": 5, "bytes_out": 0, "busy_s": 1.0,
    }  # fmt: skip
    over = {"request_id": "id-1", "method": "GET", "host": "a", "path": "/x", "status": 502, "error_code": "cut",
            "error_source": "upstream", "upstream": "10.0.1.1:80"}  # fmt: skip
    answers: dict[tuple[str, str, str], Callable[[Any], object]] = {
        ("l4", "l4-1", "sessions"): lambda _: [session, {**session, "protocol": "udp"}],
        ("l4", "l4-2", "sessions"): lambda _: [{**session, "synced": True}],
        ("l7", "l7-1", "connections"): lambda _: [connection],
        ("l7", "l7-1", "request"): lambda _: {"connections": [], "requests": [over]},
        ("l7", "old", "nothing"): lambda _: None,
    }
    async with Nodes(user.plane.questions, answers) as nodes:
        found = await user.ask("GET", "/v1/explain/live?protocol=tcp&from=198.51.100.7:4242&to=192.0.2.1:80")
        assert [(row["node"], row["synced"]) for row in found["sessions"]] == [("l4-1", False), ("l4-2", True)]
        assert [row["node"] for row in found["connections"]] == ["l7-1"]
        assert found["silent"] == {"old": "old: unknown"}
        ends = {"client": "198.51.100.7", "client_port": 4242, "port": 80}
        assert ("l7-1", "connections", ends) in nodes.asked
        text = cli_explain.render_live(found)
        assert "l4-2: session established, learnt from a peer: 198.51.100.7:4242 → 192.0.2.1:80 → 10.0.0.31:80" in text
        assert "worker 77, listener web: request for a connection of 5.0 s, 4 requests so far, TLSv1.3" in text
        found = await user.ask("GET", "/v1/explain/live?request_id=id-1")
        text = cli_explain.render_live(found)
        assert "l7-1: None GET a/x: 502\n   upstream 10.0.1.1:80\n   upstream: cut: " in text
        found = await user.ask("GET", "/v1/explain/live?protocol=udp&from=198.51.100.7:4242&to=192.0.2.9:80")
        assert [row["protocol"] for row in found["sessions"]] == ["udp"]
        await user.ask("GET", "/v1/explain/live", status=400)
        await user.ask("GET", "/v1/explain/live?protocol=tcp&from=198.51.100.7&to=192.0.2.9", status=400)
    assert cli_explain.render_live({**found, "sessions": [], "asked": 4}).startswith("none of the 4 nodes")


def test_a_file_is_explained_with_its_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.json"
    site.write_text(json.dumps(SITE, indent=1))
    line = site.read_text().split("\n").index('   "name": "old",') + 0

    def told(*words: str, code: int = 0) -> str:
        assert cli.main(["explain", *words, "--file", str(site)]) == code
        return capsys.readouterr().out

    text = told("http://a.test/old")
    assert f"rule: old: domain any, path /old  [{site}:{line} rules/old]" in text
    assert text.endswith("→  301, to http://a.test/new\n")
    assert "there are http/80" in told("https://a.test/", code=1)
    found = json.loads(told("tcp", "198.51.100.7:4242", "192.0.2.2:80", "--json"))
    assert (found["listener"], found["candidates"]) == ("tcp", ["10.0.1.1:80", "10.0.1.2:80"])
    assert found["steps"][0]["line"] > 1
    key = tmp_path / "key"
    key.write_text(f"{bytes(32).hex()}\nseed {bytes(range(32)).hex()}\n")
    key.chmod(0o600)
    found = json.loads(told("tcp", "198.51.100.7:4242", "192.0.2.2:80", "--cluster-key", str(key), "--json"))
    assert found["server"] in found["candidates"]
    for words, why in (
        (("tcp", "198.51.100.7:4242"), "give both ends"),
        (("shop",), "give a URL"),
        (("tcp", "a", "b:1"), "is no IP address"),
        (("http://a.test/", "--cluster-key", "/nowhere/key"), "/nowhere/key"),
    ):
        assert cli.main(["explain", *words, "--file", str(site)]) == 2
        assert why in capsys.readouterr().err
