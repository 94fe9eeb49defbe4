"""A store in one SQLite file, for a control plane on one machine.

All of it happens in one thread of its own: what is asked for at once is done one after the other, and nothing blocks
the event loop. WAL, and synchronous=FULL: an answered change survives a power failure. Another process does not see
our versions; `control.server` sees to it that there is none.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

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
from core.config import from_dict
from core.encoding import Encoder
from core.model import Model

BUSY_S = 5.0  # for a backup that reads, say
# What makes each schema from the one before.
_STEPS = (
    """
    CREATE TABLE versions (
        version INTEGER PRIMARY KEY, created REAL NOT NULL, author TEXT NOT NULL, comment TEXT NOT NULL,
        config TEXT NOT NULL
    ) STRICT;
    CREATE TABLE tokens (name TEXT PRIMARY KEY, hash BLOB NOT NULL, created REAL NOT NULL) STRICT;
    """,
    "CREATE TABLE secrets (name TEXT PRIMARY KEY, secret BLOB NOT NULL) STRICT;",
    """
    CREATE TABLE records (
        space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL,
        PRIMARY KEY (space, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE writes (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL) STRICT;
    INSERT INTO writes VALUES (1, 1);
    INSERT INTO records SELECT
        'tokens', name, CAST(json_object('hash', lower(hex(hash)), 'created', created) AS BLOB), 1 FROM tokens;
    INSERT INTO records SELECT 'secrets', name, secret, 1 FROM secrets;
    DROP TABLE tokens;
    DROP TABLE secrets;
    """,
)
SCHEMA_VERSION = len(_STEPS)

T = TypeVar("T")


class SqliteStore:
    """A `Store` in one file; made by `open`."""

    def __init__(self, path: Path, thread: ThreadPoolExecutor, db: sqlite3.Connection, version: int) -> None:
        self._path, self._thread, self._db = path, thread, db
        self._announced = Announced(version)
        self._encoder = Encoder()  # the thread's

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open the file, or make it, and bring what an older release wrote up to date. Raises StoreError."""
        thread = ThreadPoolExecutor(1, "store")
        try:
            db, version = await asyncio.get_running_loop().run_in_executor(thread, _open, path)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(path, thread, db, version)

    async def put(self, model: Model, author: str, comment: str, expected_version: int | None) -> int:
        version = await self._do(lambda: self._put(model, author, comment, expected_version))
        self._announced.set(max(version, self._announced.version))
        return version

    async def get(self, version: int | None = None) -> tuple[Entry, Model]:
        return await self._do(lambda: self._get(version))

    async def history(self, limit: int, before: int | None = None) -> tuple[Entry, ...]:
        return await self._do(lambda: self._history(limit, before))

    async def changed(self, version: int) -> None:
        await self._announced.other_than(version)

    async def record(self, space: str, key: str) -> Record | None:
        check_key(space, key)
        return await self._do(lambda: self._record(space, key))

    async def records(self, space: str, after: str = "", limit: int = RECORDS_LIMIT) -> tuple[Record, ...]:
        check_range(space, limit)
        query = "SELECT key, value, revision FROM records WHERE space = ? AND key > ? ORDER BY key LIMIT ?"
        rows = await self._do(lambda: self._db.execute(query, (space, after, limit)).fetchall())
        return tuple(Record(*row) for row in rows)

    async def write(self, *changes: Write) -> int:
        check_writes(changes)
        return await self._do(lambda: self._write(changes))

    @asynccontextmanager
    async def leading(self, name: str) -> AsyncIterator[None]:
        """One control node leads in everything, from the first moment and for good."""
        yield

    def away(self) -> str:
        return ""

    async def close(self) -> None:
        await self._do(self._db.close)
        self._thread.shutdown()

    # --- in the thread

    async def _do(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in the thread; it is done even where whoever waits for it is cancelled."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:
            raise StoreUnavailableError(f"{self._path}: {error}; see that its disk has room and works") from None

    def _put(self, model: Model, author: str, comment: str, expected_version: int | None) -> int:
        config = self._encoder.encode(model)
        with self._transaction() as db:
            row = db.execute("SELECT version, config FROM versions ORDER BY version DESC LIMIT 1").fetchone()
            current, present = row or (0, Encoder().encode(Model()))
            if expected_version is not None and expected_version != current:
                raise VersionConflictError(expected_version, current)
            if config == present:
                return int(current)
            version = int(current) + 1
            db.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?)", (version, time.time(), author, comment, config))
            db.execute("DELETE FROM versions WHERE version <= ?", (version - HISTORY_LIMIT,))
            return version

    def _get(self, version: int | None) -> tuple[Entry, Model]:
        query = "SELECT version, created, author, comment, config FROM versions"
        if version is None:
            row = self._db.execute(f"{query} ORDER BY version DESC LIMIT 1").fetchone()
        else:
            row = self._db.execute(f"{query} WHERE version = ?", (version,)).fetchone()
        if row is not None:
            return Entry(*row[:4]), from_dict(json.loads(row[4]), path=f"version {row[0]}")
        if version:
            raise no_such(version, self._history(HISTORY_LIMIT, None))
        return EMPTY, Model()

    def _history(self, limit: int, before: int | None) -> tuple[Entry, ...]:
        query = "SELECT version, created, author, comment FROM versions WHERE version < ? ORDER BY version DESC LIMIT ?"
        return tuple(Entry(*row) for row in self._db.execute(query, (1 << 62 if before is None else before, limit)))

    def _record(self, space: str, key: str) -> Record | None:
        query = "SELECT key, value, revision FROM records WHERE space = ? AND key = ?"
        row = self._db.execute(query, (space, key)).fetchone()
        return None if row is None else Record(*row)

    def _write(self, changes: tuple[Write, ...]) -> int:
        with self._transaction() as db:
            for each in changes:
                present = self._record(each.space, each.key)
                if each.expected is not None and each.expected != (0 if present is None else present.revision):
                    raise RecordConflictError(each.space, each.key)
            (revision,) = db.execute("UPDATE writes SET revision = revision + 1 RETURNING revision").fetchone()
            for each in changes:
                if each.value is None:
                    db.execute("DELETE FROM records WHERE space = ? AND key = ?", (each.space, each.key))
                else:
                    row = (each.space, each.key, each.value, revision)
                    db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", row)
            return int(revision)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has rolled it back already
                self._db.execute("ROLLBACK")
            raise


def _open(path: Path) -> tuple[sqlite3.Connection, int]:
    """The database, at our schema, and its current version."""
    try:
        path.touch(0o600)
        db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give a directory that this user may write to") from None
    except sqlite3.OperationalError as error:
        raise StoreError(f"{path}: {error}; see that nothing else uses it and that its disk has room") from None
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        _migrate(db, path)
        (version,) = db.execute("SELECT coalesce(max(version), 0) FROM versions").fetchone()
    except sqlite3.OperationalError as error:
        db.close()
        raise StoreError(f"{path}: {error}; see that nothing else uses it and that its disk has room") from None
    except sqlite3.DatabaseError as error:
        db.close()
        raise StoreError(f"{path}: {error}; move it away, or bring it back from a backup") from None
    except BaseException:
        db.close()
        raise
    return db, version


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found > SCHEMA_VERSION:
        raise StoreError(f"{path}: made by a newer version of paifang (schema {found}, not {SCHEMA_VERSION})")
    if steps := _STEPS[found:]:
        db.executescript(f"BEGIN; {' '.join(steps)} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
