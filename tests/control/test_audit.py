"""The audit log in a store: what is written, forgotten and found again, and that two control nodes write one chain."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control import audit as module
from control.audit import FRUITLESS_AT_ONCE, FRUITLESS_EVERY_S, HEAD, KEPT_S, OBJECTS_LIMIT, SPACE, Audit, Changed, Told
from control.audit_chain import Entry, Verifier, key_of
from control.store import Store, StoreUnavailableError, Write
from control.store_sqlite import SqliteStore
from control.token_format import made


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await SqliteStore.open(tmp_path / "db")
    yield store
    await store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(who: str = "ann", status: int = 200, **more: object) -> Told:
    return Told(who, "id", "admin", "192.0.2.1", "PUT", "/v1/config", status, **more)  # type: ignore[arg-type]


async def verify(audit: Audit) -> int:
    verifier = Verifier(await audit.head(), {})
    verifier.follow(await audit.range(verifier.head.first, 1000))
    verifier.finish()
    return verifier.number


async def test_an_entry_says_who_when_from_where_what_and_the_result(store: Store, clock: Clock) -> None:
    audit = Audit(store, clock)
    await audit.tell(told(comment="two more", change=Changed(6, 7, ["listeners/web"])))
    await audit.tell(told("bob", 403, why="the role"))
    await audit.tell(told("bob", 422))
    first, second, third = await audit.range(1, 10)
    assert {name: each for name, each in first.items() if name not in ("hash", "previous")} == {
        "number": 1, "at": clock.now, "who": "ann", "token": "id", "role": "admin", "from": "192.0.2.1",
        "method": "PUT", "path": "/v1/config", "status": 200, "result": "done", "comment": "two more",
        "version_before": 6, "version": 7, "objects": ["listeners/web"],
    }  # fmt: skip
    assert (second["result"], second["why"], third["result"]) == ("refused", "the role", "failed")
    assert await verify(audit) == 3


async def test_no_secret_of_a_token_is_in_it(store: Store) -> None:
    _, text = made(1, 1 << 200)
    audit, lines = Audit(store), io.StringIO()
    audit = Audit(store, lines=lines)
    await audit.tell(Told("ann", "id", "", "x", "PUT", f"/v1/tokens/{text}", 404, comment=f"see {text[:40]}", why=text))
    kept = b"".join(record.value for record in await store.records(SPACE)).decode() + lines.getvalue()
    assert text[15:31] not in kept
    assert kept.count("pft_0000000001_\\u2026") == 6


async def test_lines_go_where_they_are_asked_for(store: Store) -> None:
    lines = io.StringIO()
    audit = Audit(store, lines=lines)
    await audit.tell(told())
    (line,) = lines.getvalue().splitlines()
    assert json.loads(line) == {"audit": (await audit.range(1, 1))[0]}


async def test_an_entry_is_bounded(store: Store) -> None:
    names = ["listeners/" + "x" * 80] * 5000
    audit = Audit(store)
    long = "𝄞" * 10_000
    await audit.tell(Told("n" * 80, "i" * 10, "r", "f", "M" * 9000, long, 200, long, long, Changed(1, 2, names)))
    (entry,) = await audit.range(1, 1)
    objects = entry["objects"]
    assert isinstance(objects, list)
    assert (len(objects), entry["changes"]) == (OBJECTS_LIMIT, 5000)


async def test_the_oldest_are_forgotten_and_the_chain_still_holds(store: Store, clock: Clock) -> None:
    audit = Audit(store, clock, entries_limit=5)
    for number in range(12):
        await audit.tell(told(str(number)))
    head = await audit.head()
    assert (head.first, head.last) == (8, 12)
    assert len(await store.records(SPACE)) == 6
    assert await verify(audit) == 12


async def test_what_is_old_enough_is_forgotten(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGED_EVERY", 1)
    audit = Audit(store, clock)
    await audit.tell(told("first"))
    clock.now += KEPT_S / 2
    await audit.tell(told("second"))
    clock.now += KEPT_S / 2 + 1
    await audit.tell(told("third"))
    assert [entry["who"] for entry in await audit.range(1, 10)] == ["second", "third"]
    assert await verify(audit) == 3


@pytest.mark.parametrize("status", [401, 422])
async def test_a_flood_that_changes_nothing_leaves_the_changes_in(store: Store, clock: Clock, status: int) -> None:
    """Neither strangers, who are refused, nor a token that may only read, whose requests fail, fill the log."""
    audit = Audit(store, clock)
    for _ in range(FRUITLESS_AT_ONCE + 40):
        await audit.tell(told("-", status))
    await audit.tell(told("ann"))
    assert (await audit.head()).last == FRUITLESS_AT_ONCE + 1
    for _ in range(50):
        clock.now += FRUITLESS_EVERY_S / 50
        await audit.tell(told("-", status))
    (entry,) = await audit.range(FRUITLESS_AT_ONCE + 2, 10)
    assert entry["status"] == status
    assert isinstance(entry["unrecorded"], int)
    assert 85 <= entry["unrecorded"] <= 89
    assert await verify(audit) == FRUITLESS_AT_ONCE + 2


async def test_the_failures_of_one_token_do_not_hide_those_of_another(store: Store, clock: Clock) -> None:
    audit = Audit(store, clock)
    for token in ("a", "b"):
        for _ in range(FRUITLESS_AT_ONCE):
            await audit.tell(Told(token, token, "read", "192.0.2.1", "POST", "/v1/x", 400))
    assert (await audit.head()).last == 2 * FRUITLESS_AT_ONCE


async def test_two_control_nodes_write_one_chain(tmp_path: Path) -> None:
    first, second = [await SqliteStore.open(tmp_path / "db") for _ in range(2)]
    audits = Audit(first), Audit(second)
    await asyncio.gather(*(audit.tell(told(f"{n}")) for n in range(10) for audit in audits))
    assert await verify(audits[0]) == 20
    assert sorted(str(entry["who"]) for entry in await audits[1].range(1, 100)) == sorted([*map(str, range(10))] * 2)
    await first.close()
    await second.close()


async def test_where_it_cannot_be_written_this_process_log_has_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*changes: Write) -> int:
        raise StoreUnavailableError("etcd is away")

    monkeypatch.setattr(store, "write", fail)
    with caplog.at_level(logging.ERROR):
        await Audit(store).tell(told("ann", comment="why"))
    assert "could not be written (etcd is away)" in caplog.text
    assert '"comment": "why"' in caplog.text


async def test_pages_go_back_to_the_beginning(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDS_LIMIT", 3)  # so that a page is put together of several readings
    audit = Audit(store)
    for number in range(1, 11):
        await audit.tell(told("ann" if number % 4 else "bob"))

    async def numbers(before: int | None, limit: int, who: str = "") -> tuple[list[object], int | None]:
        def wanted(entry: Entry) -> bool:
            return not who or entry["who"] == who

        found, more = await audit.page(before, limit, wanted)
        return [entry["number"] for entry in found], more

    assert await numbers(None, 4) == ([10, 9, 8, 7], 7)
    assert await numbers(7, 4) == ([6, 5, 4, 3], 3)
    assert await numbers(3, 4) == ([2, 1], None)
    assert await numbers(3, 2) == ([2, 1], None)
    assert await numbers(1, 4) == ([], None)
    assert await numbers(99, 1) == ([10], 10)
    assert await numbers(None, 10, "bob") == ([8, 4], None)
    assert await numbers(None, 1, "bob") == ([8], 8)
    monkeypatch.setattr(module, "SCAN_LIMIT", 4)
    assert await numbers(None, 10, "bob") == ([8], 7), "where it has looked no further, the next page goes on"
    assert await numbers(7, 10, "bob") == ([4], 3)
    assert await Audit(store).page(None, 10, lambda entry: False) == ([], 7)


async def test_an_empty_log(store: Store) -> None:
    audit = Audit(store)
    assert await audit.page(None, 10, lambda entry: True) == ([], None)
    assert await audit.range(1, 10) == []
    assert await verify(audit) == 0


async def test_tampering_in_the_store_does_not_stop_the_log(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A record that is there already, where the next one should be, is left; this process's log has the entry."""
    audit = Audit(store)
    await audit.tell(told())
    await store.write(Write(SPACE, key_of(2), b"{}"))
    await audit.tell(told("bob"))
    assert "could not be written" in caplog.text
    await store.write(Write(SPACE, key_of(2), None))
    await audit.tell(told("bob"))
    assert await verify(audit) == 2
    assert (await store.record(SPACE, HEAD)) is not None
