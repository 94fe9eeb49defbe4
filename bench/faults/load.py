"""The load of a campaign: one process in the client's namespace, which tells of every attempt in a line of JSON.

    python -m bench.faults.load '{"vips": […], "ca": PATH, "tcp": {NAME: PORT}, "udp": {NAME: PORT}, "scale": 1.0}'

Rates are bounded: each client waits for its answer, then for its turn. It runs until standard input ends; then what is
under way is finished, connections are closed in order, and the last line says how many were opened:

    [TRAFFIC, LISTENER, BEGAN, ENDED, WHY, FLOW, WHO]      an attempt (bench/faults/events.py)
    {"opened": {LISTENER: [AT, …]}, "tried": {LISTENER: N}}     TCP connections, for the bills

Answers are checked: the data's bytes, which server says that it answers, which datagram is echoed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from bench.faults.events import Traffic
from deploy.demo.traffic import client_context
from deploy.lab import model, stream

TIMEOUT_S = 10.0
LOST_S = 2.0  # a datagram whose answer has not come by then does not come
MESSAGE_BYTES = 16
READ_BYTES = 1 << 16
DOWNLOAD_BYTES, DOWNLOAD_PER_S = 3 << 20, 1 << 20
DOWNLOAD_BUFFER_BYTES = 1 << 16  # so that the network has to wait for us
# How many clients of each kind there are, and how long each waits between its attempts.
CLIENTS: dict[Traffic, tuple[int, float]] = {
    Traffic.TCP: (48, 1.0), Traffic.TCP_NEW: (2, 0.4), Traffic.UDP: (16, 0.2), Traffic.HTTP: (10, 0.25),
    Traffic.DOWNLOAD: (2, 0.5), Traffic.TLS_NEW: (2, 0.4), Traffic.TLS_RESUMED: (2, 0.5),
}  # fmt: skip
HEAD = f" HTTP/1.1\r\nHost: {model.DOMAIN}\r\n\r\n".encode()


class WrongError(Exception):
    """The answer is not what it has to be."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where to send."""

    vips: tuple[str, ...]
    ca: str
    tcp: dict[str, int]
    udp: dict[str, int]
    scale: float = 1.0


class Log:
    """Where attempts are told, and connections counted."""

    def __init__(self) -> None:
        self.opened: defaultdict[str, list[float]] = defaultdict(list)
        self.tried: Counter[str] = Counter()
        self._lock = threading.Lock()

    def tell(self, traffic: Traffic, listener: str, began: float, why: str, flow: str, who: str = "") -> None:
        line = json.dumps([traffic, listener, round(began, 4), round(time.monotonic(), 4), why, flow, who])
        with self._lock:
            print(line, flush=True)

    def end(self) -> None:
        print(json.dumps({"opened": self.opened, "tried": self.tried}), flush=True)


def reason(error: BaseException) -> str:
    """In few words, the same for the same cause."""
    match error:
        case TimeoutError():
            return "no answer"
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case ConnectionRefusedError():
            return "refused"
        case asyncio.IncompleteReadError():
            return "ended early"
        case ssl.SSLError():
            return f"TLS: {error.reason}"
    return f"{error}" or type(error).__name__


