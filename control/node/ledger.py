"""What a node has counted and not delivered yet: a SQLite file in its state directory.

Counters go on in places that outlive a process (maps of the kernel, files that are mapped); the ledger remembers how
far they have been read. One transaction, a *cut*, takes what they have gained since into the hour's row of each
listener, and remembers their new values: whoever dies before it has changed nothing, and the next cut, of whatever
process, takes what that one would have taken.

What is to be delivered is *sealed*: it gets a number and never changes again, until the control plane says that it has
it. What is counted meanwhile waits in its own rows, which add up: however long the control plane is away, there is one
row for each listener and hour, and of the oldest hours, beyond `HOURS_LIMIT`, one for all of them.

One process at a time has the ledger (flock); a node that replaces another gets it when that one lets go.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.usage import COUNTED, NOTHING, ROWS_LIMIT, Delivery, Owner, Place, Usage, gained, merged
from core.usage import packed as pack
from core.usage import unpacked as unpack

FREE: Final = ("", "")  # the owner of what is billed elsewhere
HOURS_LIMIT: Final = 24 * 40  # hours that a control plane may be away and get each hour by itself
TOPS_HOURS: Final = 48  # for so long the clock may go back
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS word (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bases (
    source TEXT NOT NULL, item TEXT NOT NULL, instance TEXT NOT NULL, listener TEXT NOT NULL, counters TEXT NOT NULL,
    PRIMARY KEY (source, item)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tops (
    hour INTEGER NOT NULL, instance TEXT NOT NULL, listener TEXT NOT NULL, most INTEGER NOT NULL,
    PRIMARY KEY (hour, instance, listener)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waiting (
    hour INTEGER NOT NULL, instance TEXT NOT NULL, listener TEXT NOT NULL, usage TEXT NOT NULL,
    PRIMARY KEY (hour, instance, listener)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sealed (
    hour INTEGER NOT NULL, instance TEXT NOT NULL, listener TEXT NOT NULL, usage TEXT NOT NULL,
    PRIMARY KEY (hour, instance, listener)
) STRICT, WITHOUT ROWID;
"""
_NONE: Final = NOTHING[:COUNTED]


class LedgerError(Exception):
    """The ledger cannot be used; one line with the remedy."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Counters at a place, in the order of `core.usage.NUMBERS`, those at the end left out.

    `owner` None: it is not known who has the place; he whom the ledger knows to have had it, if there is one, else the
    place is left for a later cut. `last`: nothing will be counted there any more before the place begins at zero.
    The owner FREE pays nothing.
    """

    owner: Owner | None
    counters: tuple[int, ...]
    last: bool = False


Places = Mapping[str, Counted]  # by a name that is the same for whoever looks
Base = tuple[Owner, tuple[int, ...]]


