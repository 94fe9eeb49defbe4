import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from control import service as service_module
from control.reconcile import Step
from control.service import ControlPlane
from control.store import SqliteStore, VersionConflictError
from core.config import from_dict
from core.model import Model


def model(*names: str) -> Model:
    return from_dict({"instances": [{"name": name} for name in names]})


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "control.db")
    yield store
    store.close()


async def put(plane: ControlPlane, wanted: Model, expected: int | None = None, dry_run: bool = False) -> int:
    version, _ = await plane.change(lambda _: wanted, author="a", comment="", expected=expected, dry_run=dry_run)
    return version


async def test_a_change_wakes_those_who_wait(store: SqliteStore) -> None:
    plane = ControlPlane(store)
    waiter = asyncio.create_task(plane.newer_than(0, 10))
    await asyncio.sleep(0)
    assert await put(plane, model("a")) == 1
    current = await waiter
    assert current is not None
    assert (current.version, current.model) == (1, model("a"))
    assert await plane.newer_than(7, 10) is current, "another version than ours is news, even if ours is higher"
    assert await plane.newer_than(1, 0.01) is None


async def test_closing_releases_those_who_wait(store: SqliteStore) -> None:
    plane = ControlPlane(store)
    waiter = asyncio.create_task(plane.newer_than(0, 60))
    await asyncio.sleep(0)
    await plane.close()
    assert await waiter is None


async def test_a_dry_run_and_no_change_store_nothing(store: SqliteStore) -> None:
    plane = ControlPlane(store)
    assert await put(plane, model("a"), dry_run=True) == 0
    assert store.get()[0].version == 0
    await put(plane, model("a"))
    assert await put(plane, model("a")) == 1
    assert store.get()[0].version == 1


async def test_changes_from_an_old_version_are_refused_even_when_they_race(store: SqliteStore) -> None:
    plane = ControlPlane(store)
    results = await asyncio.gather(
        put(plane, model("a"), expected=0), put(plane, model("b"), expected=0), return_exceptions=True
    )
    assert results[0] == 1
    assert isinstance(results[1], VersionConflictError)
    assert plane.current.model == model("a")


async def test_a_restart_goes_on_where_it_was(store: SqliteStore) -> None:
    await put(ControlPlane(store), model("a"))
    assert ControlPlane(store).current.model == model("a")


async def test_reports_age_and_are_bounded(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    plane = ControlPlane(store, clock)
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
