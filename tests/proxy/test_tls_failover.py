"""Real handshakes while the first of two key servers hangs, lies or dies in the middle of them."""

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from certs.authority import private_pem
from control.node.children import Child
from control.node.files import write_atomic
from keyserver.client import KeyClient
from keyserver.errors import ErrorCode
from keyserver.grants import parse
from keyserver.protocol import CheckChain, Event, Failed, Message, Sign, Signed
from tests.keyserver.conftest import Serving
from tests.keyserver.test_client import Script, ScriptedServer, cutting, refusing, silent
from tests.proxy.test_tls import P256, P384, RSA
from tests.proxy.tls_support import Served, certificate, client_context, get, key_id, new_key, serving, sign

DEADLINE_S = 1.0
KEYS = {key_id(key): key for key in (P256, RSA)}
OTHERS = {key_id(P256): new_key("P-256", 1), key_id(RSA): new_key("RSA", 1)}


def garbage(event: Event) -> Sequence[Message | bytes | None]:
    return [b"\xff" * 64] if isinstance(event, Sign) else []


def half(event: Event) -> Sequence[Message | bytes | None]:
    """The beginning of an answer, and then nothing."""
    return [b"\0\0\0\x45\x82"] if isinstance(event, Sign) else []


def lying(signature: Callable[[Sign], bytes]) -> Script:
    """Answers at once, and wrongly."""
    return lambda event: [Signed(event.request_id, signature(event))] if isinstance(event, Sign) else []


def by_another_key(asked: Sign) -> bytes:
    """Well formed in every way, but for whose it is."""
    return sign(OTHERS[asked.key_id], asked.scheme, asked.content)


def of_something_else(asked: Sign) -> bytes:
    """By the right key, of another handshake."""
    return sign(KEYS[asked.key_id], asked.scheme, asked.content[:-32] + bytes(32))


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
            client.held = held  # type: ignore[attr-defined]
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


