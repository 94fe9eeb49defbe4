"""The audit log: every change by the users' API and every refusal of a token, in the store's space `audit`.

An entry is written after its request, with its result; where it cannot be written, the log has it as an error, and the
request's answer stays what it is. Entries are chained (`control.audit_chain`), over all control nodes: one append is a
transaction on the record `head`. The oldest are forgotten beyond ENTRIES_LIMIT or after KEPT_S.

Refusals are what strangers can cause, failures what every token can; neither has changed anything. Of all refusals, and
of the failures of each token, FRUITLESS_AT_ONCE are written, then one in FRUITLESS_EVERY_S, and the next one says how
many were not (`unrecorded`): so a flood, however long, neither pushes changes out of the log nor wears the storage out.
At that pace ENTRIES_LIMIT is a year. No entry has a token,
a body or a query; of text that users give (path, comment) the secrets of tokens are cut out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TextIO

from aiohttp import web

from control.audit_chain import OBJECTS_LIMIT, TEXT_LIMIT, Entry, Head, chained, encoded, key_of
from control.limits import Buckets
from control.store import RECORDS_LIMIT, Record, RecordConflictError, Store, StoreError, Write
from control.token_format import without_secrets
from core import plan

log = logging.getLogger(__name__)

SPACE, HEAD = "audit", "head"
ENTRIES_LIMIT = 100_000  # some 50 MB
KEPT_S = 400 * 86400.0  # a year, and time to look at it
AGED_EVERY = 64  # entries: how often the oldest are looked at
FORGOTTEN_AT_ONCE = 80  # a write has 100 changes at most
FRUITLESS_AT_ONCE = 60
FRUITLESS_EVERY_S = 300.0
FRUITLESS_KEYS = 1024  # as many tokens as there may be, and some
METHOD_LIMIT = 20
SCAN_LIMIT = 10_000  # entries that one page looks through
ATTEMPTS = 20  # against other control nodes that append


@dataclass(frozen=True, slots=True)
class Changed:
    """What a request has changed in the configuration: versions, and objects as "kind/name"."""

    before: int
    after: int
    objects: Sequence[str]


@dataclass(frozen=True, slots=True)
class Told:
    """What an entry is made of. `token` is the public ID, even of a token that admits nobody."""

    who: str
    token: str
    role: str
    source: str
    method: str
    path: str
    status: int
    comment: str = ""
    why: str = ""
    change: Changed | None = None
    objects: Sequence[str] = ()


class Audit:
    """The audit log of one store. `clock` is Unix time in seconds; with `lines`, entries go there as JSON too."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.time,
        lines: TextIO | None = None,
        entries_limit: int = ENTRIES_LIMIT,
    ) -> None:
        self._store, self._clock, self._lines, self._entries_limit = store, clock, lines, entries_limit
        self._appending = asyncio.Lock()
        self._fruitless = Buckets(1 / FRUITLESS_EVERY_S, FRUITLESS_AT_ONCE, FRUITLESS_KEYS)
        self._unrecorded = 0

    async def tell(self, told: Told) -> None:
        """Write an entry down. Where that fails, this process's log has it."""
        result, now = result_of(told.status), self._clock()
        fruitless = result != "done"
        if fruitless and self._fruitless.take(told.token if result == "failed" else "", now):
            self._unrecorded += 1
            return
        document = _document(told, now)
        if fruitless and self._unrecorded:
            document["unrecorded"], self._unrecorded = self._unrecorded, 0
        try:
            entry = await self._append(document)
        except (StoreError, RecordConflictError) as error:
            log.error("the audit log could not be written (%s): %s", error, json.dumps(document))
            return
        if self._lines is not None:
            print(json.dumps({"audit": entry}), file=self._lines, flush=True)

    async def _append(self, document: Mapping[str, object]) -> Entry:
        async with self._appending:
            for attempt in range(ATTEMPTS):
                record, head = await self._read_head()
                entry, head = chained(document, head)
                head, gone = await self._forgotten(head)
                changed = Write(
                    SPACE, HEAD, json.dumps(asdict(head)).encode(), 0 if record is None else record.revision
                )
                try:
                    await self._store.write(changed, Write(SPACE, key_of(head.last), encoded(entry), 0), *gone)
                except RecordConflictError:
                    if attempt == ATTEMPTS - 1:
                        raise
                    continue
                return entry
        raise AssertionError

    async def _forgotten(self, head: Head) -> tuple[Head, list[Write]]:
        """The head without the oldest entries that are not kept any more, and what deletes them."""
        excess = head.last - head.first + 1 - self._entries_limit
        if excess <= 0 and head.last % AGED_EVERY:
            return head, []
        entries = await self._entries(head.first, min(FORGOTTEN_AT_ONCE, head.last - head.first))
        gone: list[Write] = []
        for entry in entries:
            if len(gone) >= excess and _number(entry, "at") > self._clock() - KEPT_S:
                break
            gone.append(Write(SPACE, key_of(head.first), None))
            head = Head(head.first + 1, str(entry["hash"]), head.last, head.hash)
        return head, gone

    async def head(self) -> Head:
        """Where the chain stands."""
        return (await self._read_head())[1]

    async def page(
        self, before: int | None, limit: int, wanted: Callable[[Entry], bool]
    ) -> tuple[list[Entry], int | None]:
        """The newest entries before a number that are wanted, newest first, and where the next page begins.

        Looks through SCAN_LIMIT entries at most, so that a page may be short, or empty, and still not be the last.
        """
        head = await self.head()
        end = head.last if before is None else min(before - 1, head.last)
        floor = max(head.first, end - SCAN_LIMIT + 1)
        found: list[Entry] = []
        while end >= floor:
            start = max(floor, end - RECORDS_LIMIT + 1)
            for entry in reversed(await self._entries(start, end - start + 1)):
                if wanted(entry):
                    found.append(entry)
                    if len(found) == limit:
                        number = int(_number(entry, "number"))
                        return found, number if number > head.first else None
            end = start - 1
        return found, floor if floor > head.first else None

    async def range(self, first: int, limit: int) -> list[Entry]:
        """Entries from a number on, oldest first."""
        return await self._entries(first, limit)

    async def _entries(self, first: int, count: int) -> list[Entry]:
        if count < 1:
            return []
        records = await self._store.records(SPACE, key_of(first - 1), min(count, RECORDS_LIMIT))
        return [json.loads(record.value) for record in records if record.key != HEAD]

    async def _read_head(self) -> tuple[Record | None, Head]:
        record = await self._store.record(SPACE, HEAD)
        return record, Head() if record is None else Head(**json.loads(record.value))


