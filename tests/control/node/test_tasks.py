import asyncio
import logging

import pytest

from control.node.tasks import Tasks


async def _fail() -> None:
    raise RuntimeError("boom")


async def _wait(events: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        events.append("cancelled")
        raise


async def test_a_task_that_dies_is_logged_with_its_name_and_told(caplog: pytest.LogCaptureFixture) -> None:
    died: list[tuple[str, BaseException]] = []
    tasks = Tasks(lambda name, error: died.append((name, error)))
    with caplog.at_level(logging.ERROR):
        task = tasks.spawn(_fail(), "limb")
        await asyncio.wait([task])
    assert [(name, str(error)) for name, error in died] == [("limb", "boom")]
    assert "task limb died: RuntimeError('boom')" in caplog.text
    assert len(tasks) == 0


async def test_close_cancels_and_awaits_without_reporting_failures() -> None:
    events: list[str] = []
    tasks = Tasks(lambda name, error: events.append(f"failed {name}"))
    tasks.spawn(_wait(events), "a")
    tasks.spawn(_wait(events), "b")
    await asyncio.sleep(0)
    await tasks.close()
    assert events == ["cancelled", "cancelled"]
    assert len(tasks) == 0


async def test_a_task_may_close_its_own_owner() -> None:
    events: list[str] = []
    tasks = Tasks()

    async def closer() -> None:
        await tasks.close()
        events.append("closed")

    tasks.spawn(_wait(events), "other")
    await asyncio.sleep(0)
    await tasks.spawn(closer(), "closer")
    assert events == ["cancelled", "closed"]


async def test_a_task_that_loses_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.node.tasks.CANCEL_AGAIN_S", 0.01)
    lost = 0

    async def forgetful() -> None:
        nonlocal lost
        while lost < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
        await asyncio.Event().wait()

    tasks = Tasks()
    tasks.spawn(forgetful(), "forgetful")
    await asyncio.sleep(0)
    await tasks.close()
    assert lost == 2
    assert len(tasks) == 0
