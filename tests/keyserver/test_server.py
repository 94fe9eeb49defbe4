"""The server end to end, on a unix socket and on TCP: who gets in, what is answered, what a bad client cannot do."""

import asyncio
import json
import os
import socket
import ssl
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import Authority, private_pem
from control.node.files import write_atomic
from control.node.identity import Identity
from keyserver import connection as connection_module
from keyserver import crew as crew_module
from keyserver import server as server_module
from keyserver.errors import ErrorCode, StartError
from keyserver.grants import parse
from keyserver.keyfile import PrivateKey
from keyserver.policy import Access
from keyserver.protocol import (
    MAX_CHAIN_BYTES,
    ChainChecked,
    CheckChain,
    Failed,
    Goodbye,
    Hello,
    Message,
    Ping,
    Pong,
    Sign,
    Signed,
    client_side,
    encode,
)
from tests.keyserver.conftest import TLS13, Serving, StartServer
from tests.keyserver.raw import RawClient
from tests.keyserver.test_store import verify

MakeIdentity = Callable[[str, str], Identity]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.sock"


def raw_frame(tag: int, body: bytes = b"", request_id: int = 5) -> bytes:
    return (5 + len(body)).to_bytes(4, "big") + bytes([tag]) + request_id.to_bytes(4, "big") + body


async def test_signatures_on_a_unix_socket(
    path: Path, start_server: StartServer, keys: dict[str, PrivateKey], ids: dict[str, bytes], tmp_path: Path
) -> None:
    await start_server(path)
    client = await RawClient.unix(path)
    schemes = {"p256": 0x0403, "p384": 0x0503, "rsa": 0x0804, "ed25519": 0x0807}
    for number, (name, scheme) in enumerate(schemes.items(), 1):
        await client.send(Sign(number, ids[name], scheme, "a.test", TLS13))
        reply = await client.receive()
        assert isinstance(reply, Signed)
        assert reply.request_id == number
        verify(keys[name], scheme, reply.signature, TLS13)
        lines = (tmp_path / "audit.log").read_text().splitlines()
        assert len(lines) == number, "the line is there when the reply is"
        assert json.loads(lines[-1])["client"] == f"uid:{os.getuid()}"
    await client.close()


async def test_quick_replies_overtake_slow_ones(path: Path, start_server: StartServer, ids: dict[str, bytes]) -> None:
    await start_server(path)
    client = await RawClient.unix(path)
    slow = [Sign(n, ids["rsa"], 0x0804, "", TLS13) for n in range(1, 21)]
    quick = [Sign(n, ids["p256"], 0x0403, "", TLS13) for n in range(21, 41)]
    await client.send(*slow, *quick, Ping(41))
    order = []
    for _ in range(41):
        reply = await client.receive()
        assert isinstance(reply, Signed | Pong)
        order.append(reply.request_id)
    assert sorted(order) == list(range(1, 42))
    assert order[:20] == list(range(21, 41))
    assert order.index(41) == 20
    await client.close()


async def test_mutual_tls(
    start_server: StartServer, identity: MakeIdentity, ids: dict[str, bytes], tmp_path: Path
) -> None:
    server = await start_server()
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k1"))
    client = await RawClient.tcp(port, identity("l7", "l7-1").client_context("keyserver"))
    await client.send(Sign(1, ids["p256"], 0x0403, "a.test", TLS13))
    assert isinstance(await client.receive(), Signed)
    assert json.loads((tmp_path / "audit.log").read_text())["client"] == "l7:l7-1"
    await client.close()


@pytest.mark.parametrize("role", ["l4", "keyserver", "control"])
async def test_nodes_of_other_roles_are_refused(start_server: StartServer, identity: MakeIdentity, role: str) -> None:
    server = await start_server()
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k1"))
    client = await RawClient.tcp(port, identity(role, "x").client_context(), greet=False)
    await client.send(Hello())
    assert await client.receive() == Failed(0, ErrorCode.REFUSED_CLIENT)
    while (event := await client.receive()) is not None:
        assert "Broken" in type(event).__name__
    assert server.service.counters["refused_client"] == 1
    await client.close()


