"""Thousands of connections in one process without much memory: the server's end and the client's, each a program that
takes a command a line and answers it by a line of JSON.

    held.py server ADDRESS PORT …   count                    connections that are open now
    held.py client SOURCE ADDRESS PORT
                                    open COUNT PER_S [AT_ONCE]  connects, and exchanges a first word on each
                                    round                    sends a new word on each and waits for all to come back
                                    close PER_S              ends all
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Sequence

TIMEOUT_S = 60
# Handshakes under way: who was held up does not make up for it by a flood, which half-open tables would not hold.
AT_ONCE = 512
IP_BIND_ADDRESS_NO_PORT = 24  # <linux/in.h>: the port is chosen when it is known for whom, which is much faster


def serve(ends: Sequence[tuple[str, int]]) -> None:
    """Sends back what comes, at once: so little never fills a socket's buffer."""
    poll = select.epoll()
    listening = {sock.fileno(): sock for sock in (socket.create_server(end, backlog=4096) for end in ends)}
    open_: dict[int, socket.socket] = {}
    for fd in listening:
        poll.register(fd, select.EPOLLIN)

    def answer() -> None:
        for _ in sys.stdin:
            print(json.dumps(len(open_)), flush=True)

    commands = threading.Thread(target=answer)
    commands.start()
    print(json.dumps("ready"), flush=True)
    while commands.is_alive():
        for fd, _ in poll.poll(0.05):
            if fd in listening:
                sock, _ = listening[fd].accept()
                open_[sock.fileno()] = sock
                poll.register(sock.fileno(), select.EPOLLIN)
                continue
            try:
                data = open_[fd].recv(4096)
            except ConnectionError:
                data = b""
            if data:
                open_[fd].sendall(data)
            else:
                open_.pop(fd).close()


class Client:
    def __init__(self, source: str, to: tuple[str, int]) -> None:
        self.source, self.to = source, to
        self.poll = select.epoll()
        self.socks: dict[int, socket.socket] = {}
        self.expected: dict[int, bytes] = {}
        self.turn = 0
        self.connecting = 0

    def word(self, fd: int) -> bytes:
        return b"%08d %08d %05d\n" % (fd, self.turn, self.socks[fd].getsockname()[1])

    def open(self, count: int, per_s: int, at_once: int = AT_ONCE) -> dict[str, object]:
        begun = time.monotonic()
        made = 0
        while made < count or self.expected:
            if time.monotonic() - begun > TIMEOUT_S:
                break
            while made < count and made < (time.monotonic() - begun) * per_s and self.connecting < at_once:
                sock = socket.socket()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((self.source, 0))
                sock.connect_ex(self.to)
                self.socks[sock.fileno()] = sock
                self.expected[sock.fileno()] = b""
                self.poll.register(sock.fileno(), select.EPOLLOUT)
                self.connecting += 1
                made += 1
            self.turn_over(0.002)
        return {"open": made, "silent": len(self.expected), "took_s": round(time.monotonic() - begun, 2)}

    def turn_over(self, wait_s: float) -> None:
        """Writes to those that have just connected, and checks what has come."""
        for fd, events in self.poll.poll(wait_s):
            sock = self.socks[fd]
            if events & select.EPOLLOUT:
                self.poll.modify(fd, select.EPOLLIN)
                self.connecting -= 1
                self.expected[fd] = self.word(fd)
                sock.send(self.expected[fd])
                continue
            data = sock.recv(4096)
            expected = self.expected[fd]
            if not data or not expected.startswith(data):
                raise SystemExit(f"{sock.getsockname()}: {data!r} instead of {expected!r}")
            if len(data) == len(expected):
                del self.expected[fd]
            else:
                self.expected[fd] = expected[len(data) :]

    def round(self) -> dict[str, object]:
        begun = time.monotonic()
        self.turn += 1
        for n, (fd, sock) in enumerate(self.socks.items()):
            self.expected[fd] = self.word(fd)
            sock.send(self.expected[fd])
            if n % 64 == 0:
                self.turn_over(0)
        while self.expected and time.monotonic() - begun < TIMEOUT_S:
            self.turn_over(0.1)
        return {"answered": len(self.socks) - len(self.expected), "took_s": round(time.monotonic() - begun, 2)}

    def close(self, per_s: int) -> dict[str, object]:
        begun = time.monotonic()
        for n, sock in enumerate(self.socks.values()):
            if n % 64 == 0:
                time.sleep(max(0.0, n / per_s - (time.monotonic() - begun)))
            sock.close()
        self.socks.clear()
        return {"took_s": round(time.monotonic() - begun, 2)}

    def run(self) -> None:
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            name, *numbers = line.split()
            print(json.dumps(getattr(self, name)(*map(int, numbers))), flush=True)


def main(role: str, *rest: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if role == "server":
        serve([(rest[0], int(port)) for port in rest[1:]])
    else:
        Client(rest[0], (rest[1], int(rest[2]))).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
