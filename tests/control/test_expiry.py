"""What the log is told of certificates that end soon, and how often."""

import asyncio
import logging
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from control import expiry
from control.expiry import Told, news
from control.service import ControlPlane
from core.model import Model
from tests.certs.test_chain import NOW, leaf, pem
from tests.certs.test_inventory import model

DAY = timedelta(days=1)


def plane(of: Model) -> ControlPlane:
    return cast(ControlPlane, SimpleNamespace(current=SimpleNamespace(model=of)))


def test_once_a_day_and_when_it_gets_worse() -> None:
    one = plane(model(web=pem(leaf(days=(-70, 20)))))
    told: Told = {}
    said: list[tuple[float, str]] = []
    for hours in range(-48, 24 * 21, 6):
        lines, told = news(one, told, NOW + timedelta(hours=hours))
        said += [(hours / 24, line) for line in lines]
    days = [day for day, _ in said]
    assert days == [-0.75, *[day + 0.25 for day in range(13)], *[day + 0.25 for day in range(13, 20)], 20.0]
    assert said[1][1] == "certificate 'web' expires in 19 days, on 2026-12-10 00:00 UTC (used by web)"
    assert said[-1][1] == "certificate 'web' expired on 2026-12-10 00:00 UTC (used by web)"


def test_one_that_was_replaced_is_new_again() -> None:
    soon = plane(model(web=pem(leaf(days=(-60, 9)))))
    lines, told = news(soon, {}, NOW)
    assert len(lines) == 1
    assert news(soon, told, NOW) == ([], told)
    assert news(plane(model(web=pem(leaf(days=(-60, 80))))), told, NOW) == ([], {})


async def test_it_is_looked_at_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(expiry, "LOOK_EVERY_S", 0.0)
    times: list[datetime] = []

    def clock() -> datetime:
        times.append(NOW + len(times) * DAY)
        return times[-1]

    with caplog.at_level(logging.WARNING):
        watching = asyncio.create_task(expiry.watch(plane(model(web=pem(leaf(days=(-60, 9))))), clock))
        while len(times) < 3:
            await asyncio.sleep(0)
        watching.cancel()
    assert [text.partition(",")[0] for text in caplog.messages[:2]] == [
        "certificate 'web' expires in 9 days",
        "certificate 'web' expires in 8 days",
    ]
