"""The file that access keys are made with: made once, the same on every control node of one storage.

The storage has its fingerprint, so that a control node that has another file says so when it starts, and not by
refusing every signature.
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from control.cloud.access_keys import KEY_BYTES, Keyring
from control.node.files import write_atomic
from control.store import RecordConflictError, Store, Write

log = logging.getLogger(__name__)

SPACE, KEY = "secrets", "access-keys"
NAME = "access.key"


class KeyringError(Exception):
    """The file cannot be used; the text has the remedy."""


async def load(store: Store, file: Path, renew: bool = False) -> Keyring:
    """The keyring of the file, which is made where there has been none yet, or anew. Raises KeyringError."""
    record = await store.record(SPACE, KEY)
    try:
        if renew or record is None:
            _make(file, renew)
        keyring = Keyring(_read(file))
    except OSError as error:
        remedy = "copy it from another control node, or --new-access-keys: all access keys change"
        raise KeyringError(f"the access keys' file {file}: {error.strerror}; {remedy}") from None
    if record is not None and not renew and record.value.decode() != keyring.fingerprint:
        remedy = "copy the file from another control node, or --new-access-keys: all access keys change"
        raise KeyringError(f"the access keys' file {file} is not the one that this storage's keys are of; {remedy}")
    if record is None or renew:
        expected = None if renew else 0
        try:
            await store.write(Write(SPACE, KEY, keyring.fingerprint.encode(), expected))
        except RecordConflictError:  # another control node began at the same time
            return await load(store, file)
    return keyring


def _make(file: Path, renew: bool) -> None:
    """Raises OSError."""
    if renew or not file.exists():
        write_atomic(file, secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n")
        log.info("access keys are made with %s; every control node of this storage needs the same file", file)


def _read(file: Path) -> bytes:
    """Raises OSError, KeyringError."""
    if file.stat().st_mode & 0o077:
        raise KeyringError(f"the access keys' file {file}: others may read it; chmod 600 it")
    try:
        key = bytes.fromhex(file.read_text().strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyringError(f"the access keys' file {file}: does not hold {2 * KEY_BYTES} hexadecimal digits")
    return key