LIES: dict[str, Callable[[Sign], bytes]] = {
    "by another key": by_another_key,
    "of something else": of_something_else,
    "nothing": lambda _: b"",
    "a byte": lambda _: b"0",
    "the beginning of one": lambda asked: sign(KEYS[asked.key_id], asked.scheme, asked.content)[:-1],
    "one and more": lambda asked: sign(KEYS[asked.key_id], asked.scheme, asked.content) + b"0",
    "zeros": lambda asked: bytes(70 if asked.scheme == 0x0403 else 256),
    "far too long": lambda _: b"0" * 60_000,
}


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("name", ["web.test", "rsa.test"])
@pytest.mark.parametrize("lie", LIES)
async def test_a_key_server_that_lies_costs_one_handshake(
    tmp_path: Path, lie: str, name: str, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client ends it, or is told; the node finds out whose fault it was, and asks the next one from then on."""
    async with node(tmp_path, lying(LIES[lie]), real=True) as (served, (liar,)):
        context = client_context(version)
        with pytest.raises(ssl.SSLError, match=r"BAD_SIGNATURE|ALERT_INTERNAL_ERROR"):
            await asyncio.to_thread(get, served.port, name, context)
        while served.tls.counters()["in_flight"]:
            await asyncio.sleep(0.005)
        for _ in range(2):
            assert f"TLSv{version}" in await asyncio.to_thread(get, served.port, name, context)
        assert await served.settled() == {"failed_keyserver": 1, "ok": 2}
        assert len(liar.signs) == 1
    assert f"key server unix:{tmp_path / '0'}: gave a wrong signature" in caplog.text


async def test_with_no_other_to_ask_a_liar_is_asked_again(tmp_path: Path) -> None:
    async with node(tmp_path, lying(by_another_key), real=False) as (served, (liar,)):
        for _ in range(2):
            with pytest.raises(ssl.SSLError):
                await asyncio.to_thread(get, served.port)
        assert (await served.settled())["failed_keyserver"] == 2
        liar.script = sound(lying(lambda asked: sign(KEYS[asked.key_id], asked.scheme, asked.content)))
        assert "TLSv1.3" in await asyncio.to_thread(get, served.port)


async def test_a_liar_is_trusted_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyserver.client.DISTRUST_S", 0.0)
    async with node(tmp_path, lying(by_another_key), real=True) as (served, (liar,)):
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(get, served.port)
        await served.settled()
        liar.script = sound(lying(lambda asked: sign(KEYS[asked.key_id], asked.scheme, asked.content)))
        assert "TLSv1.3" in await asyncio.to_thread(get, served.port)
        assert len(liar.signs) == 2


async def test_replies_to_each_other_are_wrong_for_both(tmp_path: Path) -> None:
    """Each of two handshakes gets the other's signature: both fail, and what comes after them does not."""
    held: list[Sign] = []

    def crossing(event: Event) -> list[Message | bytes | None]:
        if isinstance(event, Sign):
            held.append(event)
        if len(held) != 2 or not isinstance(event, Sign):
            return []
        one, other = ((each.request_id, sign(KEYS[each.key_id], each.scheme, each.content)) for each in held)
        return [Signed(one[0], other[1]), Signed(other[0], one[1])]

    async with node(tmp_path, crossing, real=True) as (served, _):
        results = await asyncio.gather(*(asyncio.to_thread(get, served.port) for _ in range(2)), return_exceptions=True)
        assert all(isinstance(each, ssl.SSLError) for each in results)
        await served.settled()
        assert "TLSv1.3" in await asyncio.to_thread(get, served.port)
        assert await served.settled() == {"failed_keyserver": 2, "ok": 1}


async def test_clients_that_turn_us_down_are_not_the_key_servers_fault(tmp_path: Path) -> None:
    async with node(tmp_path, real=True) as (served, _):
        for version in ("1.2", "1.3"):
            stranger = client_context(version, trust=certificate(P384, ["web.test"]).chain)
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.to_thread(get, served.port, "web.test", stranger)
        assert await served.settled() == {"failed_alert": 2}


@asynccontextmanager
async def processes(tmp_path: Path) -> AsyncIterator[tuple[Served, list[Child]]]:
    """A TLS server with two key servers that are processes of their own."""
    (tmp_path / "keys").mkdir(mode=0o700)
    for name, key in (("p256", P256), ("rsa", RSA)):
        write_atomic(tmp_path / "keys" / f"{name}.key", private_pem(key))
    children = []
    client = KeyClient([f"unix:{tmp_path / str(number)}" for number in range(2)], deadline_s=DEADLINE_S)
    try:
        for number in range(2):
            argv = [sys.executable, "-m", "keyserver", "--keys", str(tmp_path / "keys"), "--metrics", "off"]
            argv += ["--socket", str(tmp_path / str(number)), "--no-ocsp"]
            log = tmp_path / f"{number}.log"
            children.append(Child.start(f"keyserver-{number}", argv, log=log, notify_dir=tmp_path))
            await asyncio.to_thread(children[-1].wait_ready, 30)
        await client.start()
        while not all(client.states().values()):
            await asyncio.sleep(0.005)
        certificates = [certificate(P256, ["web.test"]), certificate(RSA, ["rsa.test"], "rsa")]
        async with serving(client, certificates) as served:  # type: ignore[arg-type]
            yield served, children
    finally:
        await client.close()
        for child in children:
            child.signal(signal.SIGCONT)
            await asyncio.to_thread(child.terminate, 10)


async def in_flight(served: Served, count: int) -> None:
    while served.tls.counters()["in_flight"] < count:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", ["web.test", "rsa.test"])
async def test_a_key_server_is_killed_in_mid_handshake(tmp_path: Path, name: str) -> None:
    """It is stopped first, so that handshakes wait for it; then it dies, and the other one answers them."""
    async with processes(tmp_path) as (served, (first, second)):
        first.signal(signal.SIGSTOP)
        clients = [asyncio.create_task(asyncio.to_thread(get, served.port, name)) for _ in range(5)]
        await in_flight(served, 5)
        first.signal(signal.SIGKILL)
        assert all("TLSv1.3" in answer for answer in await asyncio.gather(*clients))
        second.signal(signal.SIGKILL)
        await asyncio.to_thread(second.terminate, 10)
        with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
            await asyncio.to_thread(get, served.port, name)
        assert await served.settled() == {"failed_keyserver": 1, "ok": 5}


async def test_key_servers_that_are_stopped_cost_an_alert_in_time(tmp_path: Path) -> None:
    async with processes(tmp_path) as (served, children):
        for child in children:
            child.signal(signal.SIGSTOP)
        with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
            await asyncio.wait_for(asyncio.to_thread(get, served.port), 20 * DEADLINE_S)
        for child in children:
            child.signal(signal.SIGCONT)
        while not served.keys.connected:  # type: ignore[attr-defined]
            await asyncio.sleep(0.005)
        assert "TLSv1.3" in await asyncio.to_thread(get, served.port)


async def test_clients_of_a_node_that_was_revoked_get_an_alert(tmp_path: Path) -> None:
    async with node(tmp_path, real=True) as (served, _):
        assert "TLSv1.3" in await asyncio.to_thread(get, served.port)
        held = served.keys.held  # type: ignore[attr-defined]
        held.server.service.grants = parse('[[grants]]\nclients = ["l7:others"]\nkeys = ["*"]')
        held.server.cut_off()
        for name in ("web.test", "rsa.test"):
            with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
                await asyncio.to_thread(get, served.port, name)
        held.server.service.grants = parse('[[grants]]\nclients = ["*"]\nkeys = ["p256"]\ntls = ["1.3"]')
        while not served.keys.connected:  # type: ignore[attr-defined]
            await asyncio.sleep(0.005)
        assert "TLSv1.3" in await asyncio.to_thread(get, served.port)
        for name, version in (("rsa.test", "1.3"), ("web.test", "1.2")):  # another key, another version
            with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
                await asyncio.to_thread(get, served.port, name, client_context(version))
        assert await served.settled() == {"failed_keyserver": 4, "ok": 2}
