"""Keys, chains and running key servers for the tests."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certs.authority import Authority, key_id, private_pem
from control.node.files import write_atomic
from control.node.identity import Identity
from keyserver.audit import AuditLog
from keyserver.keyfile import PrivateKey
from keyserver.policy import Access
from keyserver.server import KeyServer
from keyserver.service import Service
from keyserver.store import KeyStore

TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(range(32))


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


StartServer = Callable[..., Awaitable[KeyServer]]


@pytest.fixture
async def start_server(tmp_path: Path, key_dir: Path) -> AsyncIterator[StartServer]:
    """Makes key servers on `path`; each one is drained at the end."""
    servers: list[tuple[KeyServer, AuditLog]] = []

    async def start(path: Path | None = None, rate: float = 1e6, uids: frozenset[int] | None = None) -> KeyServer:
        audit = AuditLog(tmp_path / "audit.log")
        server = KeyServer(Service(KeyStore([key_dir]), audit, rate=rate), Access(uids or frozenset({os.getuid()})))
        servers.append((server, audit))
        if path is not None:
            await server.listen_unix(path)
        return server

    yield start
    for server, audit in servers:
        await server.drain(0.2)
        audit.close()
    await asyncio.sleep(0)
