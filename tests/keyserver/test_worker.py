"""A worker on its two sockets: what it signs and refuses, how it is given keys, and when it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyserver.errors import ErrorCode
from keyserver.keyfile import PrivateKey
from keyserver.protocol import Event, Failed, Message, Sign, Signed, Welcome, client_side
from keyserver.worker import Worker
from tests.keyserver.conftest import TLS13
from tests.keyserver.test_store import verify

ROOT = Path(__file__).parent.parent.parent
SECONDS = 10.0


class Bench:
    """The other ends of a worker's sockets. Sign requests are answered in order."""

    def __init__(self) -> None:
        self.requests, self.their_requests = socket.socketpair()
        self.keys, self.their_keys = socket.socketpair()
        for sock in (self.requests, self.keys):
            sock.settimeout(SECONDS)
        self.wire = client_side()
        self.seen: list[Event] = []

    def give(self, keep: list[bytes], add: list[PrivateKey]) -> bytes:
        text = json.dumps({"keep": [each.hex() for each in keep], "add": {str(n): der(k) for n, k in enumerate(add)}})
        self.keys.sendall(text.encode() + b"\n")
        return self.keys.recv(100)

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.wire.send(message)
        self.requests.sendall(self.wire.data_to_send())

    def receive(self) -> Event:
        while not self.seen:
            data = self.requests.recv(65536)
            assert data, "the worker has ended"
            self.wire.receive_data(data)
            self.seen += self.wire.events()
        return self.seen.pop(0)


def der(key: PrivateKey) -> str:
    return b64encode(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())).decode()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()

    def run() -> None:
        with bench.their_requests, bench.their_keys:
            worker = Worker(bench.their_requests, bench.their_keys)
            try:
                worker.run()
            except OSError as error:
                ended.append(error)

    ended: list[OSError] = []
    thread = threading.Thread(target=run)
    thread.start()
    bench.ended = ended  # type: ignore[attr-defined]
    bench.thread = thread  # type: ignore[attr-defined]
    yield bench
    bench.requests.close()
    bench.keys.close()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_it_greets_when_it_has_its_keys(bench: Bench, keys: dict[str, PrivateKey], ids: dict[str, bytes]) -> None:
    bench.send()
    bench.requests.settimeout(0.05)
    with pytest.raises(TimeoutError):
        bench.receive()
    bench.requests.settimeout(SECONDS)
    assert bench.give([], [keys["rsa"]]) == b"ok\n"
    assert isinstance(bench.receive(), Welcome)
    bench.send(*(Sign(n, ids["rsa"], 0x0804, "", TLS13) for n in range(1, 12)))
    for number in range(1, 12):
        reply = bench.receive()
        assert isinstance(reply, Signed)
        assert reply.request_id == number
        verify(keys["rsa"], 0x0804, reply.signature, TLS13)


def test_it_trusts_nobody(bench: Bench, keys: dict[str, PrivateKey], ids: dict[str, bytes]) -> None:
    """The process that asks has checked this before; here an intruder in that process is meant."""
    bench.give([], [keys["rsa"]])
    bench.send()
    bench.receive()
    bench.send(
        Sign(1, ids["rsa"], 0x0804, "", b"eyJhbGciOiJQUzI1NiJ9.e30"),
        Sign(2, ids["rsa"], 0x0401, "", TLS13),
        Sign(3, ids["p256"], 0x0403, "", TLS13),
        Sign(4, ids["rsa"], 0x0804, "", TLS13),
    )
    replies = [bench.receive() for _ in range(4)]
    assert replies[:3] == [
        Failed(1, ErrorCode.REFUSED_SHAPE),
        Failed(2, ErrorCode.REFUSED_SCHEME),
        Failed(3, ErrorCode.UNKNOWN_KEY),
    ]
    assert isinstance(replies[3], Signed)


def test_keys_are_kept_added_and_dropped(bench: Bench, keys: dict[str, PrivateKey], ids: dict[str, bytes]) -> None:
    schemes = {"p256": 0x0403, "rsa": 0x0804, "ed25519": 0x0807}

    def held() -> set[str]:
        bench.send(*(Sign(1, ids[name], scheme, "", TLS13) for name, scheme in schemes.items()))
        return {name for name in schemes if isinstance(bench.receive(), Signed)}

    assert bench.give([], [keys["p256"], keys["rsa"]]) == b"ok\n"
    bench.send()
    bench.receive()
    assert held() == {"p256", "rsa"}
    assert bench.give([ids["rsa"]], [keys["ed25519"]]) == b"ok\n"
    assert held() == {"rsa", "ed25519"}
    assert bench.give([ids["rsa"], ids["p256"]], []) == b"no\n", "it cannot keep what it does not have"
    assert held() == {"rsa", "ed25519"}, "and then nothing changes"
    assert bench.give([], []) == b"ok\n"
    assert held() == set()


@pytest.mark.parametrize("equipped", [False, True])
def test_it_ends_when_the_other_process_does(bench: Bench, keys: dict[str, PrivateKey], equipped: bool) -> None:
    if equipped:
        bench.give([], [keys["p256"]])
    bench.requests.close()
    bench.thread.join(SECONDS)  # type: ignore[attr-defined]
    assert not bench.thread.is_alive()  # type: ignore[attr-defined]


def test_it_ends_on_what_is_not_the_protocol(bench: Bench, keys: dict[str, PrivateKey]) -> None:
    bench.give([], [keys["p256"]])
    bench.requests.sendall(b"GET / HTTP/1.1\r\n\r\n")
    bench.thread.join(SECONDS)  # type: ignore[attr-defined]
    assert "does not speak the protocol" in str(bench.ended[0])  # type: ignore[attr-defined]


def test_a_process_that_signals_do_not_end(keys: dict[str, PrivateKey], ids: dict[str, bytes]) -> None:
    bench = Bench()
    descriptors = (bench.their_requests.fileno(), bench.their_keys.fileno())
    argv = [sys.executable, "-m", "keyserver.worker", "--requests", str(descriptors[0]), "--keys", str(descriptors[1])]
    process = subprocess.Popen(argv, pass_fds=descriptors, env={**os.environ, "PYTHONPATH": str(ROOT)})
    bench.their_requests.close()
    bench.their_keys.close()
    try:
        assert bench.give([], [keys["rsa"]]) == b"ok\n"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
        bench.send(Sign(1, ids["rsa"], 0x0804, "", TLS13))
        assert [type(bench.receive()) for _ in range(2)] == [Welcome, Signed]
        assert os.getpriority(os.PRIO_PROCESS, process.pid) > os.getpriority(os.PRIO_PROCESS, 0)
        status = Path(f"/proc/{process.pid}/limits").read_text()
        assert "Max core file size        0 " in status
        bench.requests.close()
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        bench.requests.close()
        bench.keys.close()
