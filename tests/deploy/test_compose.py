"""The docker-compose stack as far as it can be checked without an engine; `make compose-test` runs it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from core.config import load
from core.model import Role
from deploy.compose import load as compose_load

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
# What root in a container may be asked for; each container names what it needs of it.
KNOWN = {"BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "NET_BROADCAST", "NET_BIND_SERVICE", "KILL", "CHOWN",
         "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID", "SETPCAP"}  # fmt: skip


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return dict(yaml.safe_load((COMPOSE / "compose.yaml").read_text()))


def address_of(service: dict[str, Any]) -> str:
    return str(service.get("networks", {}).get("cluster", {}).get("ipv4_address", ""))


def test_the_configuration_names_the_containers_by_their_addresses(stack: dict[str, Any]) -> None:
    model = load((COMPOSE / "site.toml").read_text(), path="site.toml", format="toml")
    services = stack["services"]
    for node in model.nodes.values():
        container = "keyserver" if node.role is Role.KEYSERVER else node.name
        assert node.address == address_of(services[container]), node
        assert services["setup"]["environment"][f"ADDRESS_{node.name.replace('-', '_')}"] == node.address
    servers = {server.address for group in model.server_groups.values() for server in group.servers}
    assert servers == {address_of(services[name]) for name in ("be-1", "be-2", "be-3")}
    for name in ("be-1", "be-2", "be-3"):
        words = services[name]["command"]
        assert words[words.index("--address") + 1] == address_of(services[name])
    (vip,) = {vip for instance in model.instances.values() for vip in instance.vips}
    assert {services[name]["environment"]["VIP"] for name in ("l7-1", "l7-2", "client")} == {vip}


def test_no_container_is_privileged(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert set(service.get("cap_add", ())) <= KNOWN, name
        assert service["read_only"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        if "user" not in service:
            assert "cap_add" not in service, f"{name}: the image's user needs none"


def test_each_long_running_part_of_the_cluster_is_watched(stack: dict[str, Any]) -> None:
    demo = {"setup", "configure", "be-1", "be-2", "be-3", "router", "client"}
    for name, service in stack["services"].items():
        assert ("healthcheck" in service) == (name not in demo), name


def test_the_entry_point_is_a_shell_script_that_knows_every_role(stack: dict[str, Any]) -> None:
    start = COMPOSE / "start"
    assert subprocess.run(["sh", "-n", str(start)], check=False).returncode == 0
    assert start.stat().st_mode & 0o111
    text = start.read_text()
    for service in stack["services"].values():
        role = service["command"][0]
        assert f"\n{role})" in text or role in ("control", "keyserver"), role


async def test_the_load_tells_answers_from_failures(unused_tcp_port: int) -> None:
    seen = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        return web.Response(status=503 if seen == 1 else 200)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    try:
        told = await compose_load.run(f"http://127.0.0.1:{unused_tcp_port}/", None, 0.3, 1)
    finally:
        await runner.cleanup()
    assert told == {"answered": seen - 1, "failed": [(told["failed"][0][0], "status 503")]}  # type: ignore[index]
    assert seen > 1


async def test_a_server_that_is_not_there(unused_tcp_port: int) -> None:
    told = await compose_load.run(f"http://127.0.0.1:{unused_tcp_port}/", None, 0.05, 1)
    assert told["answered"] == 0
    assert told["failed"]
