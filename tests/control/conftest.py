"""A small CA of the test's own: identities as `python -m certs issue` writes them; a user of the REST API."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from control import api
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from control.tokens import set_token
from tests.control.api_user import User
from tests.control.etcd_members import Members


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


class Authority:
    """A CA that issues identity directories below `root`."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (
            _builder(name, name, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, role: str, name: str, uris: list[str] | None = None) -> Path:
        """Write DIR/{ca,cert,key}.pem for a node and return DIR."""
        uris = [f"paifang://node/{role}/{name}"] if uris is None else uris
        return self._issue(role, name, [x509.DNSName(name), *(x509.UniformResourceIdentifier(uri) for uri in uris)])

    def issue_server(self, name: str) -> Path:
        """The same for a server on loopback."""
        return self._issue("server", name, [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])

    def _issue(self, role: str, name: str, names: list[x509.GeneralName]) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(name, self.name, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        directory = self.root / f"{self.name}-{role}-{name}"
        directory.mkdir()
        pem = serialization.Encoding.PEM
        (directory / "ca.pem").write_bytes(self.certificate.public_bytes(pem))
        (directory / "cert.pem").write_bytes(certificate.public_bytes(pem))
        (directory / "key.pem").touch(0o600)
        (directory / "key.pem").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return directory


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def foreign_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "foreign")


@pytest.fixture
def authority_chain(authority: Authority) -> str:
    """A public chain in PEM."""
    return (authority.issue("l7", "chain") / "cert.pem").read_text()


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """`python3 -m http.server`, and its port."""
    directory = tmp_path_factory.mktemp("www")
    (directory / "index.html").write_text("behind the arch\n")
    argv = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"port (\d+)", line)
        assert match, line
        yield int(match[1])
        process.terminate()


@pytest.fixture
async def user(tmp_path: Path) -> AsyncIterator[User]:
    store = await SqliteStore.open(tmp_path / "control.db")
    plane = await ControlPlane.load(store)
    async with TestClient(TestServer(api.application(plane))) as client:
        yield User(client, plane, await set_token(store, "ann"))
    await store.close()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    """One member, for all tests of a process; each has a prefix of its own."""
    members = Members(tmp_path_factory.mktemp("etcd"), 1)
    yield members
    members.close()
