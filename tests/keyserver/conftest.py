"""Keys, chains and running key servers for the tests."""

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certs.authority import Authority, key_id, private_pem
from control.node.files import write_atomic
from control.node.identity import Identity
from keyserver.audit import AuditLog
from keyserver.crew import Crew
from keyserver.keyfile import PrivateKey
from keyserver.keyring import Keyring, Sources
from keyserver.passphrases import NONE, Passphrases
from keyserver.policy import Access, KeyType
from keyserver.reader import Order, Reading, carry_out, order_from_json, reading_from_json, to_json
from keyserver.server import KeyServer
from keyserver.service import Service
from keyserver.store import KeyStore
from keyserver.worker import Worker

TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(range(32))
TLS12 = bytes(64) + bytes([3, 0, 29, 32]) + bytes(range(32))


@pytest.fixture(scope="session")
def keys() -> dict[str, PrivateKey]:
    return {
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "p384": ec.generate_private_key(ec.SECP384R1()),
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }


@pytest.fixture(scope="session")
def ids(keys: dict[str, PrivateKey]) -> dict[str, bytes]:
    return {name: key_id(key.public_key()) for name, key in keys.items()}


@pytest.fixture
def key_dir(tmp_path: Path, keys: dict[str, PrivateKey]) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    for name, key in keys.items():
        write_atomic(directory / f"{name}.key", private_pem(key))
    return directory


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.init(tmp_path_factory.mktemp("ca") / "ca")


@pytest.fixture
def identity(tmp_path: Path, ca: Authority) -> Callable[[str, str], Identity]:
    def make(role: str, name: str) -> Identity:
        ca.issue_node(role, name).write(tmp_path / f"{role}-{name}")
        return Identity.load(tmp_path / f"{role}-{name}")

    return make


class WorkerThread:
    """A worker as a thread of this process: all of a worker but the process, at a hundredth of its cost."""

    def __init__(self, requests: socket.socket, keys: socket.socket) -> None:
        self._sockets = (requests.dup(), keys.dup())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.pid = 0
        self._thread.start()

    def _run(self) -> None:
        with self._sockets[0], self._sockets[1], contextlib.suppress(OSError):
            Worker(*self._sockets).run()

    def kill(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        return 0


async def read_here(order: Order) -> Reading:
    """The reader without its process."""
    answer = await asyncio.to_thread(carry_out, order_from_json(to_json(order)))
    return reading_from_json(to_json(answer))


def key_store(paths: Sequence[Path], passphrases: Passphrases = NONE, *, encrypted_only: bool = False) -> KeyStore:
    """All keys of some files, in this process. Raises KeyFilesError."""
    ring = Keyring(Sources(tuple(paths), passphrases, encrypted_only), read=read_here)
    asyncio.run(ring.reload())
    return ring.store


@dataclass
class Serving:
    """A key server with its crew of one thread."""

    server: KeyServer
    keyring: Keyring
    crew: Crew
    audit: AuditLog

    @classmethod
    async def begin(cls, key_dir: Path, audit_log: Path, rate: float, uids: frozenset[int]) -> "Serving":
        audit = AuditLog(audit_log)
        crew = Crew("rsa", [KeyType.RSA], 1, WorkerThread)
        keyring = Keyring(Sources((key_dir,)), [crew], read_here)
        await crew.start()
        await keyring.reload()
        while not crew.ready:
            await asyncio.sleep(0)
        server = KeyServer(Service(keyring.store, audit, rate=rate), Access(uids), [crew])
        return cls(server, keyring, crew, audit)

    async def end(self, drain_s: float = 0.2) -> None:
        await self.server.drain(drain_s)
        await self.keyring.close()
        await self.crew.close()
        self.audit.close()


StartServer = Callable[..., Awaitable[KeyServer]]


@pytest.fixture
def serving() -> list[Serving]:
    """What `start_server` has started."""
    return []


@pytest.fixture
async def start_server(tmp_path: Path, key_dir: Path, serving: list[Serving]) -> AsyncIterator[StartServer]:
    """Makes key servers on `path`; each one is drained at the end."""

    async def start(path: Path | None = None, rate: float = 1e6, uids: frozenset[int] | None = None) -> KeyServer:
        one = await Serving.begin(key_dir, tmp_path / "audit.log", rate, uids or frozenset({os.getuid()}))
        serving.append(one)
        if path is not None:
            await one.server.listen_unix(path)
        return one.server

    yield start
    for one in serving:
        await one.end()
    await asyncio.sleep(0)


def audited(path: Path) -> list[dict[str, str]]:
    """The audit lines of signatures, given and refused."""
    lines: list[dict[str, str]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "event" not in line]


def events(path: Path) -> list[dict[str, str]]:
    """The other audit lines."""
    lines: list[dict[str, str]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "event" in line]
