"""What every store does, on SQLite and on Debian's etcd."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control import store_etcd, store_sqlite
from control.cookie_secret import cookie_secret
from control.etcd import Tls
from control.store import NoSuchVersionError, Record, RecordConflictError, Store, VersionConflictError, Write
from control.store_etcd import EtcdStore
from control.store_sqlite import SqliteStore
from control.token_record import Token
from control.tokens import Tokens, set_token
from core.config import from_dict
from core.model import Model
from tests.control.etcd_members import Members


def model(*names: str) -> Model:
    return from_dict({"instances": [{"name": name} for name in names]})


@pytest.fixture(params=["sqlite", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store: Store
    if request.param == "sqlite":
        store = await SqliteStore.open(tmp_path / "control.db")
    else:
        etcd: Members = request.getfixturevalue("etcd")
        store = await EtcdStore.open(etcd.endpoints, f"/{secrets.token_hex(8)}/", Tls())
    yield store
    await store.close()


# --- versions


async def test_an_empty_store_is_at_version_0(store: Store) -> None:
    entry, kept = await store.get()
    assert (entry.version, kept) == (0, Model())
    assert (await store.get(0))[1] == Model()
    assert await store.history(10) == ()


async def test_versions_are_numbered_and_kept(store: Store) -> None:
    assert await store.put(model("a"), "ann", "first", 0) == 1
    assert await store.put(model("a", "b"), "bob", "second", 1) == 2
    assert (await store.get(1))[1] == model("a")
    entry, kept = await store.get()
    assert (entry.version, entry.author, entry.comment, kept) == (2, "bob", "second", model("a", "b"))


async def test_the_history_in_pages(store: Store) -> None:
    for name in "abcd":
        await store.put(model(name), "ann", name, None)
    assert [entry.version for entry in await store.history(10)] == [4, 3, 2, 1]
    assert [(entry.version, entry.comment) for entry in await store.history(2)] == [(4, "d"), (3, "c")]
    assert [entry.version for entry in await store.history(2, 3)] == [2, 1]
    assert await store.history(2, 1) == ()


async def test_a_change_from_an_old_version_is_refused(store: Store) -> None:
    await store.put(model("a"), "ann", "", None)
    with pytest.raises(VersionConflictError, match="at version 1, not 0") as caught:
        await store.put(model("b"), "bob", "", 0)
    assert caught.value.current == 1
    assert (await store.get())[1] == model("a")
    assert await store.put(model("b"), "bob", "", None) == 2


async def test_one_of_many_changes_from_a_version_succeeds(store: Store) -> None:
    results = await asyncio.gather(*(store.put(model(name), name, "", 0) for name in "abcdef"), return_exceptions=True)
    assert [each for each in results if each == 1] == [1]
    assert sum(isinstance(each, VersionConflictError) for each in results) == 5


async def test_no_change_makes_no_version(store: Store) -> None:
    assert await store.put(Model(), "ann", "", 0) == 0
    assert await store.put(model("a"), "ann", "", 0) == 1
    assert await store.put(model("a"), "ann", "", 1) == 1


async def test_an_unknown_version(store: Store) -> None:
    with pytest.raises(NoSuchVersionError, match="there is no version 7; there are none yet"):
        await store.get(7)
    await store.put(model("a"), "ann", "", 0)
    with pytest.raises(NoSuchVersionError, match="there is no version 7; 1 to 1 are kept"):
        await store.get(7)


async def test_old_versions_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store_sqlite, store_etcd):
        monkeypatch.setattr(module, "HISTORY_LIMIT", 2)
    for name in "abc":
        await store.put(model(name), "ann", "", None)
    assert [entry.version for entry in await store.history(10)] == [3, 2]
    with pytest.raises(NoSuchVersionError):
        await store.get(1)


async def test_who_waits_for_another_version_is_told(store: Store) -> None:
    waiting = [asyncio.create_task(store.changed(0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    await store.put(model("a"), "ann", "", 0)
    await asyncio.gather(*waiting)
    await store.changed(0)
    await store.changed(7)


# --- records


async def test_records_are_written_read_and_deleted(store: Store) -> None:
    assert await store.record("marks", "a") is None
    first = await store.write(Write("marks", "a", b"\x00\xff"))
    second = await store.write(Write("marks", "b", b""), Write("audit", "b", b"other"))
    assert 1 <= first < second
    assert await store.record("marks", "a") == Record("a", b"\x00\xff", first)
    assert await store.records("marks") == (Record("a", b"\x00\xff", first), Record("b", b"", second))
    assert await store.records("audit") == (Record("b", b"other", second),)
    third = await store.write(Write("marks", "a", None), Write("marks", "none", None))
    assert third > second
    assert [record.key for record in await store.records("marks")] == ["b"]


async def test_records_in_pages_in_the_order_of_their_bytes(store: Store) -> None:
    keys = ["B", "a", "a b", "a/b", "aa", "b", "é", "€", "𝄞"]
    await store.write(*(Write("audit", key, key.encode()) for key in reversed(keys)))
    await store.write(Write("joins", "a", b"another space"))
    assert [record.key for record in await store.records("audit")] == keys
    found: list[str] = []
    while page := await store.records("audit", found[-1] if found else "", 4):
        assert len(page) <= 4
        found += [record.key for record in page]
    assert found == keys


async def test_a_write_is_refused_unless_all_is_as_expected(store: Store) -> None:
    revision = await store.write(Write("marks", "a", b"1", 0))
    for stale in (0, revision + 1):
        with pytest.raises(RecordConflictError, match="marks/a has been changed in between"):
            await store.write(Write("marks", "b", b"x"), Write("marks", "a", b"2", stale))
    with pytest.raises(RecordConflictError):
        await store.write(Write("marks", "none", None, 1))
    assert [record.key for record in await store.records("marks")] == ["a"]
    assert await store.write(Write("marks", "b", b"x", 0), Write("marks", "a", b"2", revision)) > revision
    assert [record.value for record in await store.records("marks")] == [b"2", b"x"]


async def test_a_record_made_anew_is_not_the_old_one(store: Store) -> None:
    first = await store.write(Write("marks", "a", b"1"))
    await store.write(Write("marks", "a", None, first))
    await store.write(Write("marks", "a", b"1", 0))
    with pytest.raises(RecordConflictError):
        await store.write(Write("marks", "a", b"2", first))


async def test_one_of_many_who_write_what_they_have_read_succeeds(store: Store) -> None:
    revision = await store.write(Write("marks", "n", b"0"))
    writes = (store.write(Write("marks", "n", b"%d" % number, revision)) for number in range(8))
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(each, RecordConflictError) for each in results) == 7


async def test_what_no_store_takes(store: Store) -> None:
    with pytest.raises(ValueError, match=r"'colours' is no space; there are audit, "):
        Write("colours", "a", b"")
    for key in ("", "a\nb", "x" * 201):
        with pytest.raises(ValueError, match="a key has 1 to 200 printable characters"):
            Write("marks", key, b"")
    with pytest.raises(ValueError, match="65537 bytes; at most 65536"):
        Write("marks", "a", b"x" * 65537)
    with pytest.raises(ValueError, match="101 changes; 1 to 100 can be written at once"):
        await store.write(*(Write("marks", f"{n}", b"") for n in range(101)))
    with pytest.raises(ValueError, match="0 changes"):
        await store.write()
    with pytest.raises(ValueError, match="once in a write"):
        await store.write(Write("marks", "a", b"1"), Write("marks", "a", b"2"))
    with pytest.raises(ValueError, match="1114112 bytes; at most 1048576"):
        await store.write(*(Write("marks", f"{n}", b"x" * 65536) for n in range(17)))
    for space, limit in (("colours", 1), ("marks", 0), ("marks", 1001)):
        with pytest.raises(ValueError, match=r"no space|1 to 1000 records"):
            await store.records(space, "", limit)
    assert await store.records("marks") == ()


async def test_the_largest_write(store: Store) -> None:
    await store.write(*(Write("marks", f"{n:0200}", b"\xff" * 8000) for n in range(100)))
    await store.write(Write("marks", "𝄞" * 200, b"\xff" * 65536))
    assert sum(len(record.value) for record in await store.records("marks")) == 865_536


# --- what is built on records


async def whose(store: Store, text: str) -> str | None:
    """The name of the token's owner; None where it admits nobody."""
    found = await Tokens(store).find(text)
    return found.name if isinstance(found, Token) else None


async def test_tokens_are_known_by_their_hash_only(store: Store) -> None:
    token = await set_token(store, "admin")
    assert len(token) >= 43
    assert await whose(store, token) == "admin"
    assert await whose(store, token + "x") is None
    assert await whose(store, "") is None
    second = await set_token(store, "admin")
    assert await whose(store, token) is None
    assert await whose(store, second) == "admin"
    assert all(second.encode() not in record.value for record in await store.records("tokens"))


async def test_the_secret_of_cookies_is_made_once(store: Store) -> None:
    made = await asyncio.gather(*(cookie_secret(store) for _ in range(4)))
    assert len(made[0]) == 32
    assert set(made) == {await cookie_secret(store)}


async def test_who_leads_may_work(store: Store) -> None:
    async with asyncio.timeout(20), store.leading("sweeping"):
        await store.write(Write("marks", "swept", b""))