class Load:
    """All clients but those of TLS."""

    def __init__(self, site: Site, log: Log) -> None:
        self._site = site
        self._log = log
        self.stopping = asyncio.Event()
        self._clients: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        makers: dict[Traffic, Callable[[int], Awaitable[None]]] = {
            Traffic.TCP: self._tcp, Traffic.TCP_NEW: self._tcp_new, Traffic.UDP: self._udp,
            Traffic.HTTP: self._http, Traffic.DOWNLOAD: self._download,
        }  # fmt: skip
        clients = []
        for traffic, make in makers.items():
            for number in range(max(1, round(CLIENTS[traffic][0] * self._site.scale))):
                clients.append(make(number))
        await asyncio.gather(*clients)

    async def _turn(self, traffic: Traffic, began: float) -> None:
        """Until this client's next turn."""
        left_s = began + CLIENTS[traffic][1] - time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), max(0.005, left_s))

    def _vip(self, number: int) -> str:
        return self._site.vips[number % len(self._site.vips)]

    def _of(self, ports: dict[str, int], number: int) -> tuple[str, int]:
        """Listener and port: listeners change after each round of VIPs."""
        return list(ports.items())[number // len(self._site.vips) % len(ports)]

    async def _connect(
        self, listener: str, vip: str, port: int, buffer_bytes: int = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._log.tried[listener] += 1
        sock = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if buffer_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, (vip, port)), TIMEOUT_S)
            self._log.opened[listener].append(time.monotonic())
            return await asyncio.open_connection(sock=sock, limit=READ_BYTES)
        except BaseException:
            sock.close()
            raise

    # Layer 4

    async def _message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seed: int) -> str:
        """One message and its answer; returns the server's name."""
        writer.write(b"GET %d %d 0\n" % (MESSAGE_BYTES, seed))
        async with asyncio.timeout(TIMEOUT_S):
            hello = json.loads(await reader.readuntil(b"\n"))
            data = await reader.readexactly(MESSAGE_BYTES)
        if data != next(stream.blocks(MESSAGE_BYTES, seed)):
            raise WrongError("other bytes")
        return str(hello["server"])

    async def _tcp(self, number: int) -> None:
        listener, port = self._of(self._site.tcp, number)
        await asyncio.sleep(number / 48)
        while not self.stopping.is_set():
            began, traffic, seed = time.monotonic(), Traffic.TCP_NEW, 0
            server = ""
            try:
                reader, writer = await self._connect(listener, self._vip(number), port)
                with contextlib.closing(writer):
                    while not self.stopping.is_set():
                        who = await self._message(reader, writer, seed)
                        if server not in ("", who):
                            raise WrongError("another server")
                        self._log.tell(traffic, listener, began, "", f"t{number}", who)
                        server, seed = who, seed + 1
                        await self._turn(traffic, began)
                        if seed > 2:  # established, and told to the peers
                            traffic = Traffic.TCP
                        began = time.monotonic()
            except (OSError, WrongError, ValueError, asyncio.IncompleteReadError) as error:
                self._log.tell(traffic, listener, began, reason(error), f"t{number}", server)
                await self._turn(Traffic.TCP, began)

    async def _tcp_new(self, number: int) -> None:
        turn = number
        while not self.stopping.is_set():
            listener, port = self._of(self._site.tcp, turn)
            began, why, who = time.monotonic(), "", ""
            try:
                reader, writer = await self._connect(listener, self._vip(turn), port)
                with contextlib.closing(writer):
                    who = await self._message(reader, writer, turn)
            except (OSError, WrongError, ValueError, asyncio.IncompleteReadError) as error:
                why = reason(error)
            self._log.tell(Traffic.TCP_NEW, listener, began, why, f"n{number}", who)
            turn += CLIENTS[Traffic.TCP_NEW][0]
            await self._turn(Traffic.TCP_NEW, began)

    async def _udp(self, number: int) -> None:
        listener, port = self._of(self._site.udp, number)
        vip, loop = self._vip(number), asyncio.get_running_loop()
        with socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect((vip, port))
            waiting: dict[str, float] = {}
            receiving = loop.create_task(self._echoes(sock, waiting, listener, number))
            serial = 0
            while not self.stopping.is_set():
                began = time.monotonic()
                waiting[str(serial)] = began
                with contextlib.suppress(OSError):  # an ICMP error of the one before
                    sock.send(str(serial).encode())
                serial += 1
                for late in [each for each, sent in waiting.items() if began - sent > LOST_S]:
                    self._log.tell(Traffic.UDP, listener, waiting.pop(late), "no answer", f"u{number}")
                await self._turn(Traffic.UDP, began)
            await asyncio.sleep(LOST_S)
            receiving.cancel()
            for sent in waiting.values():
                self._log.tell(Traffic.UDP, listener, sent, "no answer", f"u{number}")

    async def _echoes(self, sock: socket.socket, waiting: dict[str, float], listener: str, number: int) -> None:
        while True:
            try:
                reply = json.loads(await asyncio.get_running_loop().sock_recv(sock, READ_BYTES))
            except OSError:
                continue
            if (sent := waiting.pop(reply["echo"], None)) is not None:
                self._log.tell(Traffic.UDP, listener, sent, "", f"u{number}", reply["server"])

    # Layer 7

    async def _http(self, number: int) -> None:
        """A browser: a connection is kept, and one that was closed meanwhile is opened anew."""
        kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.stopping.is_set():
            began, why, who = time.monotonic(), "", ""
            try:
                if kept is None or kept[0].at_eof() or kept[1].is_closing():
                    if kept:
                        kept[1].close()
                        kept = None
                    kept = await self._connect("http", self._vip(number), model.HTTP_PORT)
                kept[1].write(b"GET /?delay_ms=20" + HEAD)
                head, length = await _head(kept[0])
                async with asyncio.timeout(TIMEOUT_S):
                    json.loads(await kept[0].readexactly(length))
                who = _via(head)
            except (OSError, WrongError, ValueError, asyncio.IncompleteReadError) as error:
                why = reason(error)
                if kept:
                    kept[1].close()
                    kept = None
            self._log.tell(Traffic.HTTP, "http", began, why, f"h{number}", who)
            await self._turn(Traffic.HTTP, began)
        if kept:
            kept[1].close()

    async def _download(self, number: int) -> None:
        right = stream.digest(DOWNLOAD_BYTES, 0)
        while not self.stopping.is_set():
            began, why, who = time.monotonic(), "", ""
            try:
                vip = self._vip(number)
                reader, writer = await self._connect("http", vip, model.HTTP_PORT, DOWNLOAD_BUFFER_BYTES)
                with contextlib.closing(writer):
                    writer.write(b"GET /?size=%d" % DOWNLOAD_BYTES + HEAD)
                    head, length = await _head(reader)
                    who, total, got = _via(head), hashlib.sha256(), 0
                    while got < length:
                        async with asyncio.timeout(TIMEOUT_S):
                            data = await reader.read(min(READ_BYTES, length - got))
                        if not data:
                            raise asyncio.IncompleteReadError(b"", length - got)
                        total.update(data)
                        got += len(data)
                        await asyncio.sleep(len(data) / DOWNLOAD_PER_S)
                    if total.hexdigest() != right:
                        raise WrongError("other bytes")
            except (OSError, WrongError, ValueError, asyncio.IncompleteReadError) as error:
                why = reason(error)
            self._log.tell(Traffic.DOWNLOAD, "http", began, why, f"d{number}", who)
            await self._turn(Traffic.DOWNLOAD, began)


