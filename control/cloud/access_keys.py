"""Access keys: a token of the users' API in the form that clouds' SDKs sign requests with. Pure.

    AccessKeyId      PFAK7Jq0vN2xWc            the token's ID behind four letters
    AccessKeySecret  43 of [0-9A-Za-z]         HMAC-SHA256(key file, what it is for ‖ the token's ID ‖ its SHA-256)

Who signs with HMAC has to have the secret on both sides, and of a token the storage has a hash alone. So the secret is
made of that hash and of a key that is in no storage, but in a file of the control nodes: who reads the storage, or a
backup of it, can sign nothing, and who has the secret learns nothing of the token. As the secret hangs on the hash, all
that happens to a token happens to its access key: it is revoked, ends and is rotated with it, and the secret before
stays good for as long as the token's text before.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from control.token_format import DIGITS, ID_LENGTH, OLD_ID
from control.token_record import Token

PREFIX = "PFAK"
KEY_BYTES = 32
SECRET_LENGTH = 43
_FORM = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{ID_LENGTH}}})")
_PURPOSE = b"paifang access key 1\x00"


def key_id(token: Token) -> str | None:
    """The AccessKeyId of a token; None for one of an earlier release, which has no ID of its own."""
    return None if token.id.startswith(OLD_ID) else PREFIX + token.id


def token_id(access_key_id: str) -> str | None:
    """The ID of the token that an AccessKeyId stands for; None for what is none."""
    match = _FORM.fullmatch(access_key_id)
    return match[1] if match else None


class Keyring:
    """What secrets are made with."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._key = key

    @property
    def fingerprint(self) -> str:
        """What tells one key from another and nothing of it."""
        return hmac.new(self._key, b"paifang access key file", hashlib.sha256).hexdigest()

    def secret(self, token: Token) -> str:
        """The AccessKeySecret of a token."""
        return self._made(token.id, token.hash)

    def secrets(self, token: Token, now: float) -> tuple[str, ...]:
        """Those that are good now: after a rotation the one before, too, for as long as that was granted."""
        before = (self._made(token.id, token.before),) if token.before and now < token.before_until else ()
        return (self.secret(token), *before)

    def _made(self, identity: str, hash_hex: str) -> str:
        told = _PURPOSE + identity.encode() + b"\x00" + hash_hex.encode()
        number = int.from_bytes(hmac.new(self._key, told, hashlib.sha256).digest())
        digits = []
        for _ in range(SECRET_LENGTH):
            number, digit = divmod(number, len(DIGITS))
            digits.append(DIGITS[digit])
        return "".join(digits)
