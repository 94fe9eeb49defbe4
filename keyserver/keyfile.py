"""Key files: PEM texts to private keys. What is read here goes nowhere but to whoever signs with it.

A file with a private key may be used by its owner only, and is otherwise refused with the command that mends it. In a
directory, `*.key` files must hold a private key; `*.pem` files without one are taken for certificates and skipped.
Keys may be encrypted: PKCS #8 (RFC 5958) with PBES2, of which `paifang keyserver encrypt` writes the kind with
scrypt (RFC 7914); older forms are read too.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keyserver.errors import BadFile
from keyserver.policy import KeyType

MIN_RSA_BITS = 2048  # NIST SP 800-131A
MAX_KEY_FILE_BYTES = 1 << 16
SUFFIXES = (".pem", ".key")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_BEGIN, _END = "-----BEGIN ", "PRIVATE KEY-----"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n[^-]*-----END CERTIFICATE-----")
_USABLE = "give ECDSA P-256 or P-384, RSA ≥ 2048 or Ed25519"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The keys of one file, whether any of them stands there in the clear, and its certificates as PEM text."""

    path: Path
    keys: tuple[PrivateKey, ...]
    in_the_clear: bool
    certificates: str = ""


def files_below(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """Key files, and whether each must hold a private key. A missing path is listed, to be complained of."""
    files: list[tuple[Path, bool]] = []
    for path in paths:
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
            files += [(file, file.suffix == ".key") for file in inside]
        except OSError:  # not a directory, or none that we may read: reading it as a file says what it is
            files.append((path, True))
    return files


def load(path: Path, must: bool, passphrases: Sequence[bytes]) -> KeyFile | BadFile:
    """The keys of a file. `must`: there has to be one. `passphrases` are tried in turn on those that are encrypted."""
    data = read_private(path, certificates_may_be_public=not must)
    if isinstance(data, BadFile):
        return data
    blocks = private_blocks(data)
    if not blocks and must:
        return BadFile(str(path), "no private key in it", "give a PEM file with a private key, or remove it")
    if not passphrases and any(map(is_encrypted, blocks)):
        return BadFile(str(path), "it is encrypted", "give the key server --passphrase-file, -env or -credential")
    try:
        keys = tuple(open_block(block, passphrases) for block in blocks)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = str(error).splitlines()[0] if str(error) else "not readable"
        return BadFile(str(path), f"not a usable private key: {why}", _USABLE)
    return KeyFile(path, keys, not all(map(is_encrypted, blocks)), certificates(data))


def read_private(path: Path, *, certificates_may_be_public: bool = False) -> bytes | BadFile:
    """The bytes of a file that only its owner may read; whose permissions are those of the very file read."""
    read = _read(path)
    if isinstance(read, BadFile):
        return read
    data, mode = read
    if mode & 0o077 and not (certificates_may_be_public and not private_blocks(data)):
        return BadFile(str(path), f"others than its owner may use it (mode {mode:04o})", f"chmod 600 {path}")
    return data


def read_bounded(path: Path) -> bytes | BadFile:
    """The bytes of a regular file of bounded size, whoever may read it."""
    read = _read(path)
    return read if isinstance(read, BadFile) else read[0]


def _read(path: Path) -> tuple[bytes, int] | BadFile:
    """The bytes of a file, and its permissions."""
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
    return data, stat.S_IMODE(status.st_mode)


def private_blocks(data: bytes) -> list[bytes]:
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


def certificates(data: bytes) -> str:
    """The CERTIFICATE blocks of a PEM text, in their order; empty where there is none."""
    blocks = _CERTIFICATE.findall(data.decode("ascii", "replace").replace("\r\n", "\n"))
    return "".join(f"{block}\n" for block in blocks)


def is_encrypted(block: bytes) -> bool:
    """By its label (RFC 7468), or by the Proc-Type header of the form before PKCS #8 (RFC 1421)."""
    return b"ENCRYPTED" in block


def open_block(block: bytes, passphrases: Sequence[bytes]) -> PrivateKey:
    """The key of a PEM block. Raises ValueError, TypeError or UnsupportedAlgorithm for one that is of no use here."""
    if not is_encrypted(block):
        return usable(load_pem_private_key(block, None))
    for passphrase in passphrases:
        try:
            key = load_pem_private_key(block, passphrase)
        except ValueError:  # a wrong passphrase, or damage: what comes out may look like either
            continue
        return usable(key)
    raise ValueError("it is encrypted, and no passphrase given opens it")


def usable(key: object) -> PrivateKey:
    """Raises TypeError or ValueError for a key that is not used here."""
    if not isinstance(key, PrivateKey):
        raise TypeError("keys of its type are not used here")
    type_of(key)
    return key


def type_of(key: PrivateKey) -> KeyType:
    """Raises ValueError for a curve or size that is not used here."""
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
