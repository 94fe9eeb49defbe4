"""The keys: from PEM files to signers, and never back.

A `Signer` signs and says what it is; the private key stays inside the library's own object behind it, which no method
hands out, and which is neither printed nor pickled. A `KeyStore` maps key ids (SHA-256 of the SubjectPublicKeyInfo) to
signers. A reload reads everything anew and takes effect by one assignment; if a single file cannot be used, nothing
changes and the error names each such file. Every file named must hold a private key; in a directory, `*.key` files
must, and `*.pem` files without one are taken for certificates and skipped.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certs.authority import key_id
from keyserver.errors import BadFile, ErrorCode, KeyFilesError, KeyServerError
from keyserver.policy import KeyType

MIN_RSA_BITS = 2048  # NIST SP 800-131A
MAX_KEY_FILE_BYTES = 1 << 16
SUFFIXES = (".pem", ".key")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Operation = Callable[[bytes], bytes]
Fingerprint = tuple[tuple[str, int, int, int], ...]

Sha2 = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

_SHA2: Mapping[int, Sha2] = {
    4: hashes.SHA256(),
    5: hashes.SHA384(),
    6: hashes.SHA512(),
}
_BEGIN, _END = "-----BEGIN ", "PRIVATE KEY-----"


class Signer:
    """One key: what it is, and the act of signing."""

    __slots__ = ("_operations", "key_id", "key_type")

    def __init__(self, key: PrivateKey) -> None:
        self.key_type = _type_of(key)
        self.key_id = key_id(key.public_key())
        self._operations = _operations(key)

    def sign(self, scheme: int, content: bytes) -> bytes:
        """The signature of `content`, as TLS sends it. Raises KeyServerError for a scheme this type of key lacks."""
        operation = self._operations.get(scheme)
        if operation is None:
            raise KeyServerError(ErrorCode.REFUSED_SCHEME)
        return operation(content)

    def __repr__(self) -> str:
        return f"<Signer {self.key_type} {self.key_id.hex()[:16]}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key stays in its process")


class KeyStore:
    """The signers of all keys below `paths`, and the way to read them anew. Safe to use from several threads.

    passphrase_file: opens those keys that are encrypted. Raises KeyFilesError for what cannot be used.
    """

    def __init__(self, paths: Sequence[Path], passphrase_file: Path | None = None) -> None:
        self._paths = tuple(paths)
        self._passphrase_file = passphrase_file
        self._lock = threading.Lock()
        self._fingerprint = self._look()
        self._signers: Mapping[bytes, Signer] = self._read()

    def get(self, key_id: bytes) -> Signer | None:
        return self._signers.get(key_id)

    def __contains__(self, key_id: bytes) -> bool:
        return key_id in self._signers

    def __len__(self) -> int:
        return len(self._signers)

    def reload(self, *, always: bool = True) -> tuple[int, int] | None:
        """Read everything anew: (keys added, keys removed). Without `always`, only if a file has changed, else None.

        Raises KeyFilesError; then the old set stays, and only a further change makes `reload(always=False)` try again.
        """
        with self._lock:
            fingerprint = self._look()  # before reading: a change in between is seen the next time
            if not always and fingerprint == self._fingerprint:
                return None
            self._fingerprint = fingerprint
            old, new = self._signers, self._read()
            self._signers = new
            return len(new.keys() - old.keys()), len(old.keys() - new.keys())

    def _files(self) -> list[tuple[Path, bool]]:
        """Key files, and whether each must hold a private key. A missing path is listed, to be complained of."""
        files: list[tuple[Path, bool]] = []
        for path in self._paths:
            try:
                inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
                files += [(file, file.suffix == ".key") for file in inside]
            except OSError:  # not a directory, or none that we may read: reading it as a file says what it is
                files.append((path, True))
        return files

    def _look(self) -> Fingerprint:
        """What `stat` says of every file and directory; any change of content, permission or set shows here."""
        seen = []
        for path in (*self._paths, *(file for file, _ in self._files())):
            try:
                status = path.stat()
            except OSError:
                continue
            seen.append((str(path), status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
        return tuple(seen)

    def _read(self) -> Mapping[bytes, Signer]:
        passphrase, bad = None, []
        if self._passphrase_file is not None:
            text = _read_private(self._passphrase_file)
            if isinstance(text, BadFile):
                raise KeyFilesError([text])
            passphrase = text.rstrip(b"\r\n")
        signers: dict[bytes, Signer] = {}
        for path in self._paths:
            if os.path.isdir(path) and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                bad.append(BadFile(str(path), "others may replace the keys in it", f"chmod go-w {path}"))
        for path, must in self._files():
            found = _signers_in(path, must, passphrase)
            if isinstance(found, BadFile):
                bad.append(found)
            else:
                signers.update((signer.key_id, signer) for signer in found)
        if bad:
            raise KeyFilesError(bad)
        return signers


def _signers_in(path: Path, must: bool, passphrase: bytes | None) -> list[Signer] | BadFile:
    data = _read_private(path, certificates_may_be_public=not must)
    if isinstance(data, BadFile):
        return data
    blocks = _private_blocks(data)
    if not blocks and must:
        return BadFile(str(path), "no private key in it", "give a PEM file with a private key, or remove it")
    if passphrase is None and any(b"ENCRYPTED" in block for block in blocks):
        remedy = f"`openssl pkey -in {path} -out NEW; chmod 600 NEW`, or a key server with --passphrase-file"
        return BadFile(str(path), "it is encrypted", remedy)
    try:
        return [Signer(_load(block, passphrase)) for block in blocks]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = str(error).splitlines()[0] if str(error) else "not readable"
        return BadFile(
            str(path), f"not a usable private key: {why}", "give ECDSA P-256 or P-384, RSA ≥ 2048 or Ed25519"
        )


def _read_private(path: Path, *, certificates_may_be_public: bool = False) -> bytes | BadFile:
    """The bytes of a file that only its owner may read; whose permissions are those of the very file read."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return BadFile(str(path), "not a regular file", "give a PEM file or a directory of them")
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        remedy = (
            "make it readable for the key server's user" if isinstance(error, PermissionError) else "check the path"
        )
        return BadFile(str(path), error.strerror or "cannot be read", remedy)
    if len(data) > MAX_KEY_FILE_BYTES:
        return BadFile(str(path), f"longer than {MAX_KEY_FILE_BYTES} bytes", "a key file is a few kilobytes")
    if status.st_mode & 0o077 and not (certificates_may_be_public and not _private_blocks(data)):
        mode = stat.S_IMODE(status.st_mode)
        return BadFile(str(path), f"others than its owner may use it (mode {mode:04o})", f"chmod 600 {path}")
    return data