async def test_nodes_that_are_not_named_are_refused(
    start_server: StartServer, identity: MakeIdentity, ids: dict[str, bytes]
) -> None:
    server = await start_server()
    server.access = Access(frozenset(), frozenset({"good"}))
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k1"))
    good = await RawClient.tcp(port, identity("l7", "good").client_context())
    await good.send(Sign(1, ids["p256"], 0x0403, "a.test", TLS13))
    assert isinstance(await good.receive(), Signed)
    bad = await RawClient.tcp(port, identity("l7", "bad").client_context(), greet=False)
    assert await bad.receive() == Failed(0, ErrorCode.REFUSED_CLIENT)
    for client in (good, bad):
        await client.close()


async def test_a_node_that_is_revoked_by_the_control_planes_word_is_cut_off(
    start_server: StartServer, identity: MakeIdentity, ids: dict[str, bytes]
) -> None:
    server = await start_server()
    own = identity("keyserver", "k1")
    port = await server.listen_tcp("127.0.0.1", 0, own)
    one = await RawClient.tcp(port, identity("l7", "one").client_context())
    other = await RawClient.tcp(port, identity("l7", "other").client_context())
    own.refuse({"l7/one": 1})
    server.cut_off()
    assert await one.receive() == Failed(0, ErrorCode.REFUSED_CLIENT)
    await other.send(Sign(1, ids["p256"], 0x0403, "a.test", TLS13))
    assert isinstance(await other.receive(), Signed)
    again = await RawClient.tcp(port, identity("l7", "one").client_context(), greet=False)
    assert await again.receive() == Failed(0, ErrorCode.REFUSED_CLIENT)
    for client in (one, other, again):
        await client.close()


async def test_a_client_is_revoked(path: Path, start_server: StartServer, ids: dict[str, bytes]) -> None:
    server = await start_server(path)
    mine, nobodys = (parse(f'[[grants]]\nclients = ["{c}"]\nkeys = ["*"]') for c in (f"uid:{os.getuid()}", "l7:x"))
    server.service.grants = mine
    client, other = await RawClient.unix(path), await RawClient.unix(path)
    server.cut_off()
    await client.send(Sign(1, ids["p256"], 0x0403, "", TLS13))
    assert isinstance(await client.receive(), Signed)
    server.service.grants = nobodys
    server.cut_off()
    for each in (client, other):
        assert await each.receive() == Failed(0, ErrorCode.REFUSED_CLIENT)
        assert await each.receive() is None
        await each.close()
    late = await RawClient.unix(path, greet=False)
    await late.send(Hello(), Sign(1, ids["p256"], 0x0403, "", TLS13))
    assert await late.receive() == Failed(0, ErrorCode.REFUSED_CLIENT)
    assert server.service.counters["refused_client"] == 3
    assert server.service.counters["ec-p256"] == 1
    await late.close()


async def test_a_chain_whose_key_is_not_for_this_client(
    path: Path, start_server: StartServer, ca: Authority, keys: dict[str, PrivateKey]
) -> None:
    server = await start_server(path)
    server.service.grants = parse('[[grants]]\nclients = ["*"]\nkeys = ["rsa"]')
    client = await RawClient.unix(path)
    for number, (name, problems) in enumerate({"rsa": 0, "p256": 1}.items(), 1):
        await client.send(CheckChain(number, ca.issue_leaf(keys[name].public_key(), ["a.test"]).decode()))
        reply = await client.receive()
        assert isinstance(reply, ChainChecked)
        assert len(reply.report.problems) == problems
    await client.close()


