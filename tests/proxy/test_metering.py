"""What an L7 node tells its ledger, and what a worker counts while exchanges go on."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from control.node.ledger import Ledger
from core.model import Model
from core.usage import COUNTED
from proxy.cells import Cells
from proxy.metering import NOBODY, Openings, Workers, moved
from tests.proxy.support import Backend, Request, free_port, model, proxy

SITE = model(1, [2])


def owned(name: str, instance: str) -> Model:
    listener = dataclasses.replace(SITE.listeners["web"], name=name, instance=instance)
    return dataclasses.replace(SITE, listeners={name: listener})


def counters(first: int) -> tuple[int, ...]:
    return (first, *(0,) * (COUNTED - 1))


def delivered(ledger: Ledger) -> dict[tuple[str, str], int]:
    delivery = ledger.seal()
    if delivery is None:
        return {}
    ledger.acknowledge(delivery, delivery.number)
    return {owner: usage[0] for (_, owner), usage in delivery.rows.items()}


def cut(ledger: Ledger, source: Workers) -> None:
    look = source.look(ledger)
    assert look is not None
    ledger.cut(5, look.sources, besides=look.besides, added=look.added, known=look.known)
    look.done()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "metering.db")


def test_a_file_is_read_as_long_as_its_writer_lives_and_once_more(tmp_path: Path, ledger: Ledger) -> None:
    source = Workers(tmp_path, lambda: SITE, Openings())
    one, other = Cells(source.directory), Cells(source.directory)
    one.write("web", counters(10))
    other.write("web", counters(1))
    cut(ledger, source)
    assert delivered(ledger) == {("main", "web"): 11}
    one.write("web", counters(15))
    one.close()
    cut(ledger, source)
    assert not one.path.exists()
    other.write("web", counters(2))
    cut(ledger, source)
    assert delivered(ledger) == {("main", "web"): 6}
    assert ledger.sources == {other.path.name}
    other.close()
    ledger.close()


def test_a_listener_that_is_gone_is_its_last_instances(tmp_path: Path, ledger: Ledger) -> None:
    now = [owned("web", "shop")]
    source = Workers(tmp_path, lambda: now[0], Openings())
    mine = Cells(source.directory)
    mine.write("web", counters(10))
    cut(ledger, source)
    now[0] = owned("other", "shop")
    mine.write("web", counters(12))
    mine.write("never", counters(1))
    cut(ledger, source)
    assert delivered(ledger) == {("shop", "web"): 12, (NOBODY, "never"): 1}
    mine.close()
    ledger.close()


def test_nothing_is_read_before_there_is_a_configuration(tmp_path: Path, ledger: Ledger) -> None:
    assert Workers(tmp_path, lambda: None, Openings()).look(ledger) is None
    ledger.close()


def test_the_most_connections_of_all_workers_together(tmp_path: Path, ledger: Ledger) -> None:
    openings = Openings()
    openings.saw([{"web": 3}, {"web": 4, "gone": 1}])
    openings.saw([{"web": 2}])
    look = Workers(tmp_path, lambda: SITE, openings).look(ledger)
    assert look is not None
    assert look.added == {("main", "web"): 7}
    assert openings.take() == {}
    ledger.close()


def test_whether_a_listener_has_another_instance() -> None:
    assert not moved(None, SITE)
    assert not moved(owned("web", "a"), owned("other", "b"))
    assert moved(owned("web", "a"), owned("web", "b"))


async def test_bytes_of_an_exchange_are_billed_while_it_goes_on() -> None:
    """And once, when it has ended; the next one on the connection begins at zero."""
    go_on = asyncio.Event()

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(60_000))
        await request.writer.drain()
        await go_on.wait()
        request.writer.write(bytes(40_000))

    kept: dict[str, tuple[int, ...]] = {}

    def keep(name: str, numbers: tuple[int, ...]) -> bool:
        kept[name] = numbers
        return True

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as node:
        journal = node.hub.journal
        journal.keep = keep
        client = await node.connect()
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        client.writer.write(request)
        head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 20)
        await asyncio.wait_for(client.reader.readexactly(60_000), 20)
        node.worker.tell_progress()
        journal.store()
        assert kept["web"][:4] == (len(request), len(head) + 60_000, 1, 0)
        go_on.set()
        await asyncio.wait_for(client.reader.readexactly(40_000), 20)
        for times in (1, 2):
            await node.record(times)
            node.worker.tell_progress()
            journal.store()
            assert kept["web"] == (len(request) * times, (len(head) + 100_000) * times, 1, 0, times, 0, 0, 0, 0)
            if times == 1:
                client.writer.write(request)
                await asyncio.wait_for(client.reader.readexactly(len(head) + 100_000), 20)
        assert node.worker.most_open() == {"web": 1}
        await client.close()
