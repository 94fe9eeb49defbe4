"""Which client may use which key, for what, and how often: the policy file, pure.

    [[grants]]
    clients = ["l7:edge-*", "uid:33"]     # as the audit log names them; * and ? as in file names
    keys = ["shop", "62fe55fa145342b5…"]  # names of key files without their suffix, or ids: 64 hexadecimal digits
    tls = ["1.3"]                         # default: 1.2 and 1.3
    rate = 500                            # signatures a second for each client and key; default: --rate alone

    revoked = ["7C021EED5F29…"]           # before them: serial numbers of nodes' certificates, as openssl shows them

The first grant that names both client and key decides. What none names is refused, and a client that none names at all
is not let in: taking a name out of the file revokes it, at once, also for connections that exist. So does writing a
certificate's serial number among those revoked, which leaves its node the name, for a certificate that is fresh.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from keyserver.policy import Shape, TokenBucket

_SHAPES = {"1.2": Shape.TLS12, "1.3": Shape.TLS13}
EVERY_SHAPE = frozenset(Shape)


class GrantsError(ValueError):
    """A policy that cannot be used; the text says where and what would be right."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry of the file. `rate` 0: no limit of its own."""

    clients: tuple[str, ...]
    keys: tuple[str, ...]
    tls: frozenset[Shape] = EVERY_SHAPE
    rate: float = 0.0

    def names_client(self, client: str) -> bool:
        return any(fnmatchcase(client, pattern) for pattern in self.clients)

    def names_key(self, key_id: bytes, names: Iterable[str]) -> bool:
        every = (key_id.hex(), *names)
        return any(fnmatchcase(name, pattern) for pattern in self.keys for name in every)


@dataclass(slots=True)
class Permission:
    """What a grant comes to for one client and one key."""

    tls: frozenset[Shape]
    bucket: TokenBucket | None

    def take(self, now: float) -> bool:
        """Whether one more signature is within the grant's rate."""
        return self.bucket is None or self.bucket.take(now)


@dataclass(slots=True)
class Grants:
    """A policy, and its answers so far: as many as there are clients let in, times keys."""

    grants: tuple[Grant, ...]
    revoked: frozenset[int] = frozenset()
    _answers: dict[tuple[str, bytes], Permission | None] = field(default_factory=dict)

    def why_not(self, client: str, serial: int | None) -> str:
        """Why a client, with a certificate of this serial number if it has one, may not come in; empty if it may."""
        if serial in self.revoked:
            return f"the policy has revoked the certificate {serial:X} of {client}"
        return "" if self.names_client(client) else f"no grant of the policy is for {client}"

    def names_client(self, client: str) -> bool:
        """Whether any grant is for this client."""
        return any(grant.names_client(client) for grant in self.grants)

    def permission(self, client: str, key_id: bytes, names: Collection[str], now: float) -> Permission | None:
        """What a client may do with a key; None: nothing. `now`: monotonic seconds."""
        try:
            return self._answers[client, key_id]
        except KeyError:
            answer = self._answers[client, key_id] = self._ask(client, key_id, names, now)
            return answer

    def forget(self) -> None:
        """To be called when keys have changed: names may stand for others now."""
        self._answers.clear()

    def names_no_key(self, held: Mapping[bytes, Collection[str]]) -> tuple[str, ...]:
        """Entries without wildcards that name no key that is held: perhaps misspelt."""
        every = {name for key_id, names in held.items() for name in (key_id.hex(), *names)}
        named = dict.fromkeys(key for grant in self.grants for key in grant.keys)
        return tuple(key for key in named if not set("*?[") & set(key) and key not in every)

    def _ask(self, client: str, key_id: bytes, names: Collection[str], now: float) -> Permission | None:
        for grant in self.grants:
            if grant.names_client(client) and grant.names_key(key_id, names):
                return Permission(grant.tls, TokenBucket(grant.rate, grant.rate, now) if grant.rate else None)
        return None


def parse(text: str) -> Grants:
    """From the file's text. Raises GrantsError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise GrantsError(f"not TOML: {error}") from None
    if unknown := document.keys() - {"grants", "revoked"}:
        raise GrantsError(f"{min(unknown)!r} is unknown; give [[grants]], and before it revoked if need be")
    entries = document.get("grants")
    if not isinstance(entries, list) or not entries:
        raise GrantsError("no grants; with none nobody could use any key: give [[grants]] or leave out --policy")
    revoked = map(_serial, _texts("revoked", document["revoked"])) if document.get("revoked", []) != [] else ()
    return Grants(tuple(_grant(f"grants[{number}]", entry) for number, entry in enumerate(entries)), frozenset(revoked))


def _serial(text: str) -> int:
    """Hexadecimal, with colons or without."""
    if not re.fullmatch(r"[0-9A-Fa-f]{1,2}(:?[0-9A-Fa-f]{2}){0,19}", text):
        raise GrantsError(f"revoked: {text!r} is no serial number; `openssl x509 -noout -serial -in cert.pem` shows it")
    return int(text.replace(":", ""), 16)


def _grant(where: str, entry: Mapping[str, Any]) -> Grant:
    known = [each.name for each in fields(Grant)]
    if not isinstance(entry, dict):
        raise GrantsError(f"{where}: give [[grants]] with clients and keys")
    if unknown := entry.keys() - set(known):
        raise GrantsError(f"{where}: {min(unknown)!r} is unknown; known are {', '.join(known)}")
    tls = _texts(f"{where}.tls", entry.get("tls", list(_SHAPES)))
    if wrong := [version for version in tls if version not in _SHAPES]:
        raise GrantsError(f"{where}.tls: {wrong[0]!r} is unknown; give 1.2, 1.3 or both")
    rate = entry.get("rate", 0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (rate >= 1 or "rate" not in entry):
        raise GrantsError(f"{where}.rate: give 1 or more signatures a second")
    clients = _texts(f"{where}.clients", entry.get("clients"))
    for client in clients:
        if not client.startswith(("l7:", "uid:", "*")):
            raise GrantsError(f"{where}.clients: {client!r} is no client; give l7:NAME, uid:NUMBER or *")
    keys = _texts(f"{where}.keys", entry.get("keys"))
    return Grant(clients, keys, frozenset(_SHAPES[version] for version in tls), float(rate))


def _texts(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
        raise GrantsError(f"{where}: give a list of texts")
    return tuple(value)