async def refused_by_tls(port: int, context: ssl.SSLContext) -> None:
    """In TLS 1.3 the client has done its part before the server judges it, so the refusal may come a moment later."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except (ssl.SSLError, ConnectionError):
        return
    try:
        writer.write(encode(Hello()))
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_strangers_are_refused_by_tls(start_server: StartServer, identity: MakeIdentity, tmp_path: Path) -> None:
    server = await start_server()
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k1"))
    Authority.init(tmp_path / "foreign").issue_node("l7", "l7-1").write(tmp_path / "stranger")
    foreign = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    foreign.check_hostname = False
    foreign.verify_mode = ssl.CERT_NONE
    foreign.load_cert_chain(tmp_path / "stranger" / "cert.pem", tmp_path / "stranger" / "key.pem")
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.verify_mode = ssl.CERT_NONE
    old = identity("l7", "l7-1").client_context()
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    for context in (foreign, nobody, old):
        await refused_by_tls(port, context)
    assert not server.connections


@pytest.mark.root
async def test_other_users_are_refused(start_server: StartServer, ids: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(prefix="pft-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "keys.sock"
        server = await start_server(path, uids=frozenset({65533}))
        path.chmod(0o666)  # the kernel lets everyone through: the server has to judge
        assert await asyncio.to_thread(greet_as, 65534, path) == Failed(0, ErrorCode.REFUSED_CLIENT)
        assert await asyncio.to_thread(greet_as, 0, path) == Failed(0, ErrorCode.REFUSED_CLIENT)
        assert not isinstance(await asyncio.to_thread(greet_as, 65533, path), Failed)
        assert server.service.counters["refused_client"] == 2


def greet_as(uid: int, path: Path) -> object:
    """The first event that the server sends to a process of `uid`."""
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(encode(Hello()))
                there.sendall(sock.recv(100))
        finally:
            os._exit(0)
    there.close()
    with here:
        data = here.recv(100)
    os.waitpid(child, 0)
    wire = client_side()
    wire.receive_data(data)
    return wire.events()[0]


async def test_the_socket_file(path: Path, start_server: StartServer) -> None:
    first = await start_server(path)
    status = path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660
    client = await RawClient.unix(path)
    await start_server(path)
    assert path.stat().st_ino != status.st_ino, "a successor takes the path over"
    await client.send(Ping(1))
    assert await client.receive() == Pong(1), "and the predecessor keeps its connections"
    await client.close()
    await first.drain(1)
    again = await RawClient.unix(path)
    await again.close()
    assert sorted(p.name for p in path.parent.iterdir()) == ["audit.log", "keys", "keys.sock"]


async def test_the_socket_file_goes_with_its_server(path: Path, start_server: StartServer) -> None:
    server = await start_server(path)
    await server.drain(1)
    assert not path.exists()


async def test_where_it_cannot_listen(tmp_path: Path, start_server: StartServer, identity: MakeIdentity) -> None:
    server = await start_server()
    (tmp_path / "file").write_text("precious")
    bad = {"file": "no socket is there", "no/directory": "No such file", "x" * 120: "too long"}
    for name, why in bad.items():
        with pytest.raises(StartError, match=why):
            await server.listen_unix(tmp_path / name)
    with pytest.raises(StartError, match="no group pft-nobody"):
        await server.listen_unix(tmp_path / "sock", "pft-nobody")
    assert (tmp_path / "file").read_text() == "precious"
    assert not list(tmp_path.glob(".*"))
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k"))
    with pytest.raises(StartError, match=rf"cannot listen on 127.0.0.1:{port}: .*in use"):
        await server.listen_tcp("127.0.0.1", port, identity("keyserver", "k"))


async def test_malformed_frames_cost_their_request_only(
    path: Path, start_server: StartServer, ids: dict[str, bytes]
) -> None:
    server = await start_server(path)
    client = await RawClient.unix(path)
    await client.send(
        raw_frame(0x02, b"short"), raw_frame(0x77), raw_frame(0x04, b"!"), Sign(9, ids["p256"], 0x0403, "", TLS13)
    )
    assert await client.receive() == Failed(5, ErrorCode.MALFORMED)
    assert await client.receive() == Failed(5, ErrorCode.UNKNOWN_REQUEST)
    assert await client.receive() == Failed(5, ErrorCode.MALFORMED)
    assert isinstance(await client.receive(), Signed)
    assert server.service.counters["malformed"] == 2
    assert server.service.counters["unknown_request"] == 1
    await client.close()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), os.urandom(4096), encode(Ping(1))])
async def test_who_does_not_speak_the_protocol_is_shown_out(
    path: Path, start_server: StartServer, garbage: bytes
) -> None:
    server = await start_server(path)
    good = await RawClient.unix(path)
    bad = await RawClient.unix(path, greet=False)
    await bad.send(garbage)
    assert await bad.receive() == Failed(0, ErrorCode.MALFORMED)
    await bad.receive()
    assert await bad.receive() is None
    assert server.service.counters["broken_connection"] == 1
    await good.send(Ping(1))
    assert await good.receive() == Pong(1)
    await bad.close()
    await good.close()


async def test_a_version_not_in_common(path: Path, start_server: StartServer) -> None:
    await start_server(path)
    client = await RawClient.unix(path, greet=False)
    await client.send(Hello(2, 9))
    assert await client.receive() == Failed(0, ErrorCode.UNSUPPORTED_VERSION)
    await client.close()


async def test_who_never_greets_is_cut(path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "GREETING_DEADLINE_S", 0.05)
    server = await start_server(path)
    client = await RawClient.unix(path, greet=False)
    assert await client.receive() is None
    assert server.service.counters["greeting_timeout"] == 1
    await client.close()


async def test_too_many_connections(path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    await start_server(path)
    clients = [await RawClient.unix(path) for _ in range(2)]
    late = await RawClient.unix(path, greet=False)
    assert await late.receive() == Failed(0, ErrorCode.BUSY)
    await clients.pop().close()
    await asyncio.sleep(0.01)
    clients += [await RawClient.unix(path), late]
    for client in clients:
        await client.close()


async def test_the_rsa_queue_is_bounded(
    path: Path, start_server: StartServer, ids: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_IN_FLIGHT", 8)
    await start_server(path)
    client = await RawClient.unix(path)
    await client.send(*(Sign(n, ids["rsa"], 0x0804, "", TLS13) for n in range(1, 41)))
    replies = [await client.receive() for _ in range(40)]
    busy = [r for r in replies if isinstance(r, Failed)]
    assert {r.code for r in busy} == {ErrorCode.BUSY}
    assert len(busy) == 32
    assert sum(isinstance(r, Signed) for r in replies) == 8
    await client.send(Sign(50, ids["rsa"], 0x0804, "", TLS13))
    assert isinstance(await client.receive(), Signed), "places are given back"
    await client.close()


async def test_one_client_leaves_room_for_others(
    path: Path,
    start_server: StartServer,
    identity: MakeIdentity,
    ids: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many connections it spreads its requests over."""
    monkeypatch.setattr(connection_module, "MAX_CLIENT_IN_FLIGHT", 10)
    monkeypatch.setattr(connection_module, "MAX_CLIENT_CONNECTIONS", 3)
    server = await start_server(path)
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k1"))
    greedy = [await RawClient.unix(path) for _ in range(3)]
    late = await RawClient.unix(path, greet=False)
    await late.send(Hello())
    assert await late.receive() == Failed(0, ErrorCode.BUSY)
    await late.close()
    other = await RawClient.tcp(port, identity("l7", "l7-1").client_context("keyserver"))
    for client in greedy:
        await client.send(*(Sign(n, ids["rsa"], 0x0804, "", TLS13) for n in range(1, 41)))
    while sum(server.in_flight.values()) < 10:
        await asyncio.sleep(0)
    await other.send(Sign(1, ids["rsa"], 0x0804, "", TLS13))
    assert isinstance(await other.receive(), Signed)
    replies = [await client.receive() for client in greedy for _ in range(40)]
    assert {r.code for r in replies if isinstance(r, Failed)} == {ErrorCode.BUSY}
    assert sum(isinstance(r, Signed) for r in replies) >= 10
    await greedy[0].send(Sign(50, ids["rsa"], 0x0804, "", TLS13))
    assert isinstance(await greedy[0].receive(), Signed), "places are given back"
    for client in (*greedy, other):
        await client.close()
    while server.connections:
        await asyncio.sleep(0.005)
    assert +server.clients == +server.in_flight == {}


