"""Keys from files: which are taken, which are refused and why, and what a reload changes."""

import os
import pickle
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from certs.authority import key_id, private_pem
from control.node.files import write_atomic
from keyserver.encrypt import encrypted_pem
from keyserver.errors import ErrorCode, KeyFilesError, KeyServerError
from keyserver.keyfile import PrivateKey
from keyserver.passphrases import Passphrases
from keyserver.store import KeyStore, Signer

SHA = {4: hashes.SHA256(), 5: hashes.SHA384(), 6: hashes.SHA512()}
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
PKCS8 = PrivateFormat.PKCS8


def traditional(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


@pytest.mark.parametrize(
    ("name", "schemes"),
    [
        ("p256", [0x0403, 0x0503, 0x0603]),
        ("p384", [0x0403, 0x0503, 0x0603]),
        ("rsa", [0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806]),
        ("ed25519", [0x0807]),
    ],
)
def test_signatures_verify(keys: dict[str, PrivateKey], name: str, schemes: list[int]) -> None:
    key = keys[name]
    signer = Signer(key)
    assert signer.key_id == key_id(key.public_key())
    for scheme in schemes:
        signature = signer.sign(scheme, b"content")
        verify(key, scheme, signature, b"content")
        with pytest.raises(InvalidSignature):
            verify(key, scheme, signature, b"other")
    for scheme in {0x0403, 0x0804, 0x0807, 0x0201, 0x0000} - set(schemes):
        with pytest.raises(KeyServerError) as caught:
            signer.sign(scheme, b"content")
        assert caught.value.code is ErrorCode.REFUSED_SCHEME


def verify(key: PrivateKey, scheme: int, signature: bytes, content: bytes) -> None:
    """Straight from RFC 8446 section 4.2.3, apart from the code under test."""
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, content, ec.ECDSA(SHA[scheme >> 8]))
    elif isinstance(public, rsa.RSAPublicKey):
        if scheme >> 8 == 8:
            sha = SHA[scheme & 0xFF]
            public.verify(signature, content, padding.PSS(padding.MGF1(sha), sha.digest_size), sha)
        else:
            public.verify(signature, content, padding.PKCS1v15(), SHA[scheme >> 8])
    else:
        public.verify(signature, content)


def test_a_directory(key_dir: Path, ids: dict[str, bytes]) -> None:
    (key_dir / "chain.pem").write_bytes(CERTIFICATE)
    (key_dir / "chain.pem").chmod(0o644)
    (key_dir / "README").write_text("not a key")
    (key_dir / ".hidden.key").write_text("half written")
    store = KeyStore([key_dir])
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
    assert len(KeyStore([tmp_path / "a", tmp_path / "b", tmp_path / "c"])) == 4


