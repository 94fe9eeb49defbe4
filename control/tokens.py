"""The users' tokens in the store's space `tokens`, one record each under its ID.

A token is looked up by the ID that stands in it and compared by its SHA-256, in constant time. Each request reads the
record, so that a token that is revoked, on whatever control node, is good for nothing from then on. One that is rotated
keeps its ID and gets another secret; the one before may stay good for a while, until it is replaced everywhere.

`used` is written at most every ten minutes, beside the request, and not at all where the record has just changed.
"""

from __future__ import annotations

import dataclasses
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from control.roles import ApiRole
from control.store import RECORDS_LIMIT, Record, RecordConflictError, Store, Write
from control.token_format import ID_RANGE, OLD_ID, PREFIX, SECRET_RANGE, again, digest, fault, id_of, made
from control.token_record import NoSuchTokenError, Token, TokenError, adopted, check_rights, decoded, encoded

SPACE = "tokens"
TOKEN_LIMIT = 1000
USED_EVERY_S = 600.0
KEPT_AFTER_END_S = 30 * 86400.0  # an expired token is still listed for so long
GRACE_LIMIT_S = 7 * 86400.0
ROTATE_AGAIN_S = 60.0  # of itself: what a token that may only read can write into the audit log
FORGOTTEN_AT_ONCE = 50
ATTEMPTS = 5


class Refusal(Enum):
    """Why a text admits nobody."""

    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Refused:
    """A text that admits nobody. `id` is what it claims to be, `text` tells whoever has sent it."""

    why: Refusal
    id: str
    text: str


