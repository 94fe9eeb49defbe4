import hashlib
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from control.cookie_secret import cookie_secret
from control.store import StoreError, StoreUnavailableError, Write
from control.store_sqlite import SqliteStore
from control.token_record import Token
from control.tokens import Tokens, set_token
from core.config import from_dict
from core.model import Model

# What earlier releases have made.
SCHEMA_1 = """
CREATE TABLE versions (
    version INTEGER PRIMARY KEY, created REAL NOT NULL, author TEXT NOT NULL, comment TEXT NOT NULL,
    config TEXT NOT NULL
) STRICT;
CREATE TABLE tokens (name TEXT PRIMARY KEY, hash BLOB NOT NULL, created REAL NOT NULL) STRICT;
PRAGMA user_version=1;
"""
SCHEMA_2 = f"""{SCHEMA_1}
CREATE TABLE secrets (name TEXT PRIMARY KEY, secret BLOB NOT NULL) STRICT;
PRAGMA user_version=2;
"""


def model(*names: str) -> Model:
    return from_dict({"instances": [{"name": name} for name in names]})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "control.db")
    yield store
    await store.close()


async def whose(store: SqliteStore, text: str) -> str | None:
    """The name of the token's owner; None where it admits nobody."""
    found = await Tokens(store).find(text)
    return found.name if isinstance(found, Token) else None


async def test_all_is_there_again_after_a_restart(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "control.db")
    await store.put(model("a"), "ann", "first", 0)
    revision = await store.write(Write("marks", "m", b"1"))
    secret, token = await cookie_secret(store), await set_token(store, "admin")
    await store.close()
    assert all(token.encode() not in file.read_bytes() for file in tmp_path.iterdir())
    again = await SqliteStore.open(tmp_path / "control.db")
    entry, kept = await again.get()
    assert (entry.version, entry.author, entry.comment, kept) == (1, "ann", "first", model("a"))
    await again.changed(0)
    assert await cookie_secret(again) == secret
    assert await whose(again, token) == "admin"
    assert await again.write(Write("marks", "m", b"2", revision)) > revision
    await again.close()


async def test_the_file_is_private_and_durable(store: SqliteStore, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "control.db").stat().st_mode) == 0o600
    assert await store._do(lambda: store._db.execute("PRAGMA synchronous").fetchone()) == (2,)
    assert await store._do(lambda: store._db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


@pytest.mark.parametrize("schema", [SCHEMA_1, SCHEMA_2], ids=["1", "2"])
async def test_a_store_of_an_earlier_release_keeps_what_it_has(schema: str, tmp_path: Path) -> None:
    token = hashlib.sha256(b"open sesame").digest()
    with closing(sqlite3.connect(tmp_path / "control.db")) as db, db:
        db.executescript(schema)
        db.execute("""INSERT INTO versions VALUES (3, 12.5, 'ann', 'x', '{"instances": [{"name": "kept"}]}')""")
        db.execute("INSERT INTO tokens VALUES ('admin', ?, 11.5)", (token,))
        if schema == SCHEMA_2:
            db.execute("INSERT INTO secrets VALUES ('cookies', ?)", (b"s" * 32,))
    for first in (True, False):  # brought up to date, and opened again
        store = await SqliteStore.open(tmp_path / "control.db")
        entry, kept = await store.get()
        assert (entry.version, entry.created, kept) == (3, 12.5, model("kept"))
        assert await Tokens(store).adopt_old() == (1 if first else 0)
        assert await whose(store, "open sesame") == "admin"
        assert len(secret := await cookie_secret(store)) == 32
        assert (secret == b"s" * 32) == (schema == SCHEMA_2)
        await store.close()
    with closing(sqlite3.connect(tmp_path / "control.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"versions", "records", "writes"}


async def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "control.db")) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="newer version of paifang"):
        await SqliteStore.open(tmp_path / "control.db")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match=r"control\.db: file is not a database; move it away, or bring it back"):
        await SqliteStore.open(tmp_path / "control.db")


async def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "control.db").mkdir()
    with pytest.raises(StoreError, match=r"control\.db: unable to open database file; see that nothing else uses it"):
        await SqliteStore.open(tmp_path / "control.db")
    with pytest.raises(StoreError, match=r"control\.db: No such file or directory; give a directory that"):
        await SqliteStore.open(tmp_path / "none" / "control.db")


async def test_a_disk_without_room_changes_nothing_and_is_told_of(store: SqliteStore) -> None:
    await store.put(model("a"), "ann", "", 0)
    await store._do(lambda: store._db.execute("PRAGMA max_page_count=1"))
    with pytest.raises(StoreUnavailableError, match=r"database or disk is full; see that its disk has room"):
        await store.write(*(Write("marks", f"{n}", b"x" * 60_000) for n in range(4)))
    with pytest.raises(StoreUnavailableError):
        await store.put(model(*(f"i{n}" for n in range(2000))), "ann", "", 1)
    assert (await store.get())[0].version == 1
    assert await store.records("marks") == ()
    await store._do(lambda: store._db.execute("PRAGMA max_page_count=100000"))
    assert await store.put(model("b"), "ann", "", 1) == 2
