"""A store in etcd, for several control nodes; any of them may be asked to change anything.

    PREFIXcurrent               the number of the current version
    PREFIXversions/NUMBER       who made it, when, and its parts
    PREFIXparts/NUMBER/ID/PART  what it is, deflated and cut: etcd takes 1.5 MiB in a request
    PREFIXrecords/SPACE/KEY
    PREFIXwriters/ID            `control.etcd_session`
    PREFIXleaders/NAME

*A version appears whole or not at all.* One transaction makes it, on condition that `current` is what it was made from.
Where it has several parts, they are written before, hanging on a lease; the transaction takes them off it, which
fails if one of them has gone. What a writer leaves behind that has died in between goes with the lease.

*Others are told* by a watch of `current`. What the watch cannot tell, that it is cut off, is found by looking: every
two seconds.

*Where etcd is away*, what it says of identities and tokens is answered from what was last heard; all else is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
import zlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from control.etcd import CALL_S, Document, Etcd, Event, KeyValue, Tls, behind, encode, key_values
from control.etcd_mirror import MIRRORED, Mirror
from control.etcd_session import Session, delete, is_revision, is_value, put
from control.node.tasks import Tasks
from control.store import (
    EMPTY,
    HISTORY_LIMIT,
    RECORDS_LIMIT,
    Announced,
    Entry,
    Record,
    RecordConflictError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
    Write,
    check_key,
    check_range,
    check_writes,
    no_such,
)
from core.config import from_dict, to_dict
from core.model import Model

log = logging.getLogger(__name__)

PART_BYTES = 1 << 20
PARTS_LEASE_S = 60
LEVEL = 1  # of deflate: less than half the time of 6, and a tenth more bytes
LOOK_EVERY_S = 2.0
WATCH_AGAIN_S = 0.2
MIRRORED_CALL_S = 1.5
COMPACT_EVERY_S = 300.0  # as Kubernetes does
READ_AGAIN = 5  # a current version that is forgotten while it is read: a thousand others have come in between
PAGE = 128  # records of a request: 8 MiB at most


class EtcdStore:
    """A `Store`; made by `open`."""

    def __init__(self, etcd: Etcd, prefix: str) -> None:
        self._etcd, self._prefix = etcd, prefix
        self._session = Session(etcd, prefix)
        self._mirror = Mirror(f"{prefix}records/")
        self._announced = Announced(0)
        self._seen = 0  # the revision of what is announced
        self._watched = 0  # how far the watch has told
        self._member = ""  # who tells
        self._hearing: asyncio.Timeout | None = None
        self._tasks = Tasks()

    @classmethod
    async def open(cls, endpoints: Sequence[str], prefix: str, tls: Tls) -> EtcdStore:
        """Begin a session. Raises StoreError."""
        if not (prefix.startswith("/") and prefix.endswith("/") and prefix.isascii() and prefix.isprintable()):
            raise StoreError(f"--etcd-prefix {prefix}: give one such as /paifang/")
        store = cls(Etcd(endpoints, tls), prefix)
        try:
            await store._session.begin()
            await store._read_all()
        except BaseException:
            await store._etcd.close()
            raise
        store._tasks.spawn(store._session.run(), "the lease in etcd")
        store._tasks.spawn(store._watch(), "watch of etcd")
        store._tasks.spawn(store._look(), "look at etcd")
        store._tasks.spawn(store._compact(), "compaction of etcd")
        return store

    async def close(self) -> None:
        await self._tasks.close()
        await self._session.close()
        await self._etcd.close()

    # --- versions

    async def put(self, model: Model, author: str, comment: str, expected_version: int | None) -> int:
        text, packed = await asyncio.to_thread(_pack, model)
        digest = hashlib.sha256(text).hexdigest()
        while True:
            current, kept = await self._last()
            if expected_version is not None and expected_version != current:
                raise VersionConflictError(expected_version, current)
            if digest == (kept or {"sha256": hashlib.sha256(_text(Model())).hexdigest()})["sha256"]:
                return current
            entry = Entry(current + 1, time.time(), author, comment)
            if await self._put(entry, digest, packed):
                return entry.version

    async def get(self, version: int | None = None) -> tuple[Entry, Model]:
        for _ in range(READ_AGAIN):
            if version is None:
                number, kept = await self._last()
            else:
                found, _ = await self._range(self._version_key(version))
                number, kept = version, json.loads(found[0].value) if found else None
            if kept is None:
                if number:
                    raise no_such(number, await self.history(HISTORY_LIMIT))
                return EMPTY, Model()
            folder = f"{self._prefix}parts/{number:016d}/{kept['id']}/"
            parts, _ = await self._range(folder, behind(folder))
            if len(parts) == kept["parts"]:
                return _entry(kept), await asyncio.to_thread(_unpack, number, [part.value for part in parts])
            if version is not None:  # forgotten since
                raise no_such(number, await self.history(HISTORY_LIMIT))
        raise StoreError(f"{self._prefix}: parts of version {number} are missing; bring etcd back from a snapshot")

    async def history(self, limit: int, before: int | None = None) -> tuple[Entry, ...]:
        if limit < 1:
            return ()
        folder = f"{self._prefix}versions/"
        end = behind(folder) if before is None else self._version_key(max(before, 0))
        found, _ = await self._range(folder, end, limit=limit, descending=True)
        return tuple(_entry(json.loads(kept.value)) for kept in found)

    async def changed(self, version: int) -> None:
        await self._announced.other_than(version)

    # --- records

    async def record(self, space: str, key: str) -> Record | None:
        check_key(space, key)
        try:
            found, _ = await self._range(self._record_key(space, key), within_s=_patience(space))
        except StoreUnavailableError:
            if space not in MIRRORED:
                raise
            return self._mirror.record(space, key)
        return Record(key, found[0].value, found[0].revision) if found else None

    async def records(self, space: str, after: str = "", limit: int = RECORDS_LIMIT) -> tuple[Record, ...]:
        check_range(space, limit)
        folder, records = self._record_key(space, ""), list[Record]()
        try:
            while len(records) < limit:
                last = records[-1].key if records else after
                page = min(PAGE, limit - len(records))
                start = f"{folder}{last}" + ("\0" if last else "")
                found, _ = await self._range(start, behind(folder), limit=page, within_s=_patience(space))
                records += [Record(kept.key.removeprefix(folder), kept.value, kept.revision) for kept in found]
                if len(found) < page:
                    break
        except StoreUnavailableError:
            if space not in MIRRORED:
                raise
            return self._mirror.records(space, after, limit)
        return tuple(records)

    async def write(self, *changes: Write) -> int:
        check_writes(changes)
        expecting = [change for change in changes if change.expected is not None]
        compare = [is_revision(self._record_key(each.space, each.key), each.expected or 0) for each in expecting]
        success = [
            delete(key) if each.value is None else put(key, each.value)
            for each in changes
            for key in [self._record_key(each.space, each.key)]
        ]
        look = [{"request_range": {"key": encode(self._record_key(each.space, each.key))}} for each in expecting]
        written = await self._session.commit(compare, success, look)
        if written.refused is None:
            return written.revision
        for each, told in zip(expecting, written.refused, strict=True):
            found = key_values(told["response_range"])
            if (found[0].revision if found else 0) != each.expected:
                raise RecordConflictError(each.space, each.key)
        raise StoreUnavailableError("etcd refuses a write for no reason that can be seen; repeat it")

    def leading(self, name: str) -> AbstractAsyncContextManager[None]:
        return self._session.leading(name)

    def away(self) -> str:
        return self._session.away

    # --- one version

    async def _put(self, entry: Entry, digest: str, packed: bytes) -> bool:
        """Make a version; False if another has come in between."""
        identity = secrets.token_hex(8)
        folder = f"{self._prefix}parts/{entry.version:016d}/{identity}/"
        parts = [packed[at : at + PART_BYTES] for at in range(0, len(packed), PART_BYTES)]
        keys = [f"{folder}{number:04d}" for number in range(len(parts))]
        making = [put(keys[0], parts[0])] if len(parts) == 1 else await self._park(keys, parts)
        kept = {
            "version": entry.version, "created": entry.created, "author": entry.author, "comment": entry.comment,
            "id": identity, "parts": len(parts), "sha256": digest,
        }  # fmt: skip
        forgotten = max(entry.version - HISTORY_LIMIT + 1, 0)
        current = f"{self._prefix}current"
        success = [
            *making,
            put(self._version_key(entry.version), json.dumps(kept).encode()),
            put(current, b"%d" % entry.version),
            delete(self._version_key(0), self._version_key(forgotten)),
            delete(f"{self._prefix}parts/", f"{self._prefix}parts/{forgotten:016d}/"),
        ]
        before = is_value(current, str(entry.version - 1)) if entry.version > 1 else is_revision(current, 0)
        written = await self._session.commit([before], success)
        if written.refused is None:
            self._saw(entry.version, written.revision)
        return written.refused is None

    async def _park(self, keys: Sequence[str], parts: Sequence[bytes]) -> list[Document]:
        """Write parts that go by themselves unless what is returned takes them off their lease."""
        lease = (await self._etcd.call("/v3/lease/grant", {"TTL": PARTS_LEASE_S}))["ID"]
        for key, part in zip(keys, parts, strict=True):
            await self._etcd.call("/v3/kv/put", put(key, part, lease)["request_put"])
        return [{"request_put": {"key": encode(key), "ignore_value": True}} for key in keys]

    async def _last(self) -> tuple[int, Document | None]:
        """The number of the current version, and what is known of it."""
        folder = f"{self._prefix}versions/"
        found, _ = await self._range(folder, behind(folder), limit=1, descending=True)
        if not found:
            return 0, None
        kept = json.loads(found[0].value)
        return int(kept["version"]), kept

    # --- keeping up

    async def _watch(self) -> None:
        """Hear of changes, until cancelled."""
        while True:
            try:
                revision = await self._read_all()
                await self._hear(revision + 1)
            except StoreUnavailableError as error:
                log.debug("watch: %s", error)
            await asyncio.sleep(WATCH_AGAIN_S)

    async def _hear(self, start_revision: int) -> None:
        """Take what the watch tells, until it ends or has missed something."""
        current = f"{self._prefix}current"
        ranges = [(current, current + "\0"), *self._mirror.ranges]
        self._member = self._etcd.preferred
        try:
            async with asyncio.timeout(None) as self._hearing, self._etcd.watch(ranges, start_revision) as told:
                async for events in told:
                    for event in events:
                        self._take(event)
        except TimeoutError:
            log.info("etcd: %s has not told everything", self._member)
        finally:
            self._hearing = None

    def _take(self, event: Event) -> None:
        self._watched = max(self._watched, event.revision)
        if event.key == f"{self._prefix}current":
            self._saw(int(event.value or b"0"), event.revision)
        else:
            self._mirror.hear(event)

    async def _look(self) -> None:
        """See whether the watch tells everything, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                found, _ = await self._range(f"{self._prefix}current")
            except StoreUnavailableError as error:
                log.debug("look: %s", error)
                continue
            for kept in found:
                self._saw(int(kept.value), kept.revision)
            missed = self._etcd.preferred != self._member or any(kept.revision > self._watched for kept in found)
            if missed and self._hearing is not None and not self._hearing.expired():
                self._hearing.reschedule(0.0)

    async def _read_all(self) -> int:
        """Read what the watch follows, and return the revision to watch from."""
        found, revision = await self._range(f"{self._prefix}current")
        self._saw(int(found[0].value) if found else 0, found[0].revision if found else 0)
        for start, end in self._mirror.ranges:
            mirrored, _ = await self._range(start, end)
            self._mirror.replace(start, mirrored)
        self._watched = revision
        return revision

    def _saw(self, version: int, revision: int) -> None:
        """The version that was current at a revision; what is older than what is known is no news."""
        if revision > self._seen:
            self._seen = revision
            self._announced.set(version)

    async def _compact(self) -> None:
        """As the leader, let etcd forget the revisions of its keys that nobody asks for, until cancelled."""
        while True:
            try:
                async with self.leading("compaction"):
                    _, revision = await self._range(f"{self._prefix}current")
                    while True:
                        await asyncio.sleep(COMPACT_EVERY_S)
                        revision = await self._compact_to(revision)
            except StoreError as error:
                log.debug("compaction: %s", error)
                await asyncio.sleep(WATCH_AGAIN_S)

    async def _compact_to(self, revision: int) -> int:
        """Forget what was before a revision; the one that is current now."""
        _, now = await self._range(f"{self._prefix}current")
        try:
            await self._etcd.call("/v3/kv/compaction", {"revision": str(revision)})
        except StoreUnavailableError as error:  # another client of this etcd may have done so, and further
            log.debug("compaction: %s", error)
        return now

    # --- keys

    def _version_key(self, version: int) -> str:
        return f"{self._prefix}versions/{version:016d}"

    def _record_key(self, space: str, key: str) -> str:
        return f"{self._prefix}records/{space}/{key}"

    async def _range(
        self, key: str, end: str | None = None, *, limit: int = 0, descending: bool = False, within_s: float = CALL_S
    ) -> tuple[tuple[KeyValue, ...], int]:
        if self._session.away:
            raise StoreUnavailableError(self._session.away)
        return await self._etcd.range(key, end, limit=limit, descending=descending, within_s=within_s)


def _patience(space: str) -> float:
    """How long to wait for records: who asks to be let in is answered soon."""
    return MIRRORED_CALL_S if space in MIRRORED else CALL_S


def _entry(kept: Document) -> Entry:
    return Entry(kept["version"], kept["created"], kept["author"], kept["comment"])


def _text(model: Model) -> bytes:
    return json.dumps(to_dict(model)).encode()


def _pack(model: Model) -> tuple[bytes, bytes]:
    text = _text(model)
    return text, zlib.compress(text, LEVEL)


def _unpack(version: int, parts: Sequence[bytes]) -> Model:
    return from_dict(json.loads(zlib.decompress(b"".join(parts))), path=f"version {version}")
