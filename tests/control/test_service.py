import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from control import service as service_module
from control.reconcile import Step
from control.service import ControlPlane
from control.store import Entry, Store, StoreUnavailableError, VersionConflictError
from control.store_sqlite import SqliteStore
from core.config import from_dict
from core.errors import ConfigErrors
from core.model import Model


def model(*names: str) -> Model:
    return from_dict({"instances": [{"name": name} for name in names]})


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "control.db")
    yield store
    await store.close()


async def put(plane: ControlPlane, wanted: Model, expected: int | None = None, dry_run: bool = False) -> int:
    version, _ = await plane.change(lambda _: wanted, author="a", comment="", expected=expected, dry_run=dry_run)
    return version


async def test_a_change_wakes_those_who_wait(store: SqliteStore) -> None:
    plane = await ControlPlane.load(store)
    waiter = asyncio.create_task(plane.newer_than(0, 10))
    await asyncio.sleep(0)
    assert await put(plane, model("a")) == 1
    current = await waiter
    assert current is not None
    assert (current.version, current.model) == (1, model("a"))
    assert await plane.newer_than(7, 10) is current, "another version than ours is news, even if ours is higher"
    assert await plane.newer_than(1, 0.01) is None


async def test_closing_releases_those_who_wait(store: SqliteStore) -> None:
    plane = await ControlPlane.load(store)
    waiter = asyncio.create_task(plane.newer_than(0, 60))
    await asyncio.sleep(0)
    await plane.close()
    assert await waiter is None


async def test_a_dry_run_and_no_change_store_nothing(store: SqliteStore) -> None:
    plane = await ControlPlane.load(store)
    assert await put(plane, model("a"), dry_run=True) == 0
    assert (await store.get())[0].version == 0
    await put(plane, model("a"))
    assert await put(plane, model("a")) == 1
    assert (await store.get())[0].version == 1


async def test_rules_in_another_order_make_a_version(store: SqliteStore) -> None:
    """Of rules that match alike the first wins."""
    plane = await ControlPlane.load(store)
    tables: dict[str, object] = {
        "instances": [{"name": "i"}],
        "listeners": [{"name": "l", "instance": "i", "protocol": "http", "port": 80}],
    }
    rules = [
        {"name": name, "listener": "l", "headers": [{"name": f"X-{name}"}], "fixed_reply": {"body": name}}
        for name in "ab"
    ]
    await put(plane, from_dict({**tables, "rules": rules}))
    assert await put(plane, from_dict({**tables, "rules": rules[::-1]})) == 2
    assert [table["name"] for table in plane.current.document["rules"]] == ["b", "a"]
    assert list((await store.get())[1].rules) == ["b", "a"]


async def test_changes_from_an_old_version_are_refused_even_when_they_race(store: SqliteStore) -> None:
    plane = await ControlPlane.load(store)
    results = await asyncio.gather(
        put(plane, model("a"), expected=0), put(plane, model("b"), expected=0), return_exceptions=True
    )
    assert results[0] == 1
    assert isinstance(results[1], VersionConflictError)
    assert plane.current.model == model("a")


async def test_a_restart_goes_on_where_it_was(store: SqliteStore) -> None:
    await put(await ControlPlane.load(store), model("a"))
    assert (await ControlPlane.load(store)).current.model == model("a")


class Elsewhere:
    """Another control node that changes the storage just before ours does."""

    def __init__(self, store: Store, *changes: Model) -> None:
        self._store, self._changes = store, list(changes)

    async def put(self, model: Model, author: str, comment: str, expected_version: int | None) -> int:
        if self._changes:
            await self._store.put(self._changes.pop(0), "another", "", None)
        return await self._store.put(model, author, comment, expected_version)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def test_what_another_control_node_changes_is_announced(store: SqliteStore) -> None:
    plane = await ControlPlane.load(store)
    following = asyncio.create_task(plane.follow())
    waiter = asyncio.create_task(plane.newer_than(0, 20))
    await asyncio.sleep(0)
    await store.put(model("theirs"), "another", "", 0)
    current = await waiter
    assert current is not None
    assert (current.version, current.model) == (1, model("theirs"))
    following.cancel()


