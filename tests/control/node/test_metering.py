"""Cuts and deliveries of a node, against a control plane that is away, forgets to answer, or refuses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from control.node import metering as module
from control.node.ledger import Counted, Ledger
from control.node.metering import Clock, Look, Metering
from core.usage import HOUR_S, Delivery, Usage

OWNER = ("shop", "web")
NOON = 1_800_000_000.0 // HOUR_S * HOUR_S


class Counter:
    """A source with one place; `known` whether it is known whose it is."""

    def __init__(self) -> None:
        self.count, self.known, self.done = 0, True, 0

    def look(self, _: Ledger) -> Look | None:
        def done() -> None:
            self.done += 1

        return Look({"s": {"1": Counted(OWNER, (self.count,))}}, done=done) if self.known else None


class Far:
    """A control plane that counts once; `answers` are what it says, 0 to do as it should."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.rows: list[tuple[int, Usage]] = []
        self.answers: list[int] = []
        self.now = NOON
        self.came = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.add_routes([web.post("/v1/node/metering", self._take)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        delivery = Delivery.of(await request.json())
        self.came.set()
        answer = self.answers.pop(0) if self.answers else 0
        if answer == 400:
            return web.Response(status=400, text="not like this")
        if delivery.number > self.last.get(delivery.epoch, 0):
            self.last[delivery.epoch] = delivery.number
            self.rows += [(hour, usage) for (hour, _), usage in delivery.rows.items()]
        if answer:  # it has counted, and nobody learns of it
            return web.Response(status=answer)
        return web.json_response({"applied": self.last[delivery.epoch], "now": self.now})

    @property
    def total(self) -> int:
        return sum(usage[0] for _, usage in self.rows)


@asynccontextmanager
async def metering_of(state: Path, source: Counter, clock: Clock | None = None) -> AsyncIterator[Metering]:
    metering = Metering(state, source, deliver_s=3600.0, clock=clock)
    assert await metering.acquire()
    try:
        yield metering
    finally:
        await metering.let_go()


async def test_what_was_counted_is_delivered_once_whatever_the_answers(tmp_path: Path) -> None:
    source, far = Counter(), Far()
    far.answers = [500, 503, 400, 0, 500]
    async with far.running() as url, aiohttp.ClientSession() as session, metering_of(tmp_path, source) as metering:
        results = []
        for _ in range(8):
            source.count += 5
            await metering.cut()
            results.append(await metering.deliver(session, url))
        # The fourth try tells the first delivery once more and fails with the next one.
        assert results == [*[False] * 4, *[True] * 4]
        assert far.total == 40
        assert metering.refused == ""
        source.count += 1
        await metering.cut()
        assert not await metering.deliver(session, "http://127.0.0.1:1")


async def test_a_refusal_is_told_once_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, far = Counter(), Far()
    far.answers = [400, 400]
    source.count = 7
    async with far.running() as url, aiohttp.ClientSession() as session, metering_of(tmp_path, source) as metering:
        await metering.cut()
        assert [await metering.deliver(session, url) for _ in range(2)] == [False, False]
        why = "metering: the control plane does not take what was counted, which is kept: not like this"
        assert metering.problems == [why]
        assert await metering.deliver(session, url)
        assert metering.problems == []
    assert caplog.text.count("not like this") == 1
    assert far.total == 7


async def test_what_cannot_be_delivered_for_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, far = Counter(), Far()
    source.count, far.answers = 7, [503, 503]
    async with far.running() as url, aiohttp.ClientSession() as session, metering_of(tmp_path, source) as metering:
        await metering.cut()
        assert not await metering.deliver(session, url)
        assert metering.problems == [], "the control plane may just be starting"
        monkeypatch.setattr(module, "LATE_S", -1.0)
        assert not await metering.deliver(session, url)
        (problem,) = metering.problems
        assert "nothing could be delivered, which is kept: 503" in problem
        assert await metering.deliver(session, url)
        assert metering.problems == []


async def test_a_ledger_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "metering.db").write_bytes(b"no database" * 1000)
    metering = Metering(tmp_path, Counter())
    assert not await metering.acquire()
    (problem,) = metering.problems
    assert problem.startswith(f"metering: {tmp_path}/metering.db: ")
    await metering.let_go()


async def test_the_next_process_delivers_what_is_left(tmp_path: Path) -> None:
    source, far = Counter(), Far()
    source.count = 7
    async with metering_of(tmp_path, source):
        pass  # it cuts when it lets go
    assert source.done == 1
    source.count = 9
    async with far.running() as url, aiohttp.ClientSession() as session, metering_of(tmp_path, source) as metering:
        await metering.cut()
        assert await metering.deliver(session, url)
    assert far.total == 9


async def test_one_process_has_the_ledger_and_the_next_one_gets_it(tmp_path: Path) -> None:
    source = Counter()
    second = Metering(tmp_path, source, cut_s=0.01)
    async with metering_of(tmp_path, source):
        assert not await second.acquire()
        await second.cut()  # nothing
        assert source.done == 0
    keeping = asyncio.create_task(second.keep())
    async with asyncio.timeout(20):
        while source.done < 4:
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await second.let_go()


async def test_nothing_is_cut_before_it_is_known_whose_it_is(tmp_path: Path) -> None:
    source = Counter()
    source.known = False
    async with metering_of(tmp_path, source) as metering:
        await metering.cut()
        assert source.done == 0
        source.known = True


async def test_last_words(tmp_path: Path) -> None:
    """What is left is delivered at the end, if somebody takes it; else the end comes all the same."""
    source, far = Counter(), Far()
    async with far.running() as url, aiohttp.ClientSession() as session, metering_of(tmp_path, source) as metering:
        delivering = asyncio.create_task(metering.deliver_forever(session, lambda: url))
        source.count = 5
        await metering.last_words()
        assert far.total == 5
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)