def _private_blocks(data: bytes) -> list[bytes]:
    """The PEM blocks whose label ends in PRIVATE KEY; certificates and EC PARAMETERS beside them are skipped."""
    blocks: list[bytes] = []
    lines: list[str] = []
    for line in data.decode("ascii", "replace").splitlines():
        if line.startswith(_BEGIN) and line.rstrip().endswith(_END):
            lines = [line]
        elif lines:
            lines.append(line)
            if line.startswith("-----END "):
                blocks.append(("\n".join(lines) + "\n").encode("ascii", "replace"))
                lines = []
    if lines:  # cut short: left to the parser, which says so
        blocks.append("\n".join(lines).encode("ascii", "replace"))
    return blocks


def _load(block: bytes, passphrase: bytes | None) -> PrivateKey:
    key = load_pem_private_key(block, passphrase if b"ENCRYPTED" in block else None)
    if not isinstance(key, PrivateKey):
        raise TypeError("keys of its type are not used here")
    return key


def _type_of(key: PrivateKey) -> KeyType:
    match key:
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1()):
            return KeyType.EC_P256
        case ec.EllipticCurvePrivateKey(curve=ec.SECP384R1()):
            return KeyType.EC_P384
        case ec.EllipticCurvePrivateKey():
            raise ValueError(f"curve {key.curve.name} is not used here")
        case rsa.RSAPrivateKey():
            if key.key_size < MIN_RSA_BITS:
                raise ValueError(f"RSA with {key.key_size} bits is weak")
            return KeyType.RSA
        case _:
            return KeyType.ED25519


def _operations(key: PrivateKey) -> Mapping[int, Operation]:
    """Code point (RFC 8446 section 4.2.3) → signing. The algorithm objects are made once, not for each signature."""
    match key:
        case ec.EllipticCurvePrivateKey():
            return {0x0003 | high << 8: _ecdsa(key, ec.ECDSA(sha)) for high, sha in _SHA2.items()}
        case rsa.RSAPrivateKey():
            pkcs1 = {0x0001 | high << 8: _rsa(key, padding.PKCS1v15(), sha) for high, sha in _SHA2.items()}
            pss = {0x0800 | low: _rsa(key, _pss(sha), sha) for low, sha in _SHA2.items()}
            return {**pkcs1, **pss}
        case _:
            return {0x0807: key.sign}


def _pss(sha: Sha2) -> padding.PSS:
    return padding.PSS(padding.MGF1(sha), sha.digest_size)


def _ecdsa(key: ec.EllipticCurvePrivateKey, algorithm: ec.ECDSA) -> Operation:
    sign = key.sign
    return lambda content: sign(content, algorithm)


def _rsa(key: rsa.RSAPrivateKey, scheme: padding.AsymmetricPadding, sha: hashes.HashAlgorithm) -> Operation:
    sign = key.sign
    return lambda content: sign(content, scheme, sha)
