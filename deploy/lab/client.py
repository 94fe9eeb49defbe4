"""The lab's client: asks the services of deploy/lab/backend.py and checks what comes back.

    paifang lab exec client -- python -m deploy.lab.client tcp 10.81.2.100:5000 --bytes 50000000
    paifang lab exec client -- python -m deploy.lab.client upload 10.81.2.100:5000 --bytes 50000000
    paifang lab exec client -- python -m deploy.lab.client udp [fd81:0:0:2::100]:5300

A transfer is right if every byte is the one that the seed gives. The longest pause between two pieces is what a user
of the connection would have felt of a failover.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.endpoints import endpoint, split, version
from deploy.lab import stream

READ_BYTES = 1 << 18
TIMEOUT_S = 20.0
UDP_TRIES = 3
UDP_TIMEOUT_S = 1.0
UDP_LIMIT_BYTES = 2048


class ClientError(Exception):
    """The service did not answer, or not what it should."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A finished transfer. `server` and `seen_client` are what the server said about itself and about us."""

    server: str
    seen_client: str
    size_bytes: int
    correct: bool
    duration_s: float
    longest_pause_s: float


Progress = Callable[[str, int], None]


def download(
    address: tuple[str, int],
    size_bytes: int,
    rate: int = 0,
    on_progress: Progress | None = None,
    seed: int | None = None,
) -> Transfer:
    """Ask for data and check them; `on_progress(our address, bytes so far)` after each piece. Raises ClientError."""
    seed = secrets.randbits(64) if seed is None else seed
    expected = stream.digest(size_bytes, seed)
    total, got, pause_s = hashlib.sha256(), 0, 0.0
    with _connect(address) as sock, _reader(sock) as file:
        ours = endpoint(*sock.getsockname()[:2])
        start = last = time.monotonic()
        sock.sendall(f"GET {size_bytes} {seed} {rate}\n".encode())
        hello = _line(file.readline(stream.LINE_LIMIT_BYTES))
        while got < size_bytes:
            try:
                data = file.read1(min(READ_BYTES, size_bytes - got))
            except OSError as error:
                raise ClientError(f"the connection broke after {got} of {size_bytes} bytes: {error}") from None
            if not data:
                raise ClientError(f"the connection ended after {got} of {size_bytes} bytes")
            now = time.monotonic()
            pause_s, last = max(pause_s, now - last), now
            total.update(data)
            got += len(data)
            if on_progress is not None:
                on_progress(ours, got)
    correct = total.hexdigest() == expected
    return Transfer(hello["server"], hello["client"], got, correct, last - start, pause_s)


def upload(address: tuple[str, int], size_bytes: int) -> Transfer:
    """Send data and compare the server's SHA-256 with ours. Raises ClientError."""
    seed = secrets.randbits(64)
    start = time.monotonic()
    with _connect(address) as sock, sock.makefile("rb") as file:
        try:
            sock.sendall(f"PUT {size_bytes}\n".encode())
            for block in stream.blocks(size_bytes, seed):
                sock.sendall(block)
        except OSError as error:
            raise ClientError(f"the connection broke: {error}") from None
        _line(file.readline(stream.LINE_LIMIT_BYTES))
        reply = _line(file.readline(stream.LINE_LIMIT_BYTES))
    correct = reply.get("sha256") == stream.digest(size_bytes, seed)
    return Transfer(reply["server"], reply["client"], size_bytes, correct, time.monotonic() - start, 0.0)


def ask_udp(address: tuple[str, int], text: str) -> dict[str, str]:
    """Send one datagram (again if it is lost) and return the echo's answer. Raises ClientError."""
    family = socket.AF_INET6 if version(address[0]) == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.settimeout(UDP_TIMEOUT_S)
        for _ in range(UDP_TRIES):
            try:
                sock.send(text.encode())
                reply = _line(sock.recv(UDP_LIMIT_BYTES))
            except OSError:
                continue
            if reply.get("echo") != text:
                raise ClientError(f"the echo differs: {reply}")
            return reply
    raise ClientError(f"no answer to {UDP_TRIES} datagrams")


def _connect(address: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_connection(address, TIMEOUT_S)
    except OSError as error:
        raise ClientError(f"cannot connect to {endpoint(*address)}: {error}") from None


def _reader(sock: socket.socket) -> io.BufferedReader:
    file = sock.makefile("rb", buffering=READ_BYTES)
    assert isinstance(file, io.BufferedReader)
    return file


def _line(line: bytes) -> dict[str, str]:
    try:
        reply = json.loads(line)
    except ValueError:
        raise ClientError(f"not an answer of ours: {line[:80]!r}") from None
    if not isinstance(reply, dict) or "error" in reply:
        raise ClientError(f"the server says {reply}")
    return reply


def _address(text: str) -> tuple[str, int]:
    found = split(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT or [ADDRESS]:PORT")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.lab.client", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["tcp", "upload", "udp"])
    parser.add_argument("address", type=_address, metavar="ADDRESS:PORT")
    parser.add_argument("--bytes", type=int, default=1_000_000, help="how much to transfer (%(default)s)")
    parser.add_argument("--rate", type=int, default=0, help="bytes a second for tcp; 0, the default, is no limit")
    options = parser.parse_args(argv)
    try:
        if options.what == "udp":
            print(json.dumps(ask_udp(options.address, "hello")))
            return 0
        if options.what == "tcp":
            transfer = download(options.address, options.bytes, options.rate)
        else:
            transfer = upload(options.address, options.bytes)
    except ClientError as error:
        print(f"paifang-client: {error}", file=sys.stderr)
        return 1
    print(json.dumps(dataclasses.asdict(transfer)))
    return 0 if transfer.correct else 1


if __name__ == "__main__":
    sys.exit(main())
