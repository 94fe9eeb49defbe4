"""The established connection: flow control both ways, ends of stream, what a transport has to do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable

import pytest

from proxy.tls_stream import HIGH_WATER, RECORD, TlsStream
from tests.proxy.tls_support import (
    LOOPS,
    LocalKeys,
    Served,
    certificate,
    client_context,
    connect,
    new_key,
    run,
    serving,
)
from tests.waiting import until

KEY = new_key("P-256")
CHAIN = certificate(KEY, ["web.test"])
MB = 1 << 20
# What one connection may hold: plaintext queue and raw buffer at their high-water marks, each overshot by one write.
WRITE_BOUND = 2 * HIGH_WATER + 2 * 65536
thread = asyncio.to_thread


class App(asyncio.Protocol):
    """Records what a transport tells it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.received = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.half_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsStream)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.received += data

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.half_open

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


class Source(App):
    """Sends `total` bytes in pieces, as the transport lets it, and closes."""

    total = 50 * MB
    piece = bytes(range(256)) * 256  # 64 KiB

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.left = self.total
        self.most_held = 0
        self.more()

    def more(self) -> None:
        while self.left and self.events.count("pause") == self.events.count("resume"):
            self.transport.write(self.piece[: self.left])
            self.left -= min(self.left, len(self.piece))
            self.most_held = max(self.most_held, self.transport.get_write_buffer_size())
        if not self.left:
            self.transport.close()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.more()


class Apps:
    """Makes the applications of a server and keeps the last one."""

    def __init__(self, kind: type[App] = App, set_up: Callable[[App], None] = lambda _: None) -> None:
        self.kind = kind
        self.set_up = set_up
        self.last: App | None = None

    def __call__(self) -> App:
        self.last = self.kind()
        self.set_up(self.last)
        return self.last

    async def connected(self) -> App:
        while self.last is None or not hasattr(self.last, "transport"):
            await asyncio.sleep(0.001)
        return self.last


def server(apps: Apps, **options: float):
    return serving(LocalKeys([KEY]), [CHAIN], inner=apps, **options)


