import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from control import store as store_module
from control.store import NoSuchVersionError, SqliteStore, StoreError, VersionConflictError
from core.config import from_dict
from core.model import Model


def model(*names: str) -> Model:
    return from_dict({"instances": [{"name": name} for name in names]})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "control.db")
    yield store
    store.close()


def test_an_empty_store_is_at_version_0(store: SqliteStore) -> None:
    entry, kept = store.get()
    assert (entry.version, kept) == (0, Model())
    assert store.get(0)[1] == Model()
    assert store.history(10) == ()


def test_versions_are_numbered_and_kept(store: SqliteStore, tmp_path: Path) -> None:
    assert store.put(model("a"), "ann", "first", 0) == 1
    assert store.put(model("a", "b"), "bob", "second", 1) == 2
    assert store.get(1)[1] == model("a")
    store.close()
    again = SqliteStore(tmp_path / "control.db")
    entry, kept = again.get()
    assert (entry.version, entry.author, entry.comment, kept) == (2, "bob", "second", model("a", "b"))
    assert [entry.version for entry in again.history(10)] == [2, 1]
    assert [entry.version for entry in again.history(1)] == [2]
    again.close()


def test_a_change_from_an_old_version_is_refused(store: SqliteStore) -> None:
    store.put(model("a"), "ann", "", None)
    with pytest.raises(VersionConflictError, match="at version 1, not 0") as caught:
        store.put(model("b"), "bob", "", 0)
    assert caught.value.current == 1
    assert store.get()[1] == model("a")
    assert store.put(model("b"), "bob", "", None) == 2


def test_no_change_makes_no_version(store: SqliteStore) -> None:
    assert store.put(Model(), "ann", "", 0) == 0
    assert store.put(model("a"), "ann", "", 0) == 1
    assert store.put(model("a"), "ann", "", 1) == 1


def test_an_unknown_version(store: SqliteStore) -> None:
    with pytest.raises(NoSuchVersionError, match="there is no version 7; "):
        store.get(7)


def test_old_versions_are_forgotten(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY_LIMIT", 2)
    for name in "abc":
        store.put(model(name), "ann", "", None)
    assert [entry.version for entry in store.history(10)] == [3, 2]


def test_tokens_are_known_by_their_hash_only(store: SqliteStore, tmp_path: Path) -> None:
    token = store.set_token("admin")
    assert len(token) >= 43
    assert store.token_name(token) == "admin"
    assert store.token_name(token + "x") is None
    assert store.token_name("") is None
    second = store.set_token("admin")
    assert store.token_name(token) is None
    assert store.token_name(second) == "admin"
    store.close()
    assert all(second.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_the_file_is_private_and_durable(store: SqliteStore, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "control.db").stat().st_mode) == 0o600
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_secret_of_cookies_is_made_once_and_stays(store: SqliteStore, tmp_path: Path) -> None:
    secret = store.cookie_secret()
    assert len(secret) == 32
    assert store.cookie_secret() == secret
    again = SqliteStore(tmp_path / "control.db")
    assert again.cookie_secret() == secret
    again.close()


def test_a_store_of_the_version_before_gets_what_it_lacks(store: SqliteStore, tmp_path: Path) -> None:
    store.put(from_dict({"instances": [{"name": "kept"}]}), "a", "", None)
    store._db.execute("DROP TABLE secrets")
    store._db.execute("PRAGMA user_version=1")
    again = SqliteStore(tmp_path / "control.db")
    assert len(again.cookie_secret()) == 32
    assert list(again.get()[1].instances) == ["kept"]
    assert again._db.execute("PRAGMA user_version").fetchone() == (2,)
    again.close()


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "control.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match="newer version of paifang"):
        SqliteStore(tmp_path / "control.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match=r"control\.db: file is not a database; move it away, or bring it back"):
        SqliteStore(tmp_path / "control.db")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "control.db").mkdir()
    with pytest.raises(StoreError, match=r"control\.db: unable to open database file; see that nothing else uses it"):
        SqliteStore(tmp_path / "control.db")
    with pytest.raises(StoreError, match=r"control\.db: No such file or directory; give a directory that"):
        SqliteStore(tmp_path / "none" / "control.db")
