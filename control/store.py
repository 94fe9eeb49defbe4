"""Where the versions of the configuration and the users' tokens are kept.

A version is a whole configuration; versions are numbered from 1 without gaps and never change, 0 is the empty one.
`put` is optimistic: whoever says which version the change was made from is refused if another has come in between.
`Store` is all that the control plane knows of its storage, so that another one can replace SQLite where the control
plane runs on several machines. Tokens are 256 random bits, therefore kept as a plain SHA-256.

SQLite: WAL, so that readers never wait, and synchronous=FULL: an answered change survives a power failure.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.config import from_dict, to_dict
from core.model import Model

HISTORY_LIMIT = 1000  # versions kept; older ones are forgotten
SCHEMA_VERSION = 2
SECRET_BYTES = 32
_SCHEMA = """
CREATE TABLE versions (
    version INTEGER PRIMARY KEY, created REAL NOT NULL, author TEXT NOT NULL, comment TEXT NOT NULL,
    config TEXT NOT NULL
) STRICT;
CREATE TABLE tokens (name TEXT PRIMARY KEY, hash BLOB NOT NULL, created REAL NOT NULL) STRICT;
"""
_SCHEMA_2 = "CREATE TABLE secrets (name TEXT PRIMARY KEY, secret BLOB NOT NULL) STRICT;"


class StoreError(Exception):
    """The storage cannot be used."""


class VersionConflictError(Exception):
    """Another change came in between; `current` is the version to start from."""

    def __init__(self, expected: int, current: int) -> None:
        super().__init__(f"the configuration is at version {current}, not {expected}")
        self.current = current


class NoSuchVersionError(Exception):
    """A version that never was, or is no longer kept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a version besides its content. `created` is Unix time in seconds."""

    version: int
    created: float
    author: str
    comment: str


class Store(Protocol):
    """The storage of one control plane. Methods may block and may be called from any thread."""

    def put(self, model: Model, author: str, comment: str, expected_version: int | None) -> int:
        """Keep `model` as a new version and return its number; what is current already makes none.

        Raises VersionConflictError unless `expected_version` is the current one or None.
        """

    def get(self, version: int | None = None) -> tuple[Entry, Model]:
        """A version, by default the current one. Raises NoSuchVersionError."""

    def history(self, limit: int) -> tuple[Entry, ...]:
        """The latest versions, newest first."""

    def set_token(self, name: str) -> str:
        """Make a token, which replaces the one of that name, and return it: only its hash is kept."""

    def token_name(self, token: str) -> str | None:
        """Whose token this is, compared in constant time."""

    def cookie_secret(self) -> bytes:
        """What the L7 nodes seal sticky cookies with: random, made once, and part of no configuration."""

    def close(self) -> None:
        """Release what is held."""


class SqliteStore:
    """A `Store` in one file, for a control plane on one machine. Raises StoreError if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.touch(0o600)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._migrate(path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; give a directory that this user may write to") from None
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path}: {error}; see that nothing else uses it and that its disk has room") from None
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path}: {error}; move it away, or bring it back from a backup") from None

    def put(self, model: Model, author: str, comment: str, expected_version: int | None) -> int:
        config = json.dumps(to_dict(model))
        with self._transaction() as db:
            row = db.execute("SELECT version, config FROM versions ORDER BY version DESC LIMIT 1").fetchone()
            current, present = row or (0, json.dumps(to_dict(Model())))
            if expected_version is not None and expected_version != current:
                raise VersionConflictError(expected_version, current)
            if config == present:
                return int(current)
            version = int(current) + 1
            db.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?)", (version, time.time(), author, comment, config))
            db.execute("DELETE FROM versions WHERE version <= ?", (version - HISTORY_LIMIT,))
            return version

    def get(self, version: int | None = None) -> tuple[Entry, Model]:
        query = "SELECT version, created, author, comment, config FROM versions"
        with self._lock:
            if version is None:
                row = self._db.execute(f"{query} ORDER BY version DESC LIMIT 1").fetchone()
            else:
                row = self._db.execute(f"{query} WHERE version = ?", (version,)).fetchone()
        if row is not None:
            return Entry(*row[:4]), from_dict(json.loads(row[4]), path=f"version {row[0]}")
        if version:
            kept = self.history(HISTORY_LIMIT)
            which = f"{kept[-1].version} to {kept[0].version} are kept" if kept else "there are none yet"
            raise NoSuchVersionError(f"there is no version {version}; {which}")
        return Entry(0, 0.0, "", "the empty configuration"), Model()

    def history(self, limit: int) -> tuple[Entry, ...]:
        query = "SELECT version, created, author, comment FROM versions ORDER BY version DESC LIMIT ?"
        with self._lock:
            return tuple(Entry(*row) for row in self._db.execute(query, (limit,)))

    def set_token(self, name: str) -> str:
        token = secrets.token_urlsafe(32)
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", (name, _hash(token), time.time()))
        return token

    def token_name(self, token: str) -> str | None:
        with self._lock:
            rows = self._db.execute("SELECT name, hash FROM tokens").fetchall()
        offered = _hash(token)
        found = [name for name, kept in rows if hmac.compare_digest(kept, offered)]
        return found[0] if found else None

    def cookie_secret(self) -> bytes:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO secrets VALUES ('cookies', ?)", (secrets.token_bytes(SECRET_BYTES),))
            (secret,) = db.execute("SELECT secret FROM secrets WHERE name = 'cookies'").fetchone()
        return bytes(secret)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _migrate(self, path: Path) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found > SCHEMA_VERSION:
            raise StoreError(f"{path}: made by a newer version of paifang (schema {found}, not {SCHEMA_VERSION})")
        steps = (_SCHEMA, _SCHEMA_2)[found:]
        if steps:
            self._db.executescript(f"BEGIN; {' '.join(steps)} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