@dataclass(slots=True)
class Notes:
    """What is told of a request while it is being served, for its entry. `claimed` is the ID of a token refused."""

    why: str = ""
    claimed: str = ""
    change: Changed | None = None
    objects: Sequence[str] = ()


_NOTES = web.RequestKey("audit", Notes)


def notes_of(request: web.Request) -> Notes:
    """The notes of a request."""
    if _NOTES not in request:
        request[_NOTES] = Notes()
    return request[_NOTES]


def note(request: web.Request, *objects: str) -> None:
    """What a request has changed, such as "tokens/7Jq0vN2xWc", for its entry."""
    notes_of(request).objects = objects


def note_change(request: web.Request, version: int, changes: Sequence[plan.Change]) -> None:
    """What a request has changed in the configuration, which is at `version` now."""
    objects = tuple(f"{each.kind.value}/{each.name}" for each in changes)
    notes_of(request).change = Changed(version - 1 if changes else version, version, objects)


def _document(told: Told, now: float) -> dict[str, object]:
    document: dict[str, object] = {
        "at": round(now, 3), "who": told.who, "token": told.token, "role": told.role, "from": told.source,
        "method": told.method[:METHOD_LIMIT], "path": _bounded(told.path), "status": told.status,
        "result": result_of(told.status),
    }  # fmt: skip
    change = told.change
    objects = told.objects if change is None else change.objects
    more: dict[str, object] = {
        "comment": _bounded(told.comment),
        "why": _bounded(told.why),
        "objects": list(objects[:OBJECTS_LIMIT]),
    }
    if change is not None:
        document.update(version_before=change.before, version=change.after)
    if len(objects) > OBJECTS_LIMIT:
        document["changes"] = len(objects)
    return {**document, **{name: each for name, each in more.items() if each}}


def result_of(status: int) -> str:
    """What became of a request: done, refused (for who asks), failed (for what was asked)."""
    return "done" if status < 400 else "refused" if status in (401, 403, 421, 429) else "failed"


def _bounded(text: str) -> str:
    return without_secrets(text)[:TEXT_LIMIT]


def _number(entry: Entry, name: str) -> float:
    value = entry[name]
    assert isinstance(value, int | float)
    return value
