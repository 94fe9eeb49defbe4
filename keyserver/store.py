"""The keys: from files (keyfile.py) to signers, and never back.

A `Signer` signs and says what it is; the private key stays inside the library's own object behind it, which no method
hands out, and which is neither printed nor pickled. A `KeyStore` maps key ids (SHA-256 of the SubjectPublicKeyInfo) to
signers. A reload reads everything anew and takes effect by one assignment; if a single file cannot be used, nothing
changes and the error names each such file.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from certs.authority import key_id
from keyserver.errors import BadFile, ErrorCode, KeyFilesError, KeyServerError
from keyserver.keyfile import PrivateKey, files_below, load, type_of
from keyserver.passphrases import NONE, Passphrases

Operation = Callable[[bytes], bytes]
Fingerprint = tuple[tuple[str, int, int, int], ...]

Sha2 = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

_SHA2: Mapping[int, Sha2] = {
    4: hashes.SHA256(),
    5: hashes.SHA384(),
    6: hashes.SHA512(),
}


class Signer:
    """One key: what it is, and the act of signing."""

    __slots__ = ("_operations", "key_id", "key_type")

    def __init__(self, key: PrivateKey) -> None:
        self.key_type = type_of(key)
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

    passphrases: open those keys that are encrypted. `in_the_clear` are the files whose keys are not. With
    `encrypted_only` such files are refused. Raises KeyFilesError for what cannot be used.
    """

    def __init__(self, paths: Sequence[Path], passphrases: Passphrases = NONE, *, encrypted_only: bool = False) -> None:
        self._paths = tuple(paths)
        self._passphrases = passphrases
        self._encrypted_only = encrypted_only
        self._lock = threading.Lock()
        self._fingerprint = self._look()
        self.in_the_clear: tuple[Path, ...] = ()
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

    def _look(self) -> Fingerprint:
        """What `stat` says of every file and directory; any change of content, permission or set shows here."""
        seen = []
        files = (file for file, _ in files_below(self._paths))
        for path in (*self._paths, *self._passphrases.paths, *files):
            try:
                status = path.stat()
            except OSError:
                continue
            seen.append((str(path), status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
        return tuple(seen)

    def _read(self) -> Mapping[bytes, Signer]:
        passphrases, bad = self._passphrases.read(), []
        signers: dict[bytes, Signer] = {}
        clear: list[Path] = []
        for path in self._paths:
            if os.path.isdir(path) and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                bad.append(BadFile(str(path), "others may replace the keys in it", f"chmod go-w {path}"))
        for path, must in files_below(self._paths):
            found = load(path, must, passphrases)
            if isinstance(found, BadFile):
                bad.append(found)
            elif found.in_the_clear and self._encrypted_only:
                bad.append(BadFile(str(path), "it is not encrypted", f"`paifang keyserver encrypt {path}` does it"))
            else:
                clear += [path] * found.in_the_clear
                signers.update((signer.key_id, signer) for signer in map(Signer, found.keys))
        if bad:
            raise KeyFilesError(bad)
        self.in_the_clear = tuple(clear)
        return signers


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
