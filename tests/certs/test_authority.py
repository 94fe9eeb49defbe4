"""The CA and what it issues, judged by OpenSSL and by the library that verifies peers."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from certs.authority import ROLES, Authority, AuthorityError, NodeIdentity, key_id
from control.node.files import write_atomic
from control.node.identity import Identity

NOW = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.init(tmp_path_factory.mktemp("authority") / "ca")


def read(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_init_twice_is_one_ca(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "ca"
    first = Authority.init(directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    second = Authority.init(directory)
    assert first.ca_pem == second.ca_pem == before["ca.pem"]
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert set(before) == {"ca.pem", "ca-key.pem"}
    assert mode(directory) == 0o700
    assert mode(directory / "ca-key.pem") == 0o600
    assert [path.name for path in directory.parent.iterdir()] == ["ca"], "nothing is left beside it"


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    assert Authority.init(tmp_path / ".").ca_pem == (tmp_path / "ca.pem").read_bytes()


@pytest.mark.parametrize("kept", ["ca.pem", "ca-key.pem"])
def test_half_a_ca_is_never_completed(tmp_path: Path, kept: str) -> None:
    directory = tmp_path / "ca"
    Authority.init(directory)
    gone = ({"ca.pem", "ca-key.pem"} - {kept}).pop()
    data = (directory / kept).read_bytes()
    (directory / gone).unlink()
    with pytest.raises(AuthorityError, match=rf"{gone}: No such file or directory; .*backup"):
        Authority.init(directory)
    assert [path.name for path in directory.iterdir()] == [kept]
    assert (directory / kept).read_bytes() == data


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "thesis.txt").write_text("important")
    with pytest.raises(AuthorityError, match="give a directory that is missing or empty"):
        Authority.init(tmp_path / "ca")
    assert [path.name for path in tmp_path.rglob("*")] == ["ca", "thesis.txt"]


def test_bad_cas_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Authority.init(tmp_path / name)
    with pytest.raises(AuthorityError, match="init"):
        Authority.load(tmp_path / "missing")
    (tmp_path / "a" / "ca-key.pem").chmod(0o640)
    with pytest.raises(AuthorityError, match="others may read it; chmod 600"):
        Authority.load(tmp_path / "a")
    write_atomic(tmp_path / "a" / "ca-key.pem", (tmp_path / "b" / "ca-key.pem").read_bytes())
    with pytest.raises(AuthorityError, match="not the key of"):
        Authority.load(tmp_path / "a")
    write_atomic(tmp_path / "b" / "ca.pem", b"garbage")
    with pytest.raises(AuthorityError, match="not a CA"):
        Authority.load(tmp_path / "b")
    Authority.init(tmp_path / "old", now=datetime(2010, 1, 1, tzinfo=UTC))
    with pytest.raises(AuthorityError, match="expired on 2019"):
        Authority.load(tmp_path / "old")


def test_the_ca_certificate(authority: Authority) -> None:
    certificate = authority.certificate
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_KEY_IDENTIFIER)


@pytest.mark.parametrize("role", ROLES)
def test_node_identities(authority: Authority, tmp_path: Path, role: str) -> None:
    authority.issue_node(role, "n-1.a", ["10.0.0.1", "fd00::1"], now=NOW).write(tmp_path / "n")
    certificate = read((tmp_path / "n" / "cert.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"paifang://node/{role}/n-1.a"]
    assert names.get_values_for_type(x509.DNSName) == ["n-1.a"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.1", "fd00::1"]
    assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    identity = Identity.load(tmp_path / "n")
    assert (identity.role, identity.name) == (role, "n-1.a")
    assert {path.name: mode(path) for path in (tmp_path / "n").iterdir()} == {
        "ca.pem": 0o600,
        "cert.pem": 0o600,
        "key.pem": 0o600,
    }


def test_openssl_agrees(authority: Authority, tmp_path: Path) -> None:
    authority.issue_node("l7", "a").write(tmp_path / "a")
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "leaf.pem").write_bytes(authority.issue_leaf(key.public_key(), ["a.test"]))
    verify = ["verify", "-x509_strict", "-CAfile", tmp_path / "a" / "ca.pem"]
    for purpose in ("sslclient", "sslserver"):
        assert ": OK" in openssl(*verify, "-purpose", purpose, tmp_path / "a" / "cert.pem")
    assert ": OK" in openssl(*verify, "-purpose", "sslserver", "-verify_hostname", "a.test", tmp_path / "leaf.pem")
    refused = openssl(*verify, "-purpose", "sslclient", tmp_path / "leaf.pem")
    assert "nsuitable certificate purpose" in refused, "a development leaf is no node"


def test_serial_numbers_and_keys_differ(authority: Authority) -> None:
    first, second = (read(authority.issue_node("l7", "a").certificate) for _ in range(2))
    assert first.serial_number != second.serial_number
    assert first.public_key() != second.public_key()


@pytest.mark.parametrize(
    ("role", "name", "ips", "why"),
    [
        ("admin", "a", [], "give one of l4, l7, keyserver, control"),
        ("l7", "", [], "give a name"),
        ("l7", "a/b", [], "give a name"),
        ("l7", "-a", [], "give a name"),
        ("l7", "a" * 65, [], "at most 64"),
        ("l7", "a", ["10.0.0.256"], "not an IP address"),
    ],
)
def test_identities_that_are_refused(authority: Authority, role: str, name: str, ips: list[str], why: str) -> None:
    with pytest.raises(AuthorityError, match=why):
        authority.issue_node(role, name, ips)


def test_an_identity_of_another_ca_is_not_overwritten(authority: Authority, tmp_path: Path) -> None:
    authority.issue_node("l7", "a").write(tmp_path / "a")
    authority.issue_node("l7", "a").write(tmp_path / "a")
    before = (tmp_path / "a" / "key.pem").read_bytes()
    other = Authority.init(tmp_path / "other")
    with pytest.raises(AuthorityError, match="another CA"):
        other.issue_node("l7", "a").write(tmp_path / "a")
    assert (tmp_path / "a" / "key.pem").read_bytes() == before
    with pytest.raises(AuthorityError, match="Not a directory"):
        NodeIdentity(b"", b"", b"").write(tmp_path / "a" / "key.pem" / "x")


def test_leaves(authority: Authority) -> None:
    public_key = ec.generate_private_key(ec.SECP384R1()).public_key()
    domains = ["a.test", "*.a.test", "127.0.0.1", "::1", "x" * 60 + ".test"]
    certificate = read(authority.issue_leaf(public_key, domains, now=NOW))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.test", "*.a.test", "x" * 60 + ".test"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert certificate.not_valid_after_utc == NOW + timedelta(days=90)
    assert key_id(certificate.public_key()) == key_id(public_key)  # type: ignore[arg-type]


@pytest.mark.parametrize("domains", [[], ["a b"], ["*.*.test"], ["*"], ["https://a.test"], ["a..test"], ["ü.test"]])
def test_leaves_that_are_refused(authority: Authority, domains: list[str]) -> None:
    with pytest.raises(AuthorityError, match="domain"):
        authority.issue_leaf(ec.generate_private_key(ec.SECP256R1()).public_key(), domains)


def test_a_place_that_we_may_not_look_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(AuthorityError, match="cannot make a CA here: Permission denied; give a directory"):
        Authority.init(tmp_path / "ca")