async def test_last_words_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_WORDS_S", 0.05)
    async with metering_of(tmp_path, Counter()) as metering:
        await metering.last_words()


class Machine:
    """Two clocks: one that is stepped, one that goes on."""

    def __init__(self) -> None:
        self.wall, self.uptime = 5 * HOUR_S + 0.0, 1000.0

    def clock(self, boot: str = "b1") -> Clock:
        return Clock(boot, wall=lambda: self.wall, uptime=lambda: self.uptime)


async def test_the_control_plane_says_what_time_it_is(tmp_path: Path) -> None:
    """The machine's wall clock is wrong, and is stepped; the next process knows the time without asking."""
    source, far, machine = Counter(), Far(), Machine()
    async with (
        far.running() as url, aiohttp.ClientSession() as session,
        metering_of(tmp_path, source, machine.clock()) as metering,
    ):  # fmt: skip
        source.count = 1
        await metering.cut()
        await metering.deliver(session, url)
        machine.wall, machine.uptime = 0.0, machine.uptime + 100
        source.count = 3
        await metering.cut()
        await metering.deliver(session, url)
    again = machine.clock()
    source.count = 7
    async with (
        far.running() as url, aiohttp.ClientSession() as session, metering_of(tmp_path, source, again) as metering,
    ):  # fmt: skip
        machine.uptime += HOUR_S
        await metering.cut()
        far.now += 100 + HOUR_S
        await metering.deliver(session, url)
    noon = int(NOON) // HOUR_S
    assert [(hour, usage[0]) for hour, usage in far.rows] == [(5, 1), (noon, 2), (noon + 1, 4)]
    rebooted = machine.clock("b2")
    async with metering_of(tmp_path, source, rebooted):
        assert rebooted.now() == machine.wall


def test_the_boot_is_known_where_proc_shows_processes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd's %b has no hyphens; a noted clock of nobody knows which boot is not taken."""
    told = module.boot_id()
    assert re.fullmatch("[0-9a-f]{32}", told)
    monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "boot_id")
    monkeypatch.setenv("PAIFANG_BOOT_ID", told)
    assert module.boot_id() == told
    monkeypatch.delenv("PAIFANG_BOOT_ID")
    unknown = Machine().clock(module.boot_id())
    unknown.restore(("", 7.0))
    assert unknown.now() == Machine().wall


async def test_an_hour_ends_where_it_ends(tmp_path: Path) -> None:
    """What was counted up to the full hour belongs to the hour before."""
    source, machine = Counter(), Machine()
    clock = machine.clock()
    clock.hear(NOON - 0.5)
    async with metering_of(tmp_path, source, clock) as metering:
        await metering.cut()
        assert metering._pause_s() == pytest.approx(0.501)
        machine.uptime += 0.501
        source.count = 3
        await metering.cut()
        machine.uptime += 10
        source.count = 8
        await metering.cut()
        sealed = await metering._sealed()
    assert sealed is not None
    assert {hour - int(NOON) // HOUR_S: usage[0] for (hour, _), usage in sealed.rows.items()} == {-1: 3, 0: 5}
