"""A TLS node in somebody else's hands: what it may ask for, for how long, and what its traffic is worth later."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from control.node.identity import Identity
from keyserver.client import KeyClient
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.grants import parse
from keyserver.keyfile import PrivateKey
from keyserver.protocol import Failed, Hello, Sign, Signed, encode
from tests.keyserver.conftest import TLS12, TLS13, StartServer, audited, events
from tests.keyserver.raw import RawClient
from tests.keyserver.test_policy import FORGED
from tests.keyserver.test_store import verify

MakeIdentity = Callable[[str, str], Identity]
SCHEMES = {"p256": 0x0403, "p384": 0x0503, "rsa": 0x0804, "ed25519": 0x0807}


def serial_of(identity: Identity) -> int:
    return x509.load_pem_x509_certificate((identity.directory / "cert.pem").read_bytes()).serial_number


@pytest.mark.parametrize("name", SCHEMES)
async def test_nothing_but_handshakes_is_signed(
    name: str, start_server: StartServer, identity: MakeIdentity, ids: dict[str, bytes], tmp_path: Path
) -> None:
    """Over mutual TLS, by every kind of key, of which RSA is in a worker; each attempt stands in the audit log."""
    server = await start_server()
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k"))
    client = await RawClient.tcp(port, identity("l7", "edge").client_context())
    for number, content in enumerate(FORGED.values(), 1):
        await client.send(Sign(number, ids[name], SCHEMES[name], "bank.test", content))
        assert await client.receive() == Failed(number, ErrorCode.REFUSED_SHAPE)
    lines = audited(tmp_path / "audit.log")
    assert [(line["client"], line["result"], line["shape"]) for line in lines] == [
        ("l7:edge", "refused_shape", "")
    ] * len(FORGED)
    await client.send(Sign(99, ids[name], SCHEMES[name], "bank.test", TLS13))
    assert isinstance(await client.receive(), Signed)
    await client.close()


async def test_a_frame_that_is_sent_again_is_a_request_like_any_other(
    start_server: StartServer,
    identity: MakeIdentity,
    ids: dict[str, bytes],
    keys: dict[str, PrivateKey],
    tmp_path: Path,
) -> None:
    """On its own connection it gets another signature of the same, and another line; the same id twice, two answers."""
    server = await start_server()
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k"))
    client = await RawClient.tcp(port, identity("l7", "edge").client_context())
    for name in ("p256", "rsa"):
        frame = encode(Sign(7, ids[name], SCHEMES[name], "", TLS12))
        await client.send(frame, frame, frame)
        for _ in range(3):
            reply = await client.receive()
            assert isinstance(reply, Signed)
            assert reply.request_id == 7
            verify(keys[name], SCHEMES[name], reply.signature, TLS12)
    assert len(audited(tmp_path / "audit.log")) == 6
    await client.send(Hello())
    assert await client.receive() == Failed(0, ErrorCode.UNKNOWN_REQUEST), "a greeting is not taken twice"
    await client.close()


class Relay:
    """Between a client and the server: keeps what passes, in both directions."""

    def __init__(self) -> None:
        self.sent, self.received = bytearray(), bytearray()

    @asynccontextmanager
    async def towards(self, port: int) -> AsyncIterator[int]:
        pumps: list[asyncio.Task[None]] = []

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
            while data := await reader.read(65536):
                kept += data
                writer.write(data)
            writer.close()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            for source, target, kept in ((reader, forth, self.sent), (back, writer, self.received)):
                pumps.append(asyncio.create_task(pump(source, target, kept)))

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await asyncio.gather(*pumps, return_exceptions=True)


async def test_traffic_that_was_recorded_is_worth_nothing(
    start_server: StartServer, identity: MakeIdentity, ids: dict[str, bytes], tmp_path: Path
) -> None:
    """What a node said over TLS, said once more to the key server, and what that answered, to the node."""
    server = await start_server()
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k"))
    edge, relay = identity("l7", "edge"), Relay()
    async with relay.towards(port) as between:
        client = await RawClient.tcp(between, edge.client_context("keyserver"))
        await client.send(Sign(1, ids["p256"], 0x0403, "", TLS13))
        assert isinstance(await client.receive(), Signed)
        await client.close()
    assert TLS13 not in relay.sent, "it was encrypted"
    assert len(audited(tmp_path / "audit.log")) == 1

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(relay.sent)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert len(answer) < len(relay.received), "a handshake that does not come to its end"
    assert len(audited(tmp_path / "audit.log")) == 1
    assert not server.connections

    async def replay(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(relay.received)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(replay, "127.0.0.1", 0) as impostor:
        address = impostor.sockets[0].getsockname()[1]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await RawClient.tcp(address, edge.client_context("keyserver"))


async def test_a_certificate_is_revoked_while_its_node_is_connected(
    start_server: StartServer, identity: MakeIdentity, ids: dict[str, bytes], tmp_path: Path
) -> None:
    """Its connections end at once, with what they had asked; a fresh certificate of the same name gets in."""
    server = await start_server()
    stolen, other = identity("l7", "edge"), identity("l7", "edge-2")
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k"))
    server.service.grants = parse('[[grants]]\nclients = ["l7:*"]\nkeys = ["*"]')
    contexts = {each.name: each.client_context() for each in (stolen, other)}
    old, bystander = [await RawClient.tcp(port, context) for context in contexts.values()]
    for client in (old, bystander):
        await client.send(Sign(1, ids["rsa"], 0x0804, "", TLS13))
        assert isinstance(await client.receive(), Signed)

    server.service.grants = parse(f'revoked = ["{serial_of(stolen):X}"]\n[[grants]]\nclients = ["l7:*"]\nkeys = ["*"]')
    server.cut_off()
    await old.send(Sign(2, ids["rsa"], 0x0804, "", TLS13))
    assert await old.receive() == Failed(0, ErrorCode.REFUSED_CLIENT)
    assert await old.receive() is None
    late = await RawClient.tcp(port, contexts["edge"], greet=False)
    assert await late.receive() == Failed(0, ErrorCode.REFUSED_CLIENT)
    why = f"the policy has revoked the certificate {serial_of(stolen):X} of l7:edge"
    assert [(line["event"], line["why"]) for line in events(tmp_path / "audit.log") if "client" in line["event"]] == [
        ("client_cut_off", why), ("client_refused", why),
    ]  # fmt: skip

    renewed = await RawClient.tcp(port, identity("l7", "edge").client_context())
    for client in (bystander, renewed):
        await client.send(Sign(3, ids["rsa"], 0x0804, "", TLS13))
        assert isinstance(await client.receive(), Signed)
    assert [line["result"] for line in audited(tmp_path / "audit.log")] == ["ok"] * 4
    for client in (old, bystander, late, renewed):
        await client.close()


async def test_what_a_revoked_node_had_asked_for_fails_in_time(
    start_server: StartServer, identity: MakeIdentity, ids: dict[str, bytes]
) -> None:
    """As the node's own client sees it, which comes again and again."""
    server = await start_server()
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k"))
    client = KeyClient([f"127.0.0.1:{port}"], identity=identity("l7", "edge"), deadline_s=1.0)
    await client.start()
    assert await client.sign(ids["p256"], 0x0403, TLS13, "")
    server.service.grants = parse('[[grants]]\nclients = ["l7:others"]\nkeys = ["*"]')
    asked = [asyncio.ensure_future(client.sign(ids["rsa"], 0x0804, TLS13, "")) for _ in range(20)]
    await asyncio.sleep(0)
    server.cut_off()
    results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
    assert all(isinstance(each, KeyServerError) for each in results)
    assert not client.connected
    await client.close()