def test_encrypted_keys(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    write_atomic(tmp_path / "a", keys["p256"].private_bytes(Encoding.PEM, PKCS8, BestAvailableEncryption(b"secret")))
    write_atomic(tmp_path / "b", private_pem(keys["rsa"]))
    write_atomic(tmp_path / "right", b"secret\n")
    write_atomic(tmp_path / "wrong", b"Secret\n")
    paths = [tmp_path / "a", tmp_path / "b"]
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    assert len(KeyStore(paths, Passphrases((right,)))) == 2
    assert len(KeyStore(paths, Passphrases((wrong, right)))) == 2, "each is tried in turn"
    with pytest.raises(KeyFilesError, match=r"a: not a usable private key"):
        KeyStore(paths, Passphrases((wrong,)))
    with pytest.raises(KeyFilesError, match=r"a: it is encrypted; give the key server --passphrase-file"):
        KeyStore(paths)
    right.chmod(0o644)
    with pytest.raises(KeyFilesError, match=r"right: others than its owner may use it"):
        KeyStore(paths, Passphrases((right,)))


def test_keys_in_the_clear_are_told_apart(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    write_atomic(tmp_path / "a.key", encrypted_pem(keys["p256"], b"a passphrase"))
    write_atomic(tmp_path / "b.key", private_pem(keys["rsa"]))
    opened_by = Passphrases(fixed=(b"a passphrase",))
    store = KeyStore([tmp_path], opened_by)
    assert store.in_the_clear == (tmp_path / "b.key",)
    with pytest.raises(KeyFilesError, match=r"b\.key: it is not encrypted; `paifang keyserver encrypt"):
        KeyStore([tmp_path], opened_by, encrypted_only=True)
    write_atomic(tmp_path / "b.key", encrypted_pem(keys["rsa"], b"a passphrase"))
    assert store.reload(always=False) == (0, 0)
    assert store.in_the_clear == ()
    assert len(KeyStore([tmp_path], opened_by, encrypted_only=True)) == 2


def test_a_passphrase_that_changes_is_noticed(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    write_atomic(tmp_path / "a.key", encrypted_pem(keys["p256"], b"a passphrase"))
    write_atomic(tmp_path / "passphrase", b"a passphrase")
    store = KeyStore([tmp_path / "a.key"], Passphrases((tmp_path / "passphrase",)))
    write_atomic(tmp_path / "passphrase", b"another passphrase")
    with pytest.raises(KeyFilesError, match=r"a\.key: not a usable private key"):
        store.reload(always=False)
    assert len(store) == 1


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
        KeyStore([key_dir])
    (bad,) = caught.value.files
    assert bad.path == str(key_dir / name)
    assert why in bad.why
    assert bad.remedy


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o666])
def test_keys_that_others_can_read_are_refused(key_dir: Path, mode: int) -> None:
    (key_dir / "rsa.key").chmod(mode)
    with pytest.raises(KeyFilesError, match=rf"rsa\.key: .* \(mode {mode:04o}\); chmod 600 .*rsa\.key"):
        KeyStore([key_dir])


def test_a_directory_that_others_can_write_is_refused(key_dir: Path) -> None:
    key_dir.chmod(0o770)
    with pytest.raises(KeyFilesError, match=rf"chmod go-w {key_dir}"):
        KeyStore([key_dir])


def test_every_bad_file_is_named(key_dir: Path, tmp_path: Path) -> None:
    write_atomic(key_dir / "x.key", b"x")
    (key_dir / "rsa.key").chmod(0o644)
    with pytest.raises(KeyFilesError) as caught:
        KeyStore([key_dir, tmp_path / "missing", Path("/dev/null")])
    assert [Path(bad.path).name for bad in caught.value.files] == ["rsa.key", "x.key", "missing", "null"]


def test_reload(key_dir: Path, keys: dict[str, PrivateKey], ids: dict[str, bytes]) -> None:
    store = KeyStore([key_dir])
    assert store.reload(always=False) is None
    assert store.reload() == (0, 0)
    fresh = ec.generate_private_key(ec.SECP256R1())
    write_atomic(key_dir / "fresh.pem", private_pem(fresh))
    (key_dir / "rsa.key").unlink()
    assert store.reload(always=False) == (1, 1)
    assert key_id(fresh.public_key()) in store
    assert ids["rsa"] not in store


def test_a_bad_file_keeps_the_old_set(key_dir: Path, ids: dict[str, bytes]) -> None:
    store = KeyStore([key_dir])
    good = (key_dir / "p256.key").read_bytes()
    write_atomic(key_dir / "p256.key", good[:100])
    with pytest.raises(KeyFilesError, match=r"p256\.key"):
        store.reload(always=False)
    assert all(key in store for key in ids.values())
    assert store.reload(always=False) is None, "the same mistake is reported once"
    with pytest.raises(KeyFilesError):
        store.reload()
    write_atomic(key_dir / "p256.key", good)
    assert store.reload(always=False) == (0, 0)


def test_a_permission_that_is_mended_is_noticed(key_dir: Path) -> None:
    store = KeyStore([key_dir])
    for bad, good, path in ((0o644, 0o600, key_dir / "rsa.key"), (0o777, 0o700, key_dir)):
        path.chmod(bad)
        with pytest.raises(KeyFilesError):
            store.reload(always=False)
        path.chmod(good)
        assert store.reload(always=False) == (0, 0)


def test_key_material_does_not_leave(keys: dict[str, PrivateKey]) -> None:
    for key in keys.values():
        signer = Signer(key)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        secret = key.private_bytes(Encoding.DER, PKCS8, NoEncryption())
        with pytest.raises(TypeError, match="stays in its process"):
            pickle.dumps(signer)
        assert {name for name in dir(signer) if not name.startswith("_")} == {"key_id", "key_type", "sign"}
        assert secret.hex() not in repr(signer)
        assert signer.key_id not in (secret, public)


@pytest.mark.root
@pytest.mark.parametrize("what", ["rsa.key", "."])
def test_a_file_or_directory_of_someone_else(key_dir: Path, what: str) -> None:
    os.chown(key_dir / what, 65534, 65534)
    os.seteuid(65533)
    try:
        with pytest.raises(KeyFilesError, match=r"Permission denied; make it readable for the key server's user"):
            KeyStore([key_dir / what])
    finally:
        os.seteuid(0)