async def test_a_change_that_another_control_node_forestalls_is_made_again(store: SqliteStore) -> None:
    plane = await ControlPlane.load(cast(Store, Elsewhere(store, model("a"), model("a", "b"))))

    def add(present: Model) -> Model:
        return model(*present.instances, "ours")

    version, changes = await plane.change(add, author="u", comment="", expected=None)
    assert (version, list(plane.current.model.instances)) == (3, ["a", "b", "ours"])
    assert [change.name for change in changes] == ["ours"]


async def test_a_change_from_a_version_that_another_control_node_replaced_is_refused(store: SqliteStore) -> None:
    plane = await ControlPlane.load(cast(Store, Elsewhere(store, model("a"))))
    with pytest.raises(VersionConflictError) as caught:
        await put(plane, model("ours"), expected=0)
    assert caught.value.current == 1
    assert plane.current.model == model("a"), "and who reads again gets what has come in between"


async def test_who_has_a_later_version_than_we_is_not_led_back(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = await ControlPlane.load(store)
    await put(plane, model("a"))
    await store.put(model("b"), "another", "", 1)
    current = await plane.newer_than(3, 20)
    assert current is not None
    assert (current.version, current.model) == (2, model("b")), "what is stored, not what was known"

    async def expensive() -> tuple[Entry, Model]:
        raise AssertionError("the version is read although it is known")

    monkeypatch.setattr(store, "get", expensive)
    assert await plane.newer_than(3, 20) is current, "a backup was brought back"

    async def away(limit: int) -> tuple[Entry, ...]:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(store, "history", away)
    with pytest.raises(StoreUnavailableError):
        await plane.newer_than(3, 20)


async def test_while_the_storage_is_away_nobody_is_told_that_there_is_no_news(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = await ControlPlane.load(store)
    await put(plane, model("a"))
    monkeypatch.setattr(store, "away", lambda: "no etcd member answers")
    assert await plane.newer_than(0, 20) is plane.current
    with pytest.raises(StoreUnavailableError, match="no etcd member answers"):
        await plane.newer_than(1, 20)


async def test_following_goes_on_after_a_version_that_cannot_be_read(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service_module, "FOLLOW_AGAIN_S", 0.01)
    plane = await ControlPlane.load(store)
    get, errors = store.get, [StoreUnavailableError("away"), ConfigErrors([])]

    async def failing() -> tuple[Entry, Model]:
        if errors:
            raise errors.pop(0)
        return await get()

    monkeypatch.setattr(store, "get", failing)
    following = asyncio.create_task(plane.follow())
    await store.put(model("a"), "another", "", 0)
    assert (await plane.newer_than(0, 20)) is plane.current
    assert "cannot be read yet: away" in caplog.text
    assert "upgrade this one" in caplog.text
    following.cancel()


async def test_reports_age_and_are_bounded(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    plane = await ControlPlane.load(store, clock)
    plane.report("l7", "l7-1", 0, None, {"x": 1})
    assert [(status.name, status.step) for status in plane.status()] == [("l7-1", Step.IN_STEP)]
    clock.now += 10
    assert [(status.step, status.age_s) for status in plane.status()] == [(Step.SILENT, 10.0)]
    plane.report("l7", "l7-1", 0, (1, "no"), {})
    assert plane.status()[0].age_s == 0
    monkeypatch.setattr(service_module, "NODE_LIMIT", 2)
    plane.report("l7", "l7-2", 0, None, {})
    plane.report("l7", "l7-3", 0, None, {})
    assert [status.name for status in plane.status()] == ["l7-2", "l7-3"], "the one silent for longest is forgotten"
    clock.now += service_module.FORGET_AFTER_S + 1
    plane.report("l7", "l7-4", 0, None, {})
    assert [status.name for status in plane.status()] == ["l7-4"]