async def test_who_waited_too_long_is_told_so(
    path: Path, start_server: StartServer, ids: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "QUEUE_DEADLINE_S", -1.0)
    await start_server(path)
    client = await RawClient.unix(path)
    await client.send(Sign(1, ids["rsa"], 0x0804, "", TLS13))
    assert await client.receive() == Failed(1, ErrorCode.BUSY)
    await client.close()


async def test_requests_of_a_client_that_left_are_not_served(
    path: Path, start_server: StartServer, ids: dict[str, bytes]
) -> None:
    server = await start_server(path)
    client = await RawClient.unix(path)
    await client.send(*(Sign(n, ids["rsa"], 0x0804, "", TLS13) for n in range(1, 301)))
    (connection,) = server.connections
    while connection.in_flight < 200:
        await asyncio.sleep(0)
    client.writer.transport.abort()
    other = await RawClient.unix(path)
    await other.send(Sign(1, ids["rsa"], 0x0804, "", TLS13))
    assert isinstance(await other.receive(), Signed)
    assert server.service.counters["rsa"] < 200
    await other.close()


async def test_a_flood_whose_replies_are_not_read_is_bounded(
    path: Path, start_server: StartServer, ids: dict[str, bytes]
) -> None:
    """A client that pipelines for ever and reads nothing is not read from either, and does not hinder others."""
    server = await start_server(path)
    flood = await RawClient.unix(path)
    good = await RawClient.unix(path)
    frames = b"".join(encode(Ping(n)) for n in range(1, 20_001))
    sock = flood.writer.get_extra_info("socket")
    sent = stalled = 0
    while stalled < 20 and sent < 50_000_000:
        try:
            sent += os.write(sock.fileno(), frames[sent % len(frames) :])
            stalled = 0
        except BlockingIOError:
            stalled += 1
        await asyncio.sleep(0.005)
    assert stalled == 20, "the server goes on reading what it cannot answer"
    (held,) = [c for c in server.connections if c._choked]
    assert held._backlog, "it stops serving, too"
    assert held.transport.get_write_buffer_size() < 1 << 20
    assert len(held._backlog) < 1 << 16
    await good.send(Sign(1, ids["p256"], 0x0403, "", TLS13))
    assert isinstance(await good.receive(), Signed)
    await good.close()
    pongs = 0
    while pongs < 50_000:
        assert isinstance(await flood.receive(), Pong)
        pongs += 1
    await flood.close()


