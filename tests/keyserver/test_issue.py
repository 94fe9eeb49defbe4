"""Development certificates: the key is made in place and is never overwritten."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certs.authority import Authority
from certs.chain import inspect
from control.node.files import write_atomic
from keyserver import issue
from keyserver.errors import KeyFilesError, StartError
from tests.keyserver.conftest import key_store


@pytest.fixture
def ca_dir(tmp_path: Path) -> Path:
    Authority.init(tmp_path / "ca")
    return tmp_path / "ca"


@pytest.mark.parametrize("use_rsa", [False, True])
def test_a_certificate_that_the_key_server_can_serve(tmp_path: Path, ca_dir: Path, use_rsa: bool) -> None:
    chain = tmp_path / "web.pem"
    key = issue.issue(tmp_path / "keys", ca_dir, "web", ["a.test", "*.a.test"], chain, use_rsa=use_rsa)
    assert key == tmp_path / "keys" / "web.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert chain.stat().st_mode & 0o777 == 0o644
    assert "PRIVATE" not in chain.read_text()
    store = key_store([tmp_path / "keys"])
    leaf = x509.load_pem_x509_certificate(chain.read_bytes())
    report = inspect(chain.read_text(), leaf.not_valid_before_utc, store.__contains__)
    assert (report.names, report.problems) == (("a.test", "*.a.test"), ())
    public_key = leaf.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey if use_rsa else ec.EllipticCurvePublicKey)


def test_issuing_again_keeps_the_key(tmp_path: Path, ca_dir: Path) -> None:
    chain = tmp_path / "web.pem"
    key = issue.issue(tmp_path / "keys", ca_dir, "web", ["a.test"], chain)
    before, first = key.read_bytes(), chain.read_bytes()
    issue.issue(tmp_path / "keys", ca_dir, "web", ["a.test", "b.test"], chain)
    assert key.read_bytes() == before
    assert chain.read_bytes() != first
    with pytest.raises(StartError, match="another type is there and is never overwritten"):
        issue.issue(tmp_path / "keys", ca_dir, "web", ["a.test"], chain, use_rsa=True)
    assert key.read_bytes() == before


def test_a_key_that_is_encrypted_from_its_first_moment(tmp_path: Path, ca_dir: Path) -> None:
    write_atomic(tmp_path / "passphrase", b"correct horse battery staple\n")
    arguments = ["--keys", str(tmp_path / "keys"), "--ca", str(ca_dir), "--name", "web", "--domain", "a.test"]
    arguments += ["--chain-out", str(tmp_path / "web.pem"), "--passphrase-file", str(tmp_path / "passphrase")]
    issue.main(arguments)
    text = (tmp_path / "keys" / "web.key").read_text()
    assert text.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    issue.main(arguments)
    assert (tmp_path / "keys" / "web.key").read_text() == text
    with pytest.raises(KeyFilesError, match=r"web\.key: it is encrypted"):
        issue.issue(tmp_path / "keys", ca_dir, "web", ["a.test"], tmp_path / "web.pem")


@pytest.mark.parametrize(
    ("name", "domains", "why"),
    [("../web", ["a.test"], "--name"), ("", ["a.test"], "--name"), ("web", ["a b"], "domain 'a b'")],
)
def test_mistakes(tmp_path: Path, ca_dir: Path, name: str, domains: list[str], why: str) -> None:
    with pytest.raises(StartError, match=why):
        issue.issue(tmp_path / "keys", ca_dir, name, domains, tmp_path / "web.pem")
    assert not (tmp_path / "web.pem").exists()


def test_what_is_missing_or_broken(tmp_path: Path, ca_dir: Path) -> None:
    with pytest.raises(StartError, match="paifang certs init"):
        issue.issue(tmp_path / "keys", tmp_path / "none", "web", ["a.test"], tmp_path / "web.pem")
    with pytest.raises(StartError, match=r"/no/web\.pem: No such file or directory; give"):
        issue.issue(tmp_path / "keys", ca_dir, "web", ["a.test"], tmp_path / "no" / "web.pem")
    write_atomic(tmp_path / "keys" / "bad.key", b"garbage")
    with pytest.raises(KeyFilesError, match=r"bad\.key: no private key in it"):
        issue.issue(tmp_path / "keys", ca_dir, "bad", ["a.test"], tmp_path / "web.pem")
    assert (tmp_path / "keys" / "bad.key").read_bytes() == b"garbage"