class Tokens:
    """The tokens of one store. `clock` is Unix time in seconds."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._noting: set[str] = set()

    def now(self) -> float:
        """Unix time in seconds, by the clock that tokens end by."""
        return self._clock()

    async def find(self, text: str) -> Token | Refused:
        """Whose token this is."""
        identity = id_of(text)
        if identity is None:
            return Refused(Refusal.MALFORMED, "", f"the token {fault(text)}")
        token, now, offered = await self.get(identity), self._clock(), digest(text)
        if token is None or not _is_one_of(offered, token, now):
            why = "it is revoked, or of another cluster" if text.startswith(PREFIX) else f"they begin with {PREFIX}"
            return Refused(Refusal.UNKNOWN, identity, f"the token is not known: {why}")
        if token.ended(now):
            return Refused(Refusal.EXPIRED, identity, f"the token {token.name!r} has expired; ask for another one")
        return token

    async def get(self, identity: str) -> Token | None:
        """The token with this ID."""
        record = await self._store.record(SPACE, identity)
        return None if record is None else decoded(record.key, record.value)

    async def all(self) -> tuple[Token, ...]:
        """Every token, expired ones too, the oldest first."""
        found = [decoded(record.key, record.value) for record in await self._records()]
        return tuple(sorted(found, key=lambda token: (token.created, token.id)))

    async def create(self, name: str, role: ApiRole, creator: Token, expires: float | None = None) -> tuple[Token, str]:
        """A new token and its text; without `expires` it ends with its creator. Raises TokenError."""
        expires = creator.expires if expires is None else expires
        check_rights(creator, role, expires)
        return await self._make(Token("", name, role, "", self._clock(), creator.name, creator.id, expires))

    async def make_own(self, name: str, place: str, role: ApiRole = ApiRole.ADMIN) -> tuple[Token, str]:
        """A token that this machine's administrator has asked for, in the place of the one made for that place before.

        Raises TokenError.
        """
        return await self._make(Token("", name, role, "", self._clock(), "the control plane", place=place))

    async def _make(self, token: Token) -> tuple[Token, str]:
        now, present = self._clock(), await self.all()
        if token.expires is not None and token.expires <= now:
            raise TokenError("the token would have expired already; give a time to come")
        if not token.place and any(each.name == token.name and not each.ended(now) for each in present):
            raise TokenError(
                f"there is a token {token.name!r} already; give another name, rotate it, or revoke it first"
            )
        gone = [each for each in present if each.expires is not None and each.expires < now - KEPT_AFTER_END_S]
        gone += [each for each in present if token.place and each.place == token.place and each not in gone]
        if len(present) - len(gone) >= TOKEN_LIMIT:
            raise TokenError(f"there are {TOKEN_LIMIT} tokens, the limit; revoke those that nobody uses")
        identity, text = made(secrets.randbelow(ID_RANGE), secrets.randbelow(SECRET_RANGE))
        token = dataclasses.replace(token, id=identity, hash=digest(text))
        forgotten = [Write(SPACE, each.id, None) for each in gone[-FORGOTTEN_AT_ONCE:]]
        await self._store.write(Write(SPACE, identity, encoded(token), 0), *forgotten)
        return token, text

    async def rotate(self, identity: str, by: Token, grace_s: float) -> tuple[Token, str]:
        """Another secret for a token; the one before stays good for `grace_s`. Raises TokenError."""
        if identity.startswith(OLD_ID):
            raise TokenError("a token of an earlier release cannot be rotated; make another one and revoke it")
        for _ in range(ATTEMPTS):
            record = await self._store.record(SPACE, identity)
            if record is None:
                raise NoSuchTokenError(identity)
            token, now = decoded(record.key, record.value), self._clock()
            if token.id != by.id:
                check_rights(by, token.role, token.expires)
            elif token.rotated is not None and 0 <= now - token.rotated < ROTATE_AGAIN_S:
                raise TokenError(f"the token has been rotated just now; it may again {ROTATE_AGAIN_S:g} s later")
            if token.ended(now):
                raise TokenError(f"the token {token.name!r} has expired; make another one")
            text = again(identity, secrets.randbelow(SECRET_RANGE))
            before, until = (token.hash, now + grace_s) if grace_s else ("", 0.0)
            token = dataclasses.replace(token, hash=digest(text), rotated=now, before=before, before_until=until)
            if await self._written(Write(SPACE, identity, encoded(token), record.revision)):
                return token, text
        raise _contended(identity)

    async def revoke(self, identity: str) -> Token:
        """Make a token good for nothing. Raises TokenError, which it does for the last one that could make others."""
        for _ in range(ATTEMPTS):
            now, records = self._clock(), {record.key: record for record in await self._records()}
            if identity not in records:
                raise NoSuchTokenError(identity)
            token, *others = (decoded(key, records[key].value) for key in (identity, *(records.keys() - {identity})))
            gone = [Write(SPACE, identity, None, records[identity].revision)]
            if _is_admin(token, now):
                stays = next((each for each in others if _is_admin(each, now)), None)
                if stays is None:
                    raise TokenError(f"{token.name!r} is the last token that may make others; make another one first")
                kept = records[stays.id]  # written as it is: whoever revokes it at the same time has to look again
                gone.append(Write(SPACE, kept.key, kept.value, kept.revision))
            if await self._written(*gone):
                return token
        raise _contended(identity)

    def is_use_news(self, token: Token) -> bool:
        """Whether it is to be written down that this token is used: not if that was done lately, or is being done."""
        lately = token.used is not None and self._clock() - token.used < USED_EVERY_S
        return not lately and token.id not in self._noting

    async def note_use(self, token: Token, address: str) -> None:
        """Write down that it was used, if that is news."""
        if not self.is_use_news(token):
            return
        now = self._clock()
        self._noting.add(token.id)
        try:
            record = await self._store.record(SPACE, token.id)
            if record is not None:
                used = dataclasses.replace(decoded(record.key, record.value), used=now, used_from=address)
                await self._written(Write(SPACE, token.id, encoded(used), record.revision))
        finally:
            self._noting.discard(token.id)

    async def adopt_old(self) -> int:
        """Give the tokens of releases that knew no roles what they lack; how many there were."""
        count = 0
        for record in await self._records():
            token = adopted(record.key, record.value)
            if token is not None:
                new = Write(SPACE, token.id, encoded(token), 0)
                count += await self._written(new, Write(SPACE, record.key, None, record.revision))
        return count

    async def _written(self, *changes: Write) -> bool:
        """Whether the records were still those that had been read."""
        try:
            await self._store.write(*changes)
        except RecordConflictError:
            return False
        return True

    async def _records(self) -> list[Record]:
        found: list[Record] = []
        while part := await self._store.records(SPACE, found[-1].key if found else "", RECORDS_LIMIT):
            found += part
        return found


async def set_token(store: Store, name: str, role: ApiRole = ApiRole.ADMIN) -> str:
    """Make a token without anybody's leave, in the place of the one that was made so by that name, and return it."""
    _, text = await Tokens(store).make_own(name, f"name:{name}", role)
    return text


def _is_one_of(offered: str, token: Token, now: float) -> bool:
    before = now < token.before_until and hmac.compare_digest(token.before, offered)
    return hmac.compare_digest(token.hash, offered) or before


def _is_admin(token: Token, now: float) -> bool:
    return token.role is ApiRole.ADMIN and not token.ended(now)


def _contended(identity: str) -> TokenError:
    return TokenError(f"the token {identity!r} is being changed again and again; try once more")
