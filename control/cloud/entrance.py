"""Who comes in by a cloud's API: signed requests, whose access keys are tokens of the users' API.

The limits are those of the users' API and shared with it (`control.access`): of an address before anything is looked
at, of wrong signatures of an address, of a token. A stranger can make us read one body and take one HMAC; a nonce is
remembered of requests whose signature is right, and of no others. Each cloud has words of its own for a `Reason`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from control.access import Access
from control.audit import Changed, Told
from control.cloud import kept_nonces
from control.cloud.access_keys import Keyring, token_id
from control.cloud.nonces import Nonces, Seen, within
from control.limits import Full, Places, source_of
from control.store import Store
from control.token_record import Token

BODIES = 256  # of strangers, read at a time
BODIES_EACH = 16  # of one address


class Reason(Enum):
    """Why a request is not served; each with the status that the audit log has."""

    TOO_MANY_OF_ADDRESS = 429
    TOO_MANY_OF_KEY = 4290
    TOO_MANY_WRONG = 4291
    BUSY = 503
    OUT_OF_TIME = 401
    UNKNOWN_KEY = 4010
    ENDED_KEY = 4011
    WRONG_SIGNATURE = 4012
    USED_NONCE = 4013
    LACKS_ROLE = 403

    @property
    def status(self) -> int:
        """The status for the audit log."""
        return int(str(self.value)[:3])


class RefusedError(Exception):
    """A request that is not served. `claimed` is the ID of the token that it says it is of."""

    def __init__(self, reason: Reason, text: str, wait_s: float = 0.0, claimed: str = "") -> None:
        super().__init__(text)
        self.reason, self.wait_s, self.claimed = reason, wait_s, claimed


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of itself: whose it is, when it was signed, and whether a secret has made its signature."""

    key_id: str
    signed_at: float
    nonce: str
    signed_with: Callable[[str], bool]


class Entrance:
    """One per cloud's API. `clock` is Unix time in seconds, by which requests are signed."""

    def __init__(self, access: Access, store: Store, keyring: Keyring, clock: Callable[[], float] = time.time) -> None:
        self.access, self._store, self._keyring, self._clock = access, store, keyring, clock
        self._nonces = Nonces()
        self._strangers = Places(BODIES, BODIES_EACH)

    @asynccontextmanager
    async def admitted(self, address: str) -> AsyncIterator[None]:
        """A place to read a request in, of whomever it is. Raises RefusedError."""
        source = source_of(address)
        if wait_s := self.access.of_addresses.take(source, self.access.clock()):
            raise RefusedError(Reason.TOO_MANY_OF_ADDRESS, "too many requests come from your address", wait_s)
        try:
            with self._strangers.taken(source):
                yield
        except Full as full:
            reason = Reason.TOO_MANY_OF_ADDRESS if full.alone else Reason.BUSY
            raise RefusedError(reason, "too many requests are under way", 1) from None

    async def identify(self, claim: Claim, address: str) -> Token:
        """Whose request it is. Raises RefusedError, StoreUnavailableError."""
        now = self._clock()
        if not within(claim.signed_at, now):
            raise RefusedError(Reason.OUT_OF_TIME, "the request was not signed within fifteen minutes of our time")
        identity = token_id(claim.key_id)
        token = None if identity is None else await self.access.tokens.get(identity)
        if token is None:
            raise self._wrong(Reason.UNKNOWN_KEY, "the access key is not known", address, identity or "")
        # Every secret is tried, and none before the other is known to be wrong.
        tried = [claim.signed_with(secret) for secret in self._keyring.secrets(token, self.access.tokens.now())]
        if not any(tried):
            raise self._wrong(Reason.WRONG_SIGNATURE, "the signature is not right", address, token.id)
        if token.ended(self.access.tokens.now()):
            raise RefusedError(Reason.ENDED_KEY, f"the token {token.name!r} has expired", claimed=token.id)
        if wait_s := self.access.of_tokens.take(token.id, self.access.clock()):
            raise RefusedError(Reason.TOO_MANY_OF_KEY, "too many requests with this access key", wait_s, token.id)
        seen = self._nonces.take(token.id, claim.nonce, claim.signed_at, now)
        if seen is Seen.USED:
            raise RefusedError(Reason.USED_NONCE, "the nonce has been used already", claimed=token.id)
        if seen is Seen.NO_ROOM:
            raise RefusedError(Reason.TOO_MANY_OF_KEY, "too many nonces have to be remembered", 1, token.id)
        self.access.used(token, address)
        return token

    async def keep_nonce(self, token: Token, claim: Claim) -> None:
        """Have a request that changes something served once by all control nodes. Raises as `identify`."""
        if not await kept_nonces.keep(self._store, token.id, claim.nonce, claim.signed_at, self._clock()):
            raise RefusedError(Reason.USED_NONCE, "the nonce has been used already", claimed=token.id)

    @asynccontextmanager
    async def placed(self, token: Token) -> AsyncIterator[None]:
        """A place to be served in. Raises RefusedError."""
        try:
            with self.access.places.taken(token.id):
                yield
        except Full as full:
            reason = Reason.TOO_MANY_OF_KEY if full.alone else Reason.BUSY
            raise RefusedError(reason, "too many requests are under way", 1, token.id) from None

    def _wrong(self, reason: Reason, text: str, address: str, claimed: str) -> RefusedError:
        if wait_s := self.access.of_failures.take(source_of(address), self.access.clock()):
            return RefusedError(
                Reason.TOO_MANY_WRONG, "too many wrong signatures come from your address", wait_s, claimed
            )
        return RefusedError(reason, text, claimed=claimed)

    async def tell(
        self, token: Token | None, address: str, method: str, path: str, status: int, *,
        why: str = "", claimed: str = "", change: Changed | None = None, objects: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Write an entry of the audit log, as one of the users' API is."""
        who, role = ("-", "") if token is None else (token.name, token.role.value)
        identity = claimed if token is None else token.id
        await self.access.audit.tell(
            Told(who, identity, role, address, method, path, status, why=why, change=change, objects=objects)
        )