async def test_a_client_is_held_to_its_rate(path: Path, start_server: StartServer, ids: dict[str, bytes]) -> None:
    server = await start_server(path, rate=5)
    client = await RawClient.unix(path)
    await client.send(*(Sign(n, ids["p256"], 0x0403, "", TLS13) for n in range(1, 101)))
    replies = [await client.receive() for _ in range(100)]
    limited = [r for r in replies if r == Failed(getattr(r, "request_id", 0), ErrorCode.RATE_LIMITED)]
    assert 90 <= len(limited) <= 95
    assert server.service.counters["rate_limited"] == len(limited)
    await client.close()


async def test_chain_checks(
    path: Path, start_server: StartServer, ca: Authority, keys: dict[str, PrivateKey], ids: dict[str, bytes]
) -> None:
    await start_server(path)
    client = await RawClient.unix(path)
    good = ca.issue_leaf(keys["rsa"].public_key(), ["a.test"]).decode()
    await client.send(CheckChain(1, good), CheckChain(2, "x" * MAX_CHAIN_BYTES))
    first, second = await client.receive(), await client.receive()
    assert isinstance(first, ChainChecked)
    assert (first.report.key_id, first.report.problems) == (ids["rsa"], ())
    assert isinstance(second, ChainChecked)
    assert second.report.problems
    await client.close()


