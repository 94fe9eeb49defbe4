"""Names and passwords by Basic authentication (RFC 7617), and a file of users in the format of htpasswd. Pure.

Only bcrypt is taken: the other formats of htpasswd (MD5, SHA-1, crypt, plain text) give a stolen file's passwords away
in hours. A name that is nobody's costs as much time as one that is somebody's, so that names cannot be found by it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import bcrypt

from proxy.message import Fields

FILE_BYTES: Final = 1 << 20
MOST_USERS: Final = 10_000
# 2^4 rounds are bcrypt's least; 2^14 take the better part of a second, which is whoever tries's to spend.
COSTS: Final = range(4, 15)
PASSWORD_BYTES: Final = 72  # what bcrypt looks at: longer ones would be cut without a word
NAME_BYTES: Final = 255
CREDENTIAL_BYTES: Final = 1024  # in base64
_HASH: Final = re.compile(rb"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f:]{1,255}")
_CREDENTIALS: Final = re.compile(rb"([A-Za-z]+) +([A-Za-z0-9+/]+={0,2})")


class Credentials(NamedTuple):
    """What a client says."""

    name: str
    password: bytes


class Malformed(Exception):
    """The Authorization field cannot be understood in one way."""


def credentials(asked: Fields) -> Credentials | None:
    """What a request's Authorization says; None where it says nothing by this scheme. Raises Malformed."""
    values = asked.values(b"authorization")
    if not values:
        return None
    if len(values) > 1:
        raise Malformed
    if values[0].partition(b" ")[0].lower() != b"basic":
        return None
    match = _CREDENTIALS.fullmatch(values[0])
    if match is None or len(match[2]) > CREDENTIAL_BYTES:
        raise Malformed
    try:
        name, mark, password = base64.b64decode(match[2], validate=True).partition(b":")
        text = name.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise Malformed from None
    if not mark or len(name) > NAME_BYTES or not _NAME.fullmatch(text):
        raise Malformed
    return Credentials(text, password)


class Users:
    """Users and their hashes."""

    __slots__ = ("_hashes", "_nobody")

    def __init__(self, hashes: Mapping[str, bytes]) -> None:
        self._hashes = dict(hashes)
        # As dear as the others' are: the most usual cost among them.
        costs = [_cost(each) for each in self._hashes.values()] or [10]
        self._nobody = b"$2b$%02d$" % max(set(costs), key=costs.count) + b"." * 53

    def __len__(self) -> int:
        return len(self._hashes)

    def hash_of(self, name: str) -> bytes:
        """Of nobody's name: a hash that no password has."""
        return self._hashes.get(name, self._nobody)

    def admits(self, given: Credentials) -> bool:
        """Whether the password is right. Takes from a millisecond to a second: not for an event loop."""
        known = given.name in self._hashes
        sound = len(given.password) <= PASSWORD_BYTES and b"\0" not in given.password
        try:
            right = bcrypt.checkpw(given.password if sound else b"-", self.hash_of(given.name))
        except ValueError:
            return False
        return right and known and sound


def read(data: bytes) -> Users:
    """The users of a file. Raises ValueError, which names the line and no hash."""
    if len(data) > FILE_BYTES:
        raise ValueError(f"it has more than {FILE_BYTES} bytes")
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        name, _, rest = line.partition(b":")
        try:
            text = name.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"line {number}: the name is not UTF-8") from None
        if not _NAME.fullmatch(text):
            raise ValueError(f"line {number}: it is not NAME:HASH")
        match = _HASH.fullmatch(rest)
        if match is None:
            raise ValueError(f"line {number}: the hash of {text!r} is not of bcrypt; write it by htpasswd -B")
        if int(match[1]) not in COSTS:
            raise ValueError(
                f"line {number}: the hash of {text!r} has cost {int(match[1])}; give {COSTS[0]} to {COSTS[-1]}"
            )
        if text in hashes:
            raise ValueError(f"line {number}: {text!r} is in the file already")
        hashes[text] = rest
        if len(hashes) > MOST_USERS:
            raise ValueError(f"it has more than {MOST_USERS} users")
    return Users(hashes)


def _cost(hashed: bytes) -> int:
    return int(hashed[4:6])


@dataclass(slots=True)
class Failures:
    """Who has failed how often: at most `most` failures in `window_s` of each client; 0: any number.

    Of `size` clients that failed last: what is forgotten may try again.
    """

    most: int
    window_s: float = 60.0
    size: int = 10_000
    _failed: OrderedDict[bytes, tuple[float, int]] = field(default_factory=OrderedDict)

    def locked_s(self, client: bytes, now: float) -> float:
        """How long a client has to wait, in seconds."""
        since, count = self._failed.get(client, (0.0, 0))
        left = since + self.window_s - now
        return left if self.most and count >= self.most and left > 0 else 0.0

    def failed(self, client: bytes, now: float) -> None:
        """One more."""
        since, count = self._failed.pop(client, (now, 0))
        if now >= since + self.window_s:
            since, count = now, 0
        self._failed[client] = since, count + 1
        if len(self._failed) > self.size:
            self._failed.popitem(last=False)

    def forgive(self, client: bytes) -> None:
        """One less: it was none."""
        if client in self._failed:
            since, count = self._failed[client]
            self._failed[client] = since, count - 1
