"""What a token of the users' API looks like: `pft_` ID `_` SECRET CHECKSUM. Pure.

    pft_ 7Jq0vN2xWc _ (43 characters) (6 characters)      64 of [0-9A-Za-z_]: one word on a double click

The ID (10 characters) is public: it is what the token is looked up by and what lists and logs name. The secret is 256
random bits. The checksum, a CRC-32 of all before it, tells a token that was mistyped or cut off from one that is not
known, and a scanner of repositories a token from chance: `pft_[0-9A-Za-z]{10}_[0-9A-Za-z]{49}`. Only the SHA-256 of a
token is kept; a slow hash protects passwords that people choose, not 256 random bits.
"""

from __future__ import annotations

import hashlib
import re
import string
import zlib

PREFIX = "pft_"
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 10, 43, 6
ID_RANGE = 62**ID_LENGTH  # 59 bits: a thousand of them never meet
SECRET_RANGE = 1 << 256
_FORM = re.compile(rf"pft_([0-9A-Za-z]{{{ID_LENGTH}}})_[0-9A-Za-z]{{{SECRET_LENGTH + CHECKSUM_LENGTH}}}")
_ANY = re.compile(rf"(pft_[0-9A-Za-z]{{{ID_LENGTH}}})_[0-9A-Za-z]{{16,}}")
_INVITATION = re.compile(r"pfj_[0-9A-Za-z_-]{16,}")  # `control.membership`
OLD_ID = "old-"  # earlier releases made tokens of 32 random bytes in URL-safe base64, without an ID
OLD_LENGTH_LIMIT = 100


def made(id_number: int, secret: int) -> tuple[str, str]:
    """A token's ID and its text, of a random number below ID_RANGE and one below SECRET_RANGE."""
    identity = _base62(id_number, ID_LENGTH)
    return identity, _complete(identity, secret)


def again(identity: str, secret: int) -> str:
    """Another text for a token that keeps its ID."""
    return _complete(identity, secret)


def id_of(text: str) -> str | None:
    """The ID that a token says it has; None for what is no token, or one with a typing error."""
    if match := _FORM.fullmatch(text):
        body, checksum = text[:-CHECKSUM_LENGTH], text[-CHECKSUM_LENGTH:]
        return match[1] if checksum == _checksum(body) else None
    may_be_old = text.isascii() and len(text) <= OLD_LENGTH_LIMIT and not text.startswith(PREFIX)
    return old_id(digest(text)) if may_be_old else None


def old_id(hash_hex: str) -> str:
    """The ID of a token that has none in it: the beginning of its hash."""
    return f"{OLD_ID}{hash_hex[:ID_LENGTH]}"


def digest(text: str) -> str:
    """What is kept of a token, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def fault(text: str) -> str:
    """What is wrong with a text that should be a token, for who has typed it; empty if it may be one."""
    if id_of(text) is not None:
        return ""
    if not text.startswith(PREFIX):
        return f"is no token: those begin with {PREFIX}"
    if not _FORM.fullmatch(text):
        whole = len(PREFIX) + ID_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH
        return f"is cut off or has something besides: a token has {whole} letters and digits, this one {len(text)}"
    return "has a typing error: its checksum is not right"


def without_secrets(text: str) -> str:
    """The text with the secret of every token that stands in it left out, whole or cut off; of those to join, too."""
    return _INVITATION.sub("pfj_…", _ANY.sub(r"\1_…", text))


def _complete(identity: str, secret: int) -> str:
    assert len(identity) == ID_LENGTH
    body = f"{PREFIX}{identity}_{_base62(secret, SECRET_LENGTH)}"
    return body + _checksum(body)


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(DIGITS[digit])
    assert number == 0
    return "".join(reversed(digits))