def resident_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_reader_holds_the_sender_back_in_bounded_memory(loop, version) -> None:
    async def main() -> None:
        apps = Apps(Source)
        async with server(apps) as served:
            client = await thread(connect, served.port, "web.test", client_context(version))
            app = await apps.connected()
            assert isinstance(app, Source)
            await until(lambda: "pause" in app.events)
            held = app.left
            before = resident_kib()
            await asyncio.sleep(0.05)
            assert app.left == held  # nothing moves while nobody reads
            assert held > 40 * MB

            def read_all() -> int:
                total = 0
                while data := client.recv(MB):
                    assert data == Source.piece[total % 65536 :][: len(data)] or len(data) > 1024
                    total += len(data)
                return total

            assert await thread(read_all) == Source.total
            assert await app.lost is None
            assert app.most_held <= WRITE_BOUND
            assert resident_kib() - before < 20_000
            assert app.events[-1] == "lost"
            assert app.events.count("pause") - app.events.count("resume") in (0, 1)  # full when it closed
            client.close()

    run(main(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_application_that_pauses_holds_the_client_back(loop) -> None:
    async def main() -> None:
        apps = Apps()
        async with server(apps) as served:
            client = await thread(connect, served.port)
            app = await apps.connected()
            app.transport.pause_reading()
            assert not app.transport.is_reading()
            data = bytes(range(256)) * (50 * MB // 256)
            sent = asyncio.create_task(thread(client.sendall, data))
            await asyncio.sleep(0.1)
            assert not sent.done()
            assert not app.received
            app.transport.resume_reading()
            await until(lambda: len(app.received) > MB)
            app.transport.pause_reading()
            await asyncio.sleep(0.05)
            at = len(app.received)
            await asyncio.sleep(0.05)
            assert len(app.received) == at < len(data)
            app.transport.resume_reading()
            await sent
            await until(lambda: len(app.received) == len(data))
            assert app.received == data
            client.close()
            await app.lost

    run(main(), loop)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size", [1, RECORD - 1, RECORD, RECORD + 1, 300_000])
def test_what_is_sent_arrives_whole_in_both_directions(loop, size) -> None:
    class Echo(App):
        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    def talk(port: int) -> bytes:
        data = bytes(n % 251 for n in range(size))
        with connect(port) as client:
            client.sendall(data[: size // 2])
            client.sendall(data[size // 2 :])
            received = b""
            while len(received) < size:
                received += client.recv(65536)
            assert received == data
        return received

    async def main() -> None:
        apps = Apps(Echo)
        async with server(apps) as served:
            await thread(talk, served.port)
            assert apps.last is not None
            await apps.last.lost

    run(main(), loop)


def test_a_bytearray_may_change_as_soon_as_it_is_written() -> None:
    async def main() -> None:
        apps = Apps()
        async with server(apps) as served:
            client = await thread(connect, served.port)
            app = await apps.connected()
            total = 8 * MB
            data = bytearray(b"a" * total)
            app.transport.write(data)
            more = bytearray(b"b" * 1000)
            app.transport.write(memoryview(more))
            data[:] = bytes(total)
            more[:] = bytes(1000)
            app.transport.close()
            app.transport.write(b"ignored after close")
            received = await thread(read_to_end, client)
            assert received == b"a" * total + b"b" * 1000

    run(main())


def read_to_end(client: ssl.SSLSocket) -> bytes:
    parts = []
    with client:
        while data := client.recv(MB):
            parts.append(data)
    return b"".join(parts)


def test_close_sends_what_is_queued_and_close_notify() -> None:
    async def main() -> None:
        apps = Apps()
        async with server(apps) as served:
            client = await thread(connect, served.port)
            client.suppress_ragged_eofs = False  # a FIN without close_notify raises
            app = await apps.connected()
            app.transport.writelines([b"head ", b"body"])
            app.transport.close()
            app.transport.close()
            assert app.transport.is_closing()
            assert await thread(read_to_end, client) == b"head body"
            assert await app.lost is None
            assert app.events == ["lost"]

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size", [100_000, 3 * MB])
def test_what_a_client_sends_after_close_costs_it_nothing(size, loop) -> None:
    """Its close_notify, say, as gnutls-cli sends it at the end of its input: a socket that is closed answers by RST."""

    def talk(port: int, closed: threading.Event) -> int:
        raw, to, fro, client = memory_client(port)
        assert closed.wait(10)
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
        raw.sendall(fro.read())
        got = 0
        with raw:
            while data := raw.recv(4096):
                to.write(data)
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                    while part := client.read(MB):
                        got += len(part)
        return got

    async def main() -> None:
        apps, closed = Apps(), threading.Event()
        async with server(apps) as served:
            talking = asyncio.create_task(thread(talk, served.port, closed))
            app = await apps.connected()
            app.transport.write(bytes(size))
            app.transport.close()
            await asyncio.sleep(0.05)
            closed.set()
            assert await talking == size
            assert await app.lost is None

    run(main(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_keeps_its_end_open_is_not_waited_for_long(loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.tls_stream.LINGER_S", 0.1)

    async def main() -> None:
        apps = Apps()
        async with server(apps) as served:
            raw, *_ = await thread(memory_client, served.port)
            app = await apps.connected()
            app.transport.write(b"body")
            app.transport.close()
            await app.lost
            raw.close()

    run(main(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_takes_nothing_is_cut_after_close(loop) -> None:
    async def main() -> None:
        apps = Apps()
        async with server(apps, close_timeout_s=0.2) as served:
            client = await thread(connect, served.port)
            app = await apps.connected()
            app.transport.write(bytes(20 * MB))
            app.transport.close()
            began = time.monotonic()
            await app.lost
            assert time.monotonic() - began >= 0.15
            client.close()

    run(main(), loop)


def test_abort_ends_at_once() -> None:
    async def main() -> None:
        apps = Apps()
        async with server(apps) as served:
            client = await thread(connect, served.port)
            app = await apps.connected()
            app.transport.write(bytes(20 * MB))
            app.transport.abort()
            await app.lost
            client.close()

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", ["close_notify", "FIN"])
def test_the_application_may_answer_after_the_clients_end(way, loop) -> None:
    """TLS 1.3, RFC 8446 §6.1: close_notify ends one direction; a FIN is taken for it."""

    def talk(served: Served) -> bytes:
        raw, to, fro, client = memory_client(served.port)
        with raw:
            client.write(b"question")
            raw.sendall(fro.read())
            if way == "close_notify":
                with pytest.raises(ssl.SSLWantReadError):
                    client.unwrap()
                raw.sendall(fro.read())
            else:
                raw.shutdown(socket.SHUT_WR)
            answer = b""
            while data := raw.recv(65536):
                to.write(data)
                if way == "FIN":
                    with contextlib.suppress(ssl.SSLWantReadError):
                        while to.pending:
                            answer += client.read(65536)
                else:
                    answer += data  # OpenSSL's client reads nothing more after it has said goodbye
            return answer

    async def main() -> None:
        apps = Apps(set_up=lambda app: setattr(app, "half_open", True))
        async with server(apps) as served:
            talking = asyncio.create_task(thread(talk, served))
            app = await apps.connected()
            await until(lambda: "eof" in app.events)
            assert app.received == b"question"
            await asyncio.sleep(0.05)
            assert not app.lost.done()
            app.transport.write(b"answer" * 1000)
            app.transport.close()
            answer = await talking
            assert answer == b"answer" * 1000 if way == "FIN" else len(answer) > 6000
            assert app.events == ["eof", "lost"]

    run(main(), loop)


def memory_client(port: int):
    """A socket, its two BIOs and a TLS 1.3 client whose handshake is done."""
    raw = socket.create_connection(("127.0.0.1", port), 10)
    to, fro = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context("1.3").wrap_bio(to, fro, server_hostname="web.test")
    while True:
        try:
            client.do_handshake()
            raw.sendall(fro.read())
            return raw, to, fro, client
        except ssl.SSLWantReadError:
            raw.sendall(fro.read())
            to.write(raw.recv(65536))


@pytest.mark.parametrize("way", ["close_notify", "FIN", "RST"])
def test_by_default_the_clients_end_closes(way) -> None:
    def talk(port: int) -> None:
        raw, _, fro, client = memory_client(port)
        with raw:
            raw.recv(65536)  # the session ticket: what is unread when a socket is closed makes it send RST
            if way == "RST":
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if way == "close_notify":
                with pytest.raises(ssl.SSLWantReadError):
                    client.unwrap()
                raw.sendall(fro.read())
            else:
                raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass

    async def main() -> None:
        apps = Apps()
        async with server(apps) as served:
            await thread(talk, served.port)
            app = await apps.connected()
            error = await app.lost
            assert app.events == (["lost"] if way == "RST" else ["eof", "lost"])
            assert isinstance(error, ConnectionError) if way == "RST" else error is None

    run(main())


def test_a_damaged_record_ends_the_connection_with_an_alert() -> None:
    def talk(port: int) -> str:
        raw, to, fro, client = memory_client(port)
        with raw:
            client.write(b"fine")
            raw.sendall(fro.read())
            client.write(b"damaged")
            record = bytearray(fro.read())
            record[-1] ^= 1
            raw.sendall(record)
            while data := raw.recv(65536):
                to.write(data)
            while True:
                try:
                    client.read(65536)
                except ssl.SSLError as error:
                    return str(error)

    async def main() -> None:
        apps = Apps()
        async with server(apps) as served:
            assert "BAD_RECORD_MAC" in (await thread(talk, served.port)).upper()
            app = await apps.connected()
            assert isinstance(await app.lost, ssl.SSLError)
            assert app.received == b"fine"
            assert app.events == ["lost"]

    run(main())


def test_data_with_the_last_handshake_message_is_delivered() -> None:
    """An eager client sends Finished and its request in one segment; an application may pause before it sees it."""

    class Pausing(App):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.05, self.transport.resume_reading)

    def talk(port: int) -> None:
        raw = socket.create_connection(("127.0.0.1", port), 10)
        to, fro = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context("1.3").wrap_bio(to, fro, server_hostname="web.test")
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(fro.read())
                to.write(raw.recv(65536))
        client.write(b"eager")
        client.write(b"x" * 40_000)
        with raw:
            raw.sendall(fro.read())
            time.sleep(0.2)

    async def main() -> None:
        for kind in (App, Pausing):
            apps = Apps(kind)
            async with server(apps) as served:
                talking = asyncio.create_task(thread(talk, served.port))
                app = await apps.connected()
                if kind is Pausing:
                    assert not app.received
                await until(lambda app=app: len(app.received) == 40_005)
                assert app.received.startswith(b"eagerx")
                await talking

    run(main())


def test_limits_and_what_a_transport_knows() -> None:
    async def main() -> None:
        apps = Apps()
        async with server(apps) as served:
            client = await thread(connect, served.port, "web.test", client_context("1.2"))
            app = await apps.connected()
            transport = app.transport
            info = transport.get_extra_info
            assert (info("sni"), info("tls_version"), info("alpn")) == ("web.test", "TLSv1.2", "http/1.1")
            assert info("cipher").startswith("ECDHE-ECDSA-")
            assert info("peername")[:2] == client.getsockname()
            assert info("sockname")[:2] == ("127.0.0.1", served.port)
            assert info("nothing", "default") == "default"
            assert not transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                transport.write_eof()
            assert transport.get_write_buffer_limits() == (HIGH_WATER // 4, HIGH_WATER)
            transport.set_write_buffer_limits(high=1000)
            assert transport.get_write_buffer_limits() == (250, 1000)
            transport.set_write_buffer_limits(low=10)
            assert transport.get_write_buffer_limits() == (10, 40)
            with pytest.raises(ValueError, match="must be >="):
                transport.set_write_buffer_limits(high=1, low=2)
            other = App()
            other.transport = transport
            transport.set_protocol(other)
            assert transport.get_protocol() is other
            await thread(client.sendall, b"to the other")
            await until(lambda: other.received == b"to the other")
            client.close()
            await other.lost

    run(main())


def test_key_updates_are_answered() -> None:
    """`openssl s_client` sends a KeyUpdate with a request for ours on a line that says K."""

    class Echo(App):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.write(b"heard\n")

    async def main() -> None:
        apps = Apps(Echo)
        async with server(apps) as served:
            process = await asyncio.create_subprocess_exec(
                "openssl", "s_client", "-connect", f"127.0.0.1:{served.port}", "-tls1_3", "-msg",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            app = await apps.connected()
            assert process.stdin is not None
            process.stdin.write(b"K\n")
            await asyncio.sleep(0.1)
            process.stdin.write(b"after\n")
            await until(lambda: b"after" in app.received)
            process.stdin.write(b"Q\n")
            out, _ = await process.communicate()
            assert out.count(b"KeyUpdate") >= 2
            assert b"heard" in out

    run(main())