async def _head(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """The head of an answer with 200, and its body's length. Raises WrongError."""
    async with asyncio.timeout(TIMEOUT_S):
        head = await reader.readuntil(b"\r\n\r\n")
    return head, _checked(head)


def _checked(head: bytes) -> int:
    if not head.startswith(b"HTTP/1.1 200 "):
        raise WrongError(f"status {head[9:12].decode('latin-1')}")
    return int(_field(head, b"content-length"))


def _field(head: bytes, name: bytes) -> str:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip().decode("latin-1")
    raise WrongError(f"no {name.decode()}")


def _via(head: bytes) -> str:
    return _field(head, b"via").split()[-1]


class TlsClient(threading.Thread):
    """A connection, a handshake and a request after the other; by a thread, because asyncio's TLS resumes nothing."""

    def __init__(self, site: Site, log: Log, traffic: Traffic, number: int) -> None:
        super().__init__(daemon=True)
        self._site, self._log, self._traffic, self._number = site, log, traffic, number
        self._context = client_context(site.ca)  # type: ignore[arg-type]
        self._ticket: ssl.SSLSession | None = None
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            began, why, who, at = time.monotonic(), "", "", "connection"
            self._log.tried["https"] += 1
            try:
                vip = self._site.vips[self._number % len(self._site.vips)]
                with socket.create_connection((vip, model.HTTPS_PORT), TIMEOUT_S) as plain:
                    self._log.opened["https"].append(time.monotonic())
                    at = "handshake"
                    ticket = self._ticket if self._traffic is Traffic.TLS_RESUMED else None
                    with self._context.wrap_socket(plain, server_hostname=model.DOMAIN, session=ticket) as sock:
                        at = "request"
                        who = self._request(sock)
                        if self._traffic is Traffic.TLS_RESUMED:
                            who += " resumed" if sock.session_reused else " full"
                            self._ticket = sock.session
            except (OSError, WrongError, ValueError) as error:
                why = f"{at}: {reason(error)}"
                self._ticket = None
            self._log.tell(self._traffic, "https", began, why, f"{self._traffic}{self._number}", who)
            self.stopping.wait(max(0.005, began + CLIENTS[self._traffic][1] - time.monotonic()))

    def _request(self, sock: ssl.SSLSocket) -> str:
        sock.sendall(b"GET /?delay_ms=5" + HEAD)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more(sock)
        head, _, body = data.partition(b"\r\n\r\n")
        length = _checked(head)
        while len(body) < length:
            body += self._more(sock)
        json.loads(body)
        return _via(head)

    def _more(self, sock: ssl.SSLSocket) -> bytes:
        if data := sock.recv(READ_BYTES):
            return data
        raise ConnectionResetError


async def run(site: Site, log: Log) -> None:
    """Until standard input ends."""
    load = Load(site, log)
    threads = [
        TlsClient(site, log, traffic, number)
        for traffic in (Traffic.TLS_NEW, Traffic.TLS_RESUMED)
        for number in range(max(1, round(CLIENTS[traffic][0] * site.scale)))
    ]
    for thread in threads:
        thread.start()
    ends = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    ends.add_done_callback(lambda _: load.stopping.set())
    await load.run()
    await ends
    for thread in threads:
        thread.stopping.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, 2 * TIMEOUT_S)


def main() -> int:
    given: dict[str, Any] = json.loads(sys.argv[1])
    log = Log()
    asyncio.run(run(Site(**given | {"vips": tuple(given["vips"])}), log))
    log.end()
    sys.stdout.flush()
    os._exit(0)  # nobody waits for the thread that reads standard input


if __name__ == "__main__":
    main()