async def test_chain_checks_are_bounded(path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CHAINS", 2)
    await start_server(path)
    client = await RawClient.unix(path)
    await client.send(*(CheckChain(n, "x") for n in range(1, 11)))
    replies = [await client.receive() for _ in range(10)]
    assert {r.code for r in replies if isinstance(r, Failed)} == {ErrorCode.BUSY}
    assert any(isinstance(r, ChainChecked) for r in replies)
    await client.close()


async def test_a_chain_check_that_crashes_is_internal(
    path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(path)

    def crash(pem: str) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(server.service, "check_chain", crash)
    client = await RawClient.unix(path)
    await client.send(CheckChain(1, "x"))
    assert await client.receive() == Failed(1, ErrorCode.INTERNAL)
    await client.close()


async def test_no_signature_without_its_audit_line(
    path: Path, start_server: StartServer, ids: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(path)
    client = await RawClient.unix(path)

    def full() -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(server.service, "end_turn", full)
        await client.send(Sign(1, ids["p256"], 0x0403, "", TLS13), Sign(2, ids["rsa"], 0x0804, "", TLS13), Ping(3))
        replies: list[object] = [await client.receive() for _ in range(3)]
        assert replies == [Failed(1, ErrorCode.INTERNAL), Pong(3), Failed(2, ErrorCode.INTERNAL)]
    await client.send(Sign(4, ids["p256"], 0x0403, "", TLS13))
    assert isinstance(await client.receive(), Signed)
    await client.close()


async def test_lines_that_are_lost_take_the_waiting_rsa_replies_with_them(
    path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(path)
    client = await RawClient.unix(path)
    (connection,) = server.connections

    def full() -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(server.service, "end_turn", full)
        server._unsent = [(connection, Signed(1, b"signature")), (connection, Failed(2, ErrorCode.BUSY))]
        assert not server.flush_audit()
    server._send_unsent()
    assert [await client.receive(), await client.receive()] == [
        Failed(1, ErrorCode.INTERNAL),
        Failed(2, ErrorCode.BUSY),
    ]
    await client.close()


async def test_keys_change_while_signatures_are_made(
    path: Path, start_server: StartServer, serving: list[Serving], key_dir: Path, ids: dict[str, bytes]
) -> None:
    await start_server(path)
    keyring = serving[0].keyring
    client = await RawClient.unix(path)
    for round_ in range(5):
        write_atomic(key_dir / f"{round_}.key", private_pem(ec.generate_private_key(ec.SECP256R1())))
        await client.send(*(Sign(n, ids["p256"], 0x0403, "", TLS13) for n in range(1, 101)))
        assert await keyring.reload() == (1, 0)
        replies = [await client.receive() for _ in range(100)]
        assert all(isinstance(r, Signed) for r in replies)
    (key_dir / "p256.key").unlink()
    await keyring.reload()
    await client.send(Sign(1, ids["p256"], 0x0403, "", TLS13))
    assert await client.receive() == Failed(1, ErrorCode.UNKNOWN_KEY), "revoked at once"
    await client.close()


async def test_drain(path: Path, start_server: StartServer, ids: dict[str, bytes]) -> None:
    server = await start_server(path)
    client = await RawClient.unix(path)
    requests: list[Message] = [Sign(n, ids["rsa"], 0x0804, "", TLS13) for n in range(1, 11)]
    await client.send(*requests, Ping(99))
    assert await client.receive() == Pong(99)
    draining = asyncio.ensure_future(server.drain(10))
    replies = [await client.receive() for _ in range(11)]
    assert sum(isinstance(r, Signed) for r in replies) == 10
    assert Goodbye() in replies
    with pytest.raises(OSError, match=r".*"):
        await RawClient.unix(path)
    assert not draining.done()
    await client.close()
    await asyncio.wait_for(draining, 5)


async def test_drain_does_not_wait_for_ever(path: Path, start_server: StartServer) -> None:
    server = await start_server(path)
    client = await RawClient.unix(path)
    await server.drain(0.05)
    assert await client.receive() == Goodbye()
    assert await client.receive() is None
    await client.close()
