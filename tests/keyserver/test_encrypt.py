"""Keys that were in the clear: encrypted in place, for others to read, and never lost on the way."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from certs.authority import key_id, private_pem
from control.node.files import write_atomic
from keyserver import encrypt
from keyserver.errors import KeyFilesError, StartError
from keyserver.keyfile import PrivateKey
from keyserver.passphrases import Passphrases
from tests.keyserver.conftest import key_store

PASSPHRASE = b"correct horse battery staple"
OTHER = b"Tr0ub4dor&3 and more of it"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
BEGIN = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"


@pytest.fixture
def words(tmp_path: Path) -> dict[bytes, str]:
    """A file with each passphrase."""
    paths = {PASSPHRASE: tmp_path / "new", OTHER: tmp_path / "old"}
    for passphrase, path in paths.items():
        write_atomic(path, passphrase + b"\n")
    return {passphrase: str(path) for passphrase, path in paths.items()}


def run(paths: Sequence[Path], *arguments: str) -> None:
    encrypt.main([*arguments, "--", *map(str, paths)])


@pytest.mark.parametrize("name", ["p256", "p384", "rsa", "ed25519"])
def test_what_is_written_is_scrypt_and_aes(keys: dict[str, PrivateKey], name: str) -> None:
    pem = encrypt.encrypted_pem(keys[name], PASSPHRASE)
    assert pem.startswith(BEGIN)
    again = load_pem_private_key(pem, PASSPHRASE)
    assert key_id(again.public_key()) == key_id(keys[name].public_key())  # type: ignore[arg-type]
    # One in 256 times what comes out is padded well, and the error is another.
    with pytest.raises(ValueError, match=r"Incorrect password|Could not deserialize"):
        load_pem_private_key(pem, OTHER)
    shown = subprocess.run(["openssl", "asn1parse", "-inform", "PEM"], input=pem, capture_output=True, check=True)
    words = shown.stdout.decode()
    assert [oid for oid in ("PBES2", "scrypt", "aes-256-cbc") if oid in words] == ["PBES2", "scrypt", "aes-256-cbc"]
    assert "INTEGER           :4000" in words  # N = 2^14
    secret = keys[name].private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert secret[-32:].hex() not in words.lower()
    openssl = ["openssl", "pkey", "-passin", f"pass:{PASSPHRASE.decode()}", "-noout"]
    assert subprocess.run(openssl, input=pem, capture_output=True).returncode == 0, "OpenSSL's own limits allow it"


@pytest.mark.parametrize("passphrase", [b"", b"short", b"two lines\nof which one counts"])
def test_passphrases_that_protect_nothing(keys: dict[str, PrivateKey], passphrase: bytes) -> None:
    with pytest.raises(StartError, match="one line of 12 or more bytes"):
        encrypt.encrypted_pem(keys["p256"], passphrase)


def test_a_directory(
    key_dir: Path, keys: dict[str, PrivateKey], words: dict[bytes, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (key_dir / "chain.pem").write_bytes(CERTIFICATE)
    both = CERTIFICATE + private_pem(ec.generate_private_key(ec.SECP256R1()))
    write_atomic(key_dir / "both.pem", both.replace(b"\n", b"\r\n"))
    run([key_dir], "--passphrase-file", words[PASSPHRASE])
    assert capsys.readouterr().out.count(": encrypted\n") == 5
    assert (key_dir / "chain.pem").read_bytes() == CERTIFICATE
    assert (key_dir / "both.pem").read_bytes().startswith(CERTIFICATE + BEGIN)
    store = key_store([key_dir], Passphrases(fixed=(PASSPHRASE,)), encrypted_only=True)
    assert len(store) == 5
    assert {path.stat().st_mode & 0o777 for path in key_dir.glob("*.key")} == {0o600}
    before = {path: path.read_bytes() for path in key_dir.iterdir()}
    run([key_dir], "--passphrase-file", words[PASSPHRASE])
    assert {path: path.read_bytes() for path in key_dir.iterdir()} == before, "doing it again changes nothing"
    assert capsys.readouterr().out == ""


def test_the_passphrase_is_changed(key_dir: Path, words: dict[bytes, str]) -> None:
    run([key_dir], "--passphrase-file", words[OTHER])
    with pytest.raises(KeyFilesError, match=r"p256\.key: another passphrase opens it; give that one too"):
        run([key_dir / "p256.key"], "--passphrase-file", words[PASSPHRASE])
    run([key_dir], "--passphrase-file", words[PASSPHRASE], "--old-passphrase-file", words[OTHER])
    assert len(key_store([key_dir], Passphrases(fixed=(PASSPHRASE,)))) == 4
    with pytest.raises(KeyFilesError):
        key_store([key_dir], Passphrases(fixed=(OTHER,)))


def test_an_older_form_becomes_pkcs8(tmp_path: Path, keys: dict[str, PrivateKey], words: dict[bytes, str]) -> None:
    path = tmp_path / "a.key"
    old = keys["rsa"].private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(OTHER))
    write_atomic(path, old)
    run([path], "--passphrase-file", words[PASSPHRASE], "--old-passphrase-file", words[OTHER])
    assert path.read_bytes().startswith(BEGIN)
    assert len(key_store([path], Passphrases(fixed=(PASSPHRASE,)))) == 1


def test_files_that_cannot_be_encrypted_stay_and_are_named(
    key_dir: Path, words: dict[bytes, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(key_dir / "x.key", b"x")
    (key_dir / "rsa.key").chmod(0o644)
    with pytest.raises(KeyFilesError) as caught:
        run([key_dir], "--passphrase-file", words[PASSPHRASE])
    assert [Path(bad.path).name for bad in caught.value.files] == ["rsa.key", "x.key"]
    assert (key_dir / "x.key").read_bytes() == b"x"
    assert (key_dir / "p256.key").read_bytes().startswith(BEGIN), "the others are done"
    (key_dir / "rsa.key").chmod(0o600)
    before = (key_dir / "rsa.key").read_bytes()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(StartError, match="cannot run openssl"):
            run([key_dir / "rsa.key"], "--passphrase-file", words[PASSPHRASE])
    assert (key_dir / "rsa.key").read_bytes() == before


def test_no_passphrase_or_two(key_dir: Path, words: dict[bytes, str], capsys: pytest.CaptureFixture[str]) -> None:
    for given in ([], ["--passphrase-file", words[PASSPHRASE], "--passphrase-file", words[OTHER]]):
        with pytest.raises(SystemExit):
            run([key_dir], *given)
        assert "give one of --passphrase-file" in capsys.readouterr().err


@pytest.mark.root
def test_the_owner_stays(key_dir: Path, words: dict[bytes, str]) -> None:
    os.chown(key_dir / "p256.key", 65534, 65533)
    run([key_dir / "p256.key"], "--passphrase-file", words[PASSPHRASE])
    status = (key_dir / "p256.key").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65533, 0o600)
