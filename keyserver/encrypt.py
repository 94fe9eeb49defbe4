"""`paifang keyserver encrypt`: key files that stand in the clear become encrypted ones, in place.

What is written is PKCS #8 (RFC 5958) under PBES2 (RFC 8018): AES-256-CBC with a key that scrypt (RFC 7914) makes of
the passphrase. `openssl pkcs8` writes it, since `cryptography` reads that form and does not write it; key and
passphrase reach it through pipes. The new text is opened and compared before it takes the file's place, by one rename;
whatever else stands in the file (certificates) stays. A key server that has the passphrase reads the file anew.

What stood in the clear may still be found on the disk's free blocks and in backups: for a key that matters, make a new
one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs.authority import key_id
from control.node import harden
from control.node.files import write_atomic
from keyserver import passphrases
from keyserver.errors import BadFile, KeyFilesError, StartError
from keyserver.keyfile import PrivateKey, files_below, is_encrypted, open_block, private_blocks, read_private

# OpenSSL's defaults, 16 MiB and 30 ms a key: N = 2^15 would exceed what its other tools agree to read.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 14, 8, 1
MIN_PASSPHRASE_BYTES = 12  # scrypt slows guessing down, it does not make up for a word
OPENSSL_TIMEOUT_S = 30.0

EXAMPLES = """examples:
  (umask 077; openssl rand -base64 33 >passphrase)
  paifang keyserver encrypt --passphrase-file passphrase /etc/paifang/keys
  paifang keyserver encrypt --old-passphrase-file passphrase --passphrase-file new /etc/paifang/keys
"""


def encrypted_pem(key: PrivateKey, passphrase: bytes) -> bytes:
    """A key as `-----BEGIN ENCRYPTED PRIVATE KEY-----`. Raises StartError where OpenSSL cannot do it."""
    if len(passphrase) < MIN_PASSPHRASE_BYTES or b"\n" in passphrase:
        raise StartError(
            f"the passphrase has to be one line of {MIN_PASSPHRASE_BYTES} or more bytes; `openssl rand -base64 33`"
        )
    clear = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    scrypt = ["-scrypt", "-scrypt_N", str(SCRYPT_N), "-scrypt_r", str(SCRYPT_R), "-scrypt_p", str(SCRYPT_P)]
    reading, writing = os.pipe()
    try:
        os.write(writing, passphrase + b"\n")  # less than a pipe holds: it does not block
    finally:
        os.close(writing)
    argv = ["openssl", "pkcs8", "-topk8", "-inform", "DER", "-v2", "aes-256-cbc", *scrypt, "-passout", f"fd:{reading}"]
    try:
        done = subprocess.run(argv, input=clear, capture_output=True, pass_fds=[reading], timeout=OPENSSL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"cannot run openssl: {error}; Debian's package `openssl` has it") from None
    finally:
        os.close(reading)
    if done.returncode:
        raise StartError(f"openssl pkcs8 failed: {done.stderr.decode(errors='replace').strip()}")
    if key_id(open_block(done.stdout, [passphrase]).public_key()) != key_id(key.public_key()):
        raise StartError("openssl pkcs8 gave another key back; nothing was changed")
    return done.stdout


def encrypt_file(path: Path, must: bool, passphrase: bytes, old: Sequence[bytes]) -> int | BadFile:
    """How many keys of a file were encrypted; none if all were so already, with this passphrase."""
    data = read_private(path, certificates_may_be_public=not must)
    if isinstance(data, BadFile):
        return data
    blocks = private_blocks(data)
    if must and not blocks:
        return BadFile(str(path), "no private key in it", "give a PEM file with a private key, or remove it")
    text = data.replace(b"\r\n", b"\n")
    changed = 0
    for block in blocks:
        if is_encrypted(block) and _opens(block, passphrase):
            continue
        if is_encrypted(block) and not old:
            return BadFile(str(path), "another passphrase opens it", "give that one too: --old-passphrase-file")
        try:
            key = open_block(block, old)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            return BadFile(str(path), f"not a usable private key: {error}", "see `paifang keyserver check`")
        if text.count(block) != 1:
            return BadFile(str(path), "not plain PEM text", f"write it anew: `openssl pkey -in {path}`")
        text = text.replace(block, encrypted_pem(key, passphrase))
        changed += 1
    if changed:
        status = path.stat()
        write_atomic(path, text)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(path, status.st_uid, status.st_gid)
    return changed


def _opens(block: bytes, passphrase: bytes) -> bool:
    try:
        open_block(block, [passphrase])
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def main(arguments: Sequence[str]) -> None:
    """Raises StartError, KeyFilesError."""
    parser = argparse.ArgumentParser(
        prog="paifang keyserver encrypt",
        description="Encrypt the private keys of files, in place (PKCS #8, PBES2 with scrypt and AES-256).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="PEM files, or directories of them")
    passphrases.add_arguments(parser, what="to encrypt with")
    passphrases.add_arguments(parser, "old-passphrase", "opens keys that are encrypted already")
    options = parser.parse_args(arguments)
    new = passphrases.from_options(options).read()
    if len(new) != 1:
        parser.error("give one of --passphrase-file, --passphrase-env, --passphrase-credential")
    old = passphrases.from_options(options, "old-passphrase").read()
    harden.forbid_dumps()
    bad: list[BadFile] = []
    for path, must in files_below(options.paths):
        try:
            done = encrypt_file(path, must, new[0], old)
        except OSError as error:
            done = BadFile(str(path), error.strerror or str(error), "give files that this user may replace")
        if isinstance(done, BadFile):
            bad.append(done)
        elif done:
            print(f"{path}: encrypted")
    if bad:
        raise KeyFilesError(bad)
