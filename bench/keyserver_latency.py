"""How long a P-256 signature takes from outside while the key server is busy with RSA, next to how long it takes alone.

The probe asks for one signature at a time over its own connection, with pauses, on a plain blocking socket: what it
measures is the server and the kernel, and no event loop of its own. It runs before others on its core (nice, where
allowed), the load, a process of its own that keeps RSA requests in flight, behind it. The server and all of its workers
share the other core, which is the worst case: with more cores the kernel moves the RSA worker away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.keyserver_content import CONTENT, P256, RSA
from control.node.children import Child
from control.node.identity import Identity
from keyserver.client import KeyClient
from keyserver.errors import KeyServerError
from keyserver.protocol import Hello, Message, Sign, Signed, Welcome, client_side

ROOT = Path(__file__).parent.parent
LOAD_IN_FLIGHT = 64  # more than an RSA worker gets done before the probe asks again
PAUSE_S = 0.001
WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds."""

    p50: float
    p99: float


def of(samples_us: Sequence[float]) -> Latency:
    cuts = statistics.quantiles(samples_us, n=100)
    return Latency(cuts[49], cuts[98])


class Probe:
    """One connection that is asked for one signature at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._wire = client_side()
        self._wire.data_to_send()
        assert isinstance(self._ask(Hello()), Welcome)

    def _ask(self, message: Message) -> object:
        self._wire.send(message)
        self._sock.sendall(self._wire.data_to_send())
        while not (events := self._wire.events()):
            self._wire.receive_data(self._sock.recv(65536))
        return events[0]

    def samples(self, key_id: bytes, count: int) -> list[float]:
        """How long each signature took, in microseconds."""
        taken = []
        for number in range(1, count + 1):
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            reply = self._ask(Sign(number, key_id, P256, "bench.test", CONTENT))
            taken.append((time.perf_counter() - began) * 1e6)
            if not isinstance(reply, Signed):
                raise RuntimeError(f"no signature: {reply}")
        return taken

    def close(self) -> None:
        self._sock.close()


def by_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(path))
    return sock


def by_tls(port: int, identity: Path) -> socket.socket:
    """As an L7 node of this identity."""
    plain = socket.create_connection(("127.0.0.1", port), 20)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Identity.load(identity).client_context().wrap_socket(plain)


@contextlib.contextmanager
def first_on_its_core() -> Iterator[None]:
    with contextlib.suppress(OSError):
        os.nice(-15)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.nice(15)


def of_each(ways: Mapping[str, socket.socket], key_id: bytes, rounds: int, count: int) -> dict[str, Latency]:
    """What a signature takes by each way to the server, with nothing else going on."""
    probes = {way: Probe(sock) for way, sock in ways.items()}
    runs: dict[str, list[Latency]] = {way: [] for way in ways}
    with contextlib.ExitStack() as stack, first_on_its_core():
        for probe in probes.values():
            stack.callback(probe.close)
            probe.samples(key_id, WARM_UP)
        for _ in range(rounds):
            for way, probe in probes.items():
                runs[way].append(of(probe.samples(key_id, count)))
    return {way: _best(each) for way, each in runs.items()}


@contextlib.contextmanager
def load(path: Path, key_id: bytes, directory: Path) -> Iterator[None]:
    """RSA requests in flight all the time, from another process."""
    argv = [sys.executable, "-m", "bench.keyserver_latency", str(path), key_id.hex()]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONASYNCIODEBUG": "0"}
    child = Child.start("load", argv, log=directory / "load.log", notify_dir=directory, env=environment)
    try:
        child.wait_ready(20)
        yield
    finally:
        child.terminate(20)


def compare(path: Path, keys: dict[int, bytes], directory: Path, rounds: int, count: int) -> tuple[Latency, Latency]:
    """Alone, and under load. Interleaved; of each the round that neighbours on the machine disturbed least."""
    probe = Probe(by_unix(path))
    alone, loaded = [], []
    with contextlib.closing(probe), first_on_its_core():
        probe.samples(keys[P256], WARM_UP)
        for _ in range(rounds):
            alone.append(of(probe.samples(keys[P256], count)))
            with load(path, keys[RSA], directory):
                loaded.append(of(probe.samples(keys[P256], count)))
    return _best(alone), _best(loaded)


def _best(runs: Sequence[Latency]) -> Latency:
    return Latency(min(run.p50 for run in runs), min(run.p99 for run in runs))


async def _load(path: str, key_id: bytes) -> None:
    from control.node.notify import notify

    client = KeyClient([f"unix:{path}"], deadline_s=30)
    await client.start()

    def again(result: bytes | KeyServerError | None) -> None:
        if isinstance(result, KeyServerError):
            raise result
        client.sign_soon(key_id, RSA, CONTENT, "load.test", again)

    for _ in range(LOAD_IN_FLIGHT):
        again(None)
    await asyncio.sleep(0.3)
    notify("READY=1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_load(sys.argv[1], bytes.fromhex(sys.argv[2])))
