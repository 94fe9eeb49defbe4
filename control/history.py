"""What the control plane remembers of the last days: charts and events, in a SQLite file of its own beside the store.

Nothing depends on it: where it cannot be opened or written (a full disk), the log says so once, and everything else
goes on; a file that is damaged is put aside. It is bounded by the number of slots that each ring has, by the objects of
which cells are kept and by the number of events, and by PAGES_MOST whatever happens. One row has the cells of all
objects at one time, side by side, so that ten seconds cost one small write, without waiting for the disk
(synchronous=NORMAL in WAL mode: a power failure loses the last rows and damages nothing).

Every method blocks; each holds the lock, so that it may be called in threads.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from control.happenings import Event, Happening

log = logging.getLogger(__name__)

NAME: Final = "history.db"  # in the state directory
MEMORY: Final = ":memory:"
OBJECTS_MOST: Final = 512  # with those that were kept once; then a new one gets the place of one that is gone
EVENTS_MOST: Final = 10_000
PAGES_MOST: Final = 50_000  # of 4 KiB: 200 MB
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS objects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, since INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS slots (step INTEGER, slot INTEGER, cells BLOB NOT NULL, PRIMARY KEY (step, slot));
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL,
    severity TEXT NOT NULL, object TEXT NOT NULL, text TEXT NOT NULL, fields TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
T = TypeVar("T")


class History:
    """One per process. `path` may be MEMORY."""

    def __init__(self, path: Path | str = MEMORY) -> None:
        self.failures = 0  # writes that were lost
        self._path = str(path)
        self._lock = threading.Lock()
        self._complained = False
        self._db = self._open()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _open(self) -> sqlite3.Connection:
        for attempt in (1, 2):
            try:
                return _opened(self._path)
            except (sqlite3.Error, OSError) as error:
                log.error("%s: what is remembered of the last days cannot be read: %s", self._path, error)
                if attempt == 1 and type(error) is sqlite3.DatabaseError:  # it is damaged, or no database
                    _put_aside(Path(self._path))
                else:
                    break
        log.error("%s: charts and events are held in memory until the next start", self._path)
        return _opened(MEMORY)

    def _write(self, what: Callable[[sqlite3.Connection], T], failed: T) -> T:
        """In one transaction; `failed` where it cannot be written."""
        with self._lock:
            try:
                with self._db:
                    found = what(self._db)
            except sqlite3.Error as error:
                self.failures += 1
                if not self._complained:
                    log.error("%s: charts and events are not kept: %s", self._path, error)
                self._complained = True
                return failed
            self._complained = False
            return found

    def _read(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                log.error("%s: cannot be read: %s", self._path, error)
                return []

    # Cells

    def objects(self) -> dict[str, tuple[int, int]]:
        """Number, and since when, by name."""
        found = self._read("SELECT name, id, since FROM objects")
        return {str(name): (int(str(number)), int(str(since))) for name, number, since in found}

    def keep(self, names: Collection[str], slot: int) -> dict[str, int]:
        """The numbers of these objects from now on; those of others are free for new ones."""

        def put(db: sqlite3.Connection) -> dict[str, int]:
            known = dict(db.execute("SELECT name, id FROM objects").fetchall())
            taken, gone = set(known.values()), [name for name in known if name not in wanted]
            free = (number for number in range(len(known) + len(names)) if number not in taken)
            for name in names:
                if name in known:
                    continue
                if gone and len(known) >= OBJECTS_MOST:
                    number = known.pop(gone.pop(0))
                    db.execute("DELETE FROM objects WHERE id = ?", (number,))
                else:
                    number = next(free)
                known[name] = number
                db.execute("INSERT INTO objects VALUES (?, ?, ?)", (number, name, slot))
            return {name: known[name] for name in names}

        wanted = set(names)
        return self._write(put, {})

    def put_cells(self, step: int, slot: int, cells: bytes, oldest: int) -> None:
        """The cells of a slot, object by object; slots before `oldest` are forgotten."""

        def put(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO slots VALUES (?, ?, ?)", (step, slot, zlib.compress(cells, 1)))
            db.execute("DELETE FROM slots WHERE step = ? AND slot < ?", (step, oldest))

        self._write(put, None)

    def cells(self, step: int, start: int, end: int) -> Iterable[tuple[int, bytes]]:
        """Slots from `start` to before `end`, in order."""
        query = "SELECT slot, cells FROM slots WHERE step = ? AND slot >= ? AND slot < ? ORDER BY slot"
        for slot, cells in self._read(query, step, start, end):
            assert isinstance(slot, int)
            assert isinstance(cells, bytes)
            yield slot, zlib.decompress(cells)

    # Events

    def add(self, happenings: Sequence[Happening]) -> list[Event]:
        """Gives them numbers. Those that cannot be kept have none, and are lost."""

        def put(db: sqlite3.Connection) -> list[Event]:
            found = []
            for each in happenings:
                row = (each.at, each.kind, each.severity, each.object, each.text, json.dumps(each.fields))
                query = "INSERT INTO events (at, kind, severity, object, text, fields) VALUES (?, ?, ?, ?, ?, ?)"
                number = db.execute(query, row).lastrowid
                assert number is not None
                found.append(Event(number, each))
            if found:
                db.execute("DELETE FROM events WHERE id <= ?", (found[-1].id - EVENTS_MOST,))
            return found

        return self._write(put, [])

    def events(self, *, after: int | None, before: int | None, limit: int, kinds: Sequence[str] = ()) -> list[Event]:
        """In order: the first after one, or else the last (before one)."""
        where, values = ["1"], list[object]()
        if after is not None:
            where.append("id > ?")
            values.append(after)
        if before is not None:
            where.append("id < ?")
            values.append(before)
        if kinds:
            where.append(f"kind IN ({', '.join('?' * len(kinds))})")
            values += kinds
        way = "ASC" if after is not None else "DESC"
        query = f"SELECT * FROM events WHERE {' AND '.join(where)} ORDER BY id {way} LIMIT ?"
        rows = self._read(query, *values, limit)
        found = [
            Event(number, Happening(at, kind, severity, of, text, json.loads(fields)))  # type: ignore[arg-type]
            for number, at, kind, severity, of, text, fields in rows
        ]
        return found if after is not None else found[::-1]

    def last_event(self) -> int:
        found = self._read("SELECT coalesce(max(id), 0) FROM events")
        return int(str(found[0][0])) if found else 0

    # Notes

    def notes(self) -> dict[str, object]:
        """What was noted last, by key."""
        return {str(key): json.loads(str(value)) for key, value in self._read("SELECT key, value FROM notes")}

    def note(self, notes: Mapping[str, object]) -> None:
        rows = [(key, json.dumps(value)) for key, value in notes.items()]
        self._write(lambda db: db.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", rows), None)


def _opened(path: str) -> sqlite3.Connection:
    """Raises sqlite3.Error, OSError."""
    if path != MEMORY:
        Path(path).touch(0o600)
    db = sqlite3.connect(path, check_same_thread=False, timeout=1.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA max_page_count = {PAGES_MOST}")
        db.executescript(SCHEMA)
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("it is damaged")
    except BaseException:
        db.close()
        raise
    return db


def _put_aside(path: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        old = path.with_name(path.name + ending)
        if old.exists():
            old.replace(path.with_name(f"{path.name}.damaged{ending}"))
    log.error("%s is damaged and was put aside as %s.damaged", path, path.name)
