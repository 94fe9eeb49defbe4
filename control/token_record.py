"""What is kept of a token, and what whoever has one may give to another. Pure.

Whoever gives a token gives no more than he has: neither a higher role nor a later end. Otherwise a token that ends
tomorrow could make one that never does.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from control.roles import ApiRole
from control.token_format import old_id


class TokenError(Exception):
    """A token that cannot be made, changed or revoked; the text has the remedy."""


class NoSuchTokenError(TokenError):
    """There is no token with that ID."""

    def __init__(self, identity: str) -> None:
        super().__init__(f"there is no token {identity!r}; `paifang token list` shows them")


class BeyondRightsError(TokenError):
    """More than whoever asks for it has himself."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token. Times are Unix time in seconds.

    `before` is the hash that rotation has replaced, good until `before_until`. `place` is where the control plane has
    put a token that it made by itself (`control.first_token`).
    """

    id: str
    name: str
    role: ApiRole
    hash: str
    created: float
    creator: str
    creator_id: str = ""
    expires: float | None = None
    rotated: float | None = None
    before: str = ""
    before_until: float = 0.0
    used: float | None = None
    used_from: str = ""
    place: str = ""

    def ended(self, now: float) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now >= self.expires


def encoded(token: Token) -> bytes:
    """As the store has it, under its ID."""
    kept = dataclasses.asdict(token)
    del kept["id"]
    return json.dumps(kept).encode()


def decoded(identity: str, value: bytes) -> Token:
    """What the store has under an ID; members that this release does not know are dropped."""
    kept: dict[str, Any] = json.loads(value)
    known = {field.name for field in dataclasses.fields(Token)}
    given = {name: each for name, each in kept.items() if name in known}
    return Token(**{**given, "id": identity, "role": ApiRole(kept["role"])})


def adopted(key: str, value: bytes) -> Token | None:
    """A record of a release that knew no roles, {"hash", "created"} under a name, as a token; None for another."""
    kept: dict[str, Any] = json.loads(value)
    if "role" in kept:
        return None
    return Token(old_id(kept["hash"]), key, ApiRole.ADMIN, kept["hash"], kept["created"], "an earlier release")


def document(token: Token) -> dict[str, object]:
    """What the API tells of a token: nothing that it could be guessed or checked by."""
    hidden = {"hash", "before", "place"}
    shown = {name: each for name, each in dataclasses.asdict(token).items() if name not in hidden}
    return {**shown, "before_until": token.before_until or None}


def check_rights(giver: Token, role: ApiRole, expires: float | None) -> None:
    """Raises BeyondRightsError where `giver` may not hand out a token of this role that ends then (None: never)."""
    if not giver.role.may(role):
        raise BeyondRightsError(
            f"your token has the role {giver.role.value}: it can give no token of role {role.value}"
        )
    if giver.expires is not None and (expires is None or expires > giver.expires):
        raise BeyondRightsError("a token cannot outlive the one that made it: give an earlier end, or none")