class Ledger:
    """Not thread-safe: one caller at a time. Every method raises LedgerError."""

    def __init__(self, path: Path) -> None:
        """Raises BlockingIOError where another process has it."""
        try:
            self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"{path}: {error.strerror}; give a state directory that this user may write to") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path = path
            self._db = self._open()
            self._bases: dict[tuple[str, str], Base] = {
                (source, item): ((instance, listener), _numbers(counters))
                for source, item, instance, listener, counters in self._db.execute("SELECT * FROM bases")
            }
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_SCHEMA)
            if db.execute("SELECT count(*) FROM word WHERE name = 'epoch'").fetchone()[0] == 0:
                _begin_epoch(db)
        except sqlite3.Error as error:
            db.close()
            raise LedgerError(f"{self._path}: {error}; if it is damaged, move it away: what it holds is lost") from None
        return db

    def close(self) -> None:
        """Lets another process have it."""
        self._db.close()
        os.close(self._lock)

    # -- counting

    def cut(
        self,
        hour: int,
        sources: Mapping[str, Places],
        *,
        besides: Collection[str] = (),
        added: Mapping[Owner, int] | None = None,
        known: Mapping[Owner, int] | None = None,
    ) -> None:
        """Takes what the counters of each source have gained into this hour's rows.

        `sources` are all that there are, each with all its places, `besides` those that are not read this time: what is
        not there has begun at zero when it comes again. `added`, `known`: how many connections were open at once in
        this hour, as `core.usage` has it.
        """
        rows: dict[Owner, Usage] = {}
        fresh: dict[tuple[str, str], Base] = {}
        gone = {key for key in self._bases if key[0] not in besides}
        for source, places in sources.items():
            for item, place in places.items():
                before, base = self._bases.get((source, item), (None, _NONE))
                owner = place.owner or before
                if owner is None:
                    continue
                counters = (*place.counters, *_NONE[len(place.counters) :])
                gain = gained(base, counters)
                if owner != FREE and any(gain):
                    rows[owner] = merged(rows.get(owner, NOTHING), unpack(gain))
                if place.last:
                    continue
                gone.discard((source, item))
                if (before, base) != (owner, counters):
                    fresh[source, item] = owner, counters
        with self._transaction():
            for owner, most in (added or {}).items():
                if grown := self._grown(hour, owner, most):
                    rows[owner] = merged(rows.get(owner, NOTHING), unpack((*_NONE, grown)))
            for owner, most in (known or {}).items():
                if most:
                    rows[owner] = merged(rows.get(owner, NOTHING), unpack((*_NONE, 0, most)))
            self._db.executemany("DELETE FROM bases WHERE source = ? AND item = ?", gone)
            self._db.executemany(
                "INSERT OR REPLACE INTO bases VALUES (?, ?, ?, ?, ?)",
                ((*place, *owner, _text(counters)) for place, (owner, counters) in fresh.items()),
            )
            self._add({(hour, owner): usage for owner, usage in rows.items()})
        for key in gone:
            del self._bases[key]
        self._bases.update(fresh)

    def bases(self, source: str) -> dict[str, Base]:
        """What was counted at the places of a source as of the last cut, and whose they were."""
        return {item: base for (of, item), base in self._bases.items() if of == source}

    @property
    def sources(self) -> frozenset[str]:
        """Those with places that the ledger knows."""
        return frozenset(source for source, _ in self._bases)

    def _grown(self, hour: int, owner: Owner, most: int) -> int:
        """By how much the hour's maximum grows; it is noted."""
        found = self._db.execute("SELECT most FROM tops WHERE (hour, instance, listener) = (?, ?, ?)", (hour, *owner))
        before = (found.fetchone() or (0,))[0]
        if most <= before:
            return 0
        self._db.execute("INSERT OR REPLACE INTO tops VALUES (?, ?, ?, ?)", (hour, *owner, most))
        self._db.execute("DELETE FROM tops WHERE hour < ?", (hour - TOPS_HOURS,))
        return int(most - before)

    def _add(self, rows: Mapping[Place, Usage]) -> None:
        known = "SELECT usage FROM waiting WHERE (hour, instance, listener) = (?, ?, ?)"
        for (hour, owner), usage in rows.items():
            before = self._db.execute(known, (hour, *owner)).fetchone()
            total = merged(unpack(_numbers(before[0])), usage) if before else usage
            self._db.execute("INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?)", (hour, *owner, _text(pack(total))))
        hours = [hour for (hour,) in self._db.execute("SELECT DISTINCT hour FROM waiting ORDER BY hour DESC")]
        for hour in hours[HOURS_LIMIT:]:
            self._move(hour, hours[HOURS_LIMIT - 1])

    def _move(self, hour: int, to: int) -> None:
        """An hour's rows become another's: what was counted stays, when it was is forgotten."""
        rows = {(to, owner): usage for (_, owner), usage in self._rows("waiting", "WHERE hour = ?", hour).items()}
        self._db.execute("DELETE FROM waiting WHERE hour = ?", (hour,))
        self._add(rows)

    # -- delivering

    def seal(self, limit: int = ROWS_LIMIT) -> Delivery | None:
        """What is to be delivered next, the same until it is acknowledged; None: there is nothing."""
        with self._transaction():
            if not self._db.execute("SELECT count(*) FROM sealed").fetchone()[0]:
                some = "SELECT * FROM waiting ORDER BY hour, instance, listener LIMIT ?"
                if not self._db.execute(f"INSERT INTO sealed {some}", (limit,)).rowcount:
                    return None
                keys = "hour, instance, listener"
                self._db.execute(f"DELETE FROM waiting WHERE ({keys}) IN (SELECT {keys} FROM sealed)")
                self._say("number", str(int(self._word("number")) + 1))
            return Delivery(self._word("epoch"), int(self._word("number")), self._rows("sealed"))

    def acknowledge(self, delivery: Delivery, last: int) -> bool:
        """The control plane has this delivery, and `last` is the highest number that it has of the epoch.

        Where that is more than was ever sent, this file is an old copy that was put back: what it holds was delivered
        by the life that went on from there, and is forgotten here; an epoch of its own begins. Whether that was so.
        """
        with self._transaction():
            if (delivery.epoch, delivery.number) != (self._word("epoch"), int(self._word("number"))):
                return False
            self._db.execute("DELETE FROM sealed")
            if last > delivery.number:
                self._db.execute("DELETE FROM waiting")
                _begin_epoch(self._db)
            return last > delivery.number

    @property
    def undelivered(self) -> int:
        """Rows that the control plane does not have yet, as far as it has said."""
        return int(
            self._db.execute("SELECT (SELECT count(*) FROM waiting) + (SELECT count(*) FROM sealed)").fetchone()[0]
        )

    def _rows(self, table: str, where: str = "", *arguments: object) -> dict[Place, Usage]:
        found = self._db.execute(f"SELECT * FROM {table} {where}", arguments)
        return {(hour, (instance, listener)): unpack(_numbers(usage)) for hour, instance, listener, usage in found}

    # -- words

    def _word(self, name: str) -> str:
        found = self._db.execute("SELECT value FROM word WHERE name = ?", (name,)).fetchone()
        return str(found[0])

    def _say(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO word VALUES (?, ?)", (name, value))

    def clock(self) -> tuple[str, float] | None:
        """Of which boot of the machine, and how far ahead of its uptime, the control plane's clock was seen last."""
        found = dict(self._db.execute("SELECT name, value FROM word WHERE name IN ('boot', 'ahead_s')"))
        return (found["boot"], float(found["ahead_s"])) if len(found) == 2 else None

    def note_clock(self, boot: str, ahead_s: float) -> None:
        with self._transaction():
            self._say("boot", boot)
            self._say("ahead_s", repr(ahead_s))

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db, self._path)


class _Transaction:
    """All or nothing; errors of SQLite become LedgerErrors."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = db, path

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise LedgerError(f"{self._path}: {error}") from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            self._db.execute("ROLLBACK" if kind else "COMMIT")
        except sqlite3.Error as failed:
            raise LedgerError(f"{self._path}: {failed}") from None
        if isinstance(error, sqlite3.Error):
            raise LedgerError(f"{self._path}: {error}") from None


def _begin_epoch(db: sqlite3.Connection) -> None:
    db.execute("INSERT OR REPLACE INTO word VALUES ('epoch', ?)", (secrets.token_hex(8),))
    db.execute("INSERT OR REPLACE INTO word VALUES ('number', '0')")


def _text(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))
