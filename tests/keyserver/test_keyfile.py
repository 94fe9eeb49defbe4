"""Keys from files: which are taken, and which are refused and why."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from certs.authority import private_pem
from control.node.files import write_atomic
from keyserver.errors import KeyFilesError
from keyserver.keyfile import PrivateKey
from keyserver.passphrases import Passphrases
from tests.keyserver.conftest import key_store

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
PKCS8 = PrivateFormat.PKCS8


def traditional(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def test_a_directory(key_dir: Path, ids: dict[str, bytes]) -> None:
    (key_dir / "chain.pem").write_bytes(CERTIFICATE)
    (key_dir / "chain.pem").chmod(0o644)
    (key_dir / "README").write_text("not a key")
    (key_dir / ".hidden.key").write_text("half written")
    store = key_store([key_dir])
    assert len(store) == 4
    for key in ids.values():
        signer = store.get(key)
        assert signer is not None
        assert signer.key_id == key
    assert store.get(bytes(32)) is None


def test_files_of_all_forms(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    write_atomic(tmp_path / "a", traditional(keys["p256"]))
    write_atomic(tmp_path / "b", traditional(keys["rsa"]).replace(b"\n", b"\r\n"))
    write_atomic(tmp_path / "c", CERTIFICATE + private_pem(keys["ed25519"]) + private_pem(keys["p384"]))
    assert len(key_store([tmp_path / "a", tmp_path / "b", tmp_path / "c"])) == 4


def test_encrypted_keys(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    write_atomic(tmp_path / "a", keys["p256"].private_bytes(Encoding.PEM, PKCS8, BestAvailableEncryption(b"secret")))
    write_atomic(tmp_path / "b", private_pem(keys["rsa"]))
    write_atomic(tmp_path / "right", b"secret\n")
    write_atomic(tmp_path / "wrong", b"Secret\n")
    paths = [tmp_path / "a", tmp_path / "b"]
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    assert len(key_store(paths, Passphrases((right,)))) == 2
    assert len(key_store(paths, Passphrases((wrong, right)))) == 2, "each is tried in turn"
    with pytest.raises(KeyFilesError, match=r"a: not a usable private key"):
        key_store(paths, Passphrases((wrong,)))
    with pytest.raises(KeyFilesError, match=r"a: it is encrypted; give the key server --passphrase-file"):
        key_store(paths)
    right.chmod(0o644)
    with pytest.raises(KeyFilesError, match=r"right: others than its owner may use it"):
        key_store(paths, Passphrases((right,)))


def weak_rsa() -> bytes:
    return private_pem(rsa.generate_private_key(65537, 1024))


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.key", b"", "no private key in it"),
        ("a.key", CERTIFICATE, "no private key in it"),
        ("a.key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a usable private key"),
        ("a.pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", "not a usable private key"),
        ("a.pem", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "not a usable"),
        ("a.key", weak_rsa(), "RSA with 1024 bits is weak"),
        ("a.key", private_pem(ec.generate_private_key(ec.SECP521R1())), "curve secp521r1 is not used here"),
        (
            "a.key",
            ed448.Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PKCS8, NoEncryption()),
            "keys of its type are not used",
        ),
        ("a.key", b"\0" * 70_000, "longer than 65536 bytes"),
    ],
)
def test_files_that_are_refused(key_dir: Path, name: str, data: bytes, why: str) -> None:
    write_atomic(key_dir / name, data)
    with pytest.raises(KeyFilesError) as caught:
        key_store([key_dir])
    (bad,) = caught.value.files
    assert bad.path == str(key_dir / name)
    assert why in bad.why
    assert bad.remedy


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o666])
def test_keys_that_others_can_read_are_refused(key_dir: Path, mode: int) -> None:
    (key_dir / "rsa.key").chmod(mode)
    with pytest.raises(KeyFilesError, match=rf"rsa\.key: .* \(mode {mode:04o}\); chmod 600 .*rsa\.key"):
        key_store([key_dir])


def test_a_directory_that_others_can_write_is_refused(key_dir: Path) -> None:
    key_dir.chmod(0o770)
    with pytest.raises(KeyFilesError, match=rf"chmod go-w {key_dir}"):
        key_store([key_dir])


def test_every_bad_file_is_named(key_dir: Path, tmp_path: Path) -> None:
    write_atomic(key_dir / "x.key", b"x")
    (key_dir / "rsa.key").chmod(0o644)
    with pytest.raises(KeyFilesError) as caught:
        key_store([key_dir, tmp_path / "missing", Path("/dev/null")])
    assert [Path(bad.path).name for bad in caught.value.files] == ["rsa.key", "x.key", "missing", "null"]


@pytest.mark.root
@pytest.mark.parametrize("what", ["rsa.key", "."])
def test_a_file_or_directory_of_someone_else(key_dir: Path, what: str) -> None:
    os.chown(key_dir / what, 65534, 65534)
    os.seteuid(65533)
    try:
        with pytest.raises(KeyFilesError, match=r"Permission denied; make it readable for the key server's user"):
            key_store([key_dir / what])
    finally:
        os.seteuid(0)
