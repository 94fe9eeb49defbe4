"""A worker whose keys are in a PKCS #11 token: it is told which token and where the PIN is, and lists the keys.

A module is somebody else's code, in C and with threads of its own, and has to be loaded into some process: this one, in
which nothing else is. One that crashes or hangs costs what a worker costs (crew.py). The PIN of a file or credential is
read here, so that only this process ever has it.
"""

from __future__ import annotations

import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyserver import token_keys, worker
from keyserver.errors import KeyFilesError
from keyserver.passphrases import Passphrases
from keyserver.token_keys import Token, TokenError

if TYPE_CHECKING:
    import pkcs11


def order(token: Token, pin: Passphrases) -> bytes:
    """What is written to the key socket, for the first listing and for each later one."""
    fields = {
        "module": token.module,
        "label": token.label,
        "files": list(map(str, pin.files)),
        "credentials": list(map(str, pin.credentials)),
        "fixed": [b64encode(each).decode() for each in pin.fixed],
    }
    return json.dumps(fields).encode() + b"\n"


def listing(answer: bytes) -> dict[bytes, tuple[str, str]]:
    """Key id → (type, label), of what a worker has answered. Raises TokenError."""
    fields: dict[str, Any] = json.loads(answer)
    if "keys" not in fields:
        raise TokenError(fields["why"], fields["remedy"], final=fields["final"])
    return {bytes.fromhex(key_id): (kind, label) for key_id, kind, label in fields["keys"]}


class FromToken:
    """Lists a token's keys at each order; one session for the worker's whole life."""

    def __init__(self) -> None:
        self._session: pkcs11.Session | None = None

    def __call__(
        self, fields: Mapping[str, Any], old: worker.Signers
    ) -> tuple[dict[bytes, token_keys.TokenSigner] | None, bytes]:
        """For `worker.Equip`. The answer is JSON: `keys`, a list of (id, type, label), or `why`, `remedy`, `final`."""
        try:
            if self._session is None:
                self._session = token_keys.open_token(Token(fields["module"], fields["label"]), _pin(fields))
            signers = token_keys.signers(self._session)
        except TokenError as error:
            return None, _line({"why": error.why, "remedy": error.remedy, "final": error.final})
        return signers, _line({"keys": list(token_keys.labels(signers))})


def _pin(fields: Mapping[str, Any]) -> bytes:
    """Raises TokenError."""
    sources = Passphrases(
        tuple(map(Path, fields["files"])),
        tuple(map(Path, fields["credentials"])),
        tuple(map(b64decode, fields["fixed"])),
    )
    try:
        return sources.read()[0]
    except KeyFilesError as error:
        raise TokenError(f"{error.files[0].path}: {error.files[0].why}", error.files[0].remedy) from None


def _line(answer: Mapping[str, object]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


if __name__ == "__main__":
    sys.exit(worker.main(FromToken()))
