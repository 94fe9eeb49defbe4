"""Real handshakes while the first of two key servers hangs, lies or dies in the middle of them."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from certs.authority import private_pem
from control.node.files import write_atomic
from keyserver.client import KeyClient
from keyserver.errors import ErrorCode
from keyserver.protocol import CheckChain, Event, Failed, Message, Sign, Signed
from tests.keyserver.conftest import Serving
from tests.keyserver.test_client import Script, ScriptedServer, cutting, refusing, silent
from tests.proxy.test_tls import P256, RSA
from tests.proxy.tls_support import Served, certificate, get, serving

DEADLINE_S = 1.0


def garbage(event: Event) -> Sequence[Message | bytes | None]:
    return [b"\xff" * 64] if isinstance(event, Sign) else []


def half(event: Event) -> Sequence[Message | bytes | None]:
    """The beginning of an answer, and then nothing."""
    return [b"\0\0\0\x45\x82"] if isinstance(event, Sign) else []


def lying(event: Event) -> Sequence[Message | bytes | None]:
    return [Signed(event.request_id, b"0" * 70)] if isinstance(event, Sign) else []


def sound(script: Script) -> Script:
    """Misbehaves over signatures only, so that the node has its certificates at once."""

    def answer(event: Event) -> list[Message | bytes | None]:
        if isinstance(event, CheckChain):
            return [Failed(event.request_id, ErrorCode.BUSY)]
        return list(script(event))

    return answer


@asynccontextmanager
async def node(tmp_path: Path, *scripts: Script, real: bool) -> AsyncIterator[tuple[Served, list[ScriptedServer]]]:
    """A TLS server, whose key servers are these, and a real one at the end."""
    (tmp_path / "keys").mkdir(mode=0o700)
    for name, key in (("p256", P256), ("rsa", RSA)):
        write_atomic(tmp_path / "keys" / f"{name}.key", private_pem(key))
    scripted = [ScriptedServer(sound(script)) for script in scripts]
    for number, server in enumerate(scripted):
        await server.start(tmp_path / f"{number}")
    endpoints = [f"unix:{tmp_path / str(number)}" for number in range(len(scripts))]
    held = None
    if real:
        held = await Serving.begin(tmp_path / "keys", tmp_path / "audit", 1e6, frozenset({os.getuid()}))
        await held.server.listen_unix(tmp_path / "real")
        endpoints.append(f"unix:{tmp_path / 'real'}")
    client = KeyClient(endpoints, deadline_s=DEADLINE_S)
    await client.start()
    while not all(client.states().values()):
        await asyncio.sleep(0.005)
    try:
        certificates = [certificate(P256, ["web.test"]), certificate(RSA, ["rsa.test"], "rsa")]
        async with serving(client, certificates) as served:  # type: ignore[arg-type]
            yield served, scripted
    finally:
        await client.close()
        for server in scripted:
            await server.stop()
        if held is not None:
            await held.end()


@pytest.mark.parametrize("name", ["web.test", "rsa.test"])
@pytest.mark.parametrize(
    "script",
    [silent, cutting, garbage, half, refusing(ErrorCode.BUSY), refusing(ErrorCode.UNKNOWN_KEY)],
    ids=["silent", "cutting", "garbage", "half", "busy", "unknown"],
)
async def test_the_next_key_server_answers_in_the_same_handshake(tmp_path: Path, script: Script, name: str) -> None:
    async with node(tmp_path, script, real=True) as (served, (bad,)):
        for _ in range(2):
            assert "TLSv1.3" in await asyncio.to_thread(get, served.port, name)
        assert bad.signs, "it was asked, and did not help"
        assert await served.settled() == {"ok": 2}


@pytest.mark.parametrize("script", [silent, half], ids=["silent", "half"])
async def test_with_none_that_answers_clients_get_an_alert_in_time(tmp_path: Path, script: Script) -> None:
    async with node(tmp_path, script, script, real=False) as (served, both):
        with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
            await asyncio.to_thread(get, served.port)
        assert all(server.signs for server in both)
        assert (await served.settled())["failed_keyserver"] == 1


async def test_a_key_server_that_lies_costs_its_handshakes_only(tmp_path: Path) -> None:
    async with node(tmp_path, lying, real=True) as (served, (liar,)):
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(get, served.port)
        liar.script = sound(cutting)
        assert "TLSv1.3" in await asyncio.to_thread(get, served.port)
        assert (await served.settled())["ok"] == 1
