"""Writes are made once and by the living only; one leads at a time. With a bad network before Debian's etcd."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from control import etcd as etcd_client
from control import etcd_session
from control.etcd import Etcd, Tls
from control.etcd_session import Session, is_revision, put
from control.store import LeadershipLostError, StoreUnavailableError
from tests.control.etcd_front import Front, Way, front
from tests.control.etcd_members import Members


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_client, "ATTEMPT_S", 0.5)
    monkeypatch.setattr(etcd_client, "AGAIN_S", 0.01)
    monkeypatch.setattr(etcd_session, "ASK_AGAIN_S", 0.02)
    monkeypatch.setattr(etcd_session, "AWAY_AGAIN_S", 0.02)


@pytest.fixture
def prefix() -> str:
    return f"/{secrets.token_hex(8)}/"


@pytest.fixture
async def network(etcd: Members) -> AsyncIterator[Front]:
    async with front(etcd.endpoints[0]) as network:
        yield network


class Sessions:
    """Sessions that begin, and end with the test."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._made: list[tuple[Session, Etcd]] = []

    async def begin(self, *endpoints: str) -> Session:
        client = Etcd(endpoints, Tls())
        session = Session(client, self._prefix)
        self._made.append((session, client))
        await session.begin()
        return session

    async def end(self) -> None:
        for session, client in self._made:
            await session.close()
            await client.close()


@pytest.fixture
async def sessions(prefix: str) -> AsyncIterator[Sessions]:
    sessions = Sessions(prefix)
    yield sessions
    await sessions.end()


async def count(session: Session, key: str) -> int:
    """How often a key was written."""
    answer = await session._etcd.call("/v3/kv/range", {"key": etcd_client.encode(key)})
    return int(answer["kvs"][0]["version"]) if "kvs" in answer else 0


async def expire(session: Session) -> None:
    """What etcd does where it has not heard of a session for long."""
    await session._etcd.call("/v3/lease/revoke", {"ID": session._lease})


# --- writes


async def test_a_write_whose_answer_is_lost_is_made_once(network: Front, sessions: Sessions, prefix: str) -> None:
    session, key = await sessions.begin(network.url), f"{prefix}counted"
    network.ways = [Way.ANSWER_LOST, Way.ANSWER_LOST]
    written = await session.commit([is_revision(key, 0)], [put(key, b"1")])
    assert written.refused is None, "although its own condition no longer held when it was repeated"
    assert await count(session, key) == 1
    assert (await session._etcd.range(key))[0][0].revision == written.revision
    network.ways = [Way.ANSWER_LOST]
    again = await session.commit([], [put(key, b"2")])
    assert again.revision > written.revision
    assert await count(session, key) == 2


async def test_a_write_that_did_not_arrive_is_made(network: Front, sessions: Sessions, prefix: str) -> None:
    session, key = await sessions.begin(network.url), f"{prefix}counted"
    network.ways = [Way.REQUEST_LOST]
    assert (await session.commit([is_revision(key, 0)], [put(key, b"1")])).refused is None
    assert await count(session, key) == 1


async def test_a_refusal_tells_what_was_asked_for(network: Front, sessions: Sessions, prefix: str) -> None:
    session, key = await sessions.begin(network.url), f"{prefix}counted"
    await session.commit([], [put(key, b"1")])
    network.ways = [Way.ANSWER_LOST]
    look = {"request_range": {"key": etcd_client.encode(key)}}
    written = await session.commit([is_revision(key, 0)], [put(key, b"2")], [look])
    assert written.refused is not None
    assert etcd_client.key_values(written.refused[0]["response_range"])[0].value == b"1"
    assert (await session.commit([], [put(key, b"3")])).refused is None


@pytest.mark.parametrize("way", [Way.ANSWER_LOST, Way.REQUEST_LOST])
async def test_after_a_write_of_which_nothing_was_heard_others_are_made(
    way: Way, network: Front, sessions: Sessions, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, key = await sessions.begin(network.url), f"{prefix}counted"
    monkeypatch.setattr(etcd_session, "CALL_S", 0.3)
    network.way = way
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=r"it may have been written; look before you repeat it"):
            await session.commit([], [put(key, b"1")])
    network.way = Way.THROUGH
    monkeypatch.setattr(etcd_session, "CALL_S", 20.0)
    made = 1 if way is Way.ANSWER_LOST else 0
    assert await count(session, key) == made, "the second had no right to be made any more"
    assert (await session.commit([], [put(key, b"2")])).refused is None
    assert await count(session, key) == made + 1


async def test_a_writer_that_goes_away_leaves_all_in_order(network: Front, sessions: Sessions, prefix: str) -> None:
    session, key = await sessions.begin(network.url), f"{prefix}counted"
    network.ways = [Way.SILENT]
    writing = asyncio.create_task(session.commit([], [put(key, b"1")]))
    while not network.calls or network.calls[-1][0] != "/v3/kv/txn":
        await asyncio.sleep(0.01)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (await session.commit([], [put(key, b"2")])).refused is None


async def test_after_the_end_of_the_lease_writes_go_on_with_another(
    etcd: Members, sessions: Sessions, prefix: str
) -> None:
    session, key = await sessions.begin(*etcd.endpoints), f"{prefix}counted"
    await session.commit([], [put(key, b"1")])
    await expire(session)
    assert (await session.commit([], [put(key, b"2")])).refused is None
    assert await count(session, key) == 2
    await session._renew()
    assert (await session.commit([], [put(key, b"3")])).refused is None


async def test_what_became_of_a_write_is_not_known_after_the_end_of_the_lease(
    network: Front, sessions: Sessions, prefix: str
) -> None:
    session, key = await sessions.begin(network.url), f"{prefix}counted"
    await expire(session)
    network.ways = [Way.REQUEST_LOST]
    with pytest.raises(StoreUnavailableError, match=r"away for more than 10 s, and is back \(it may have been written"):
        await session.commit([], [put(key, b"1")])
    assert (await session.commit([], [put(key, b"2")])).refused is None
    assert await count(session, key) == 1


async def test_a_leader_that_was_taken_for_dead_writes_nothing(etcd: Members, sessions: Sessions, prefix: str) -> None:
    session, key = await sessions.begin(*etcd.endpoints), f"{prefix}counted"

    async def work() -> None:
        async with session.leading("sweeping"):
            await expire(session)
            await session.commit([], [put(key, b"1")])

    with pytest.raises(LeadershipLostError):
        await work()
    assert await count(session, key) == 0
    assert (await session.commit([], [put(key, b"2")])).refused is None


async def test_many_writes_at_once(network: Front, sessions: Sessions, prefix: str) -> None:
    session = await sessions.begin(network.url)
    network.ways = [way for _ in range(8) for way in (Way.THROUGH, Way.ANSWER_LOST, Way.REQUEST_LOST)]
    keys = [f"{prefix}{number}" for number in range(20)]
    written = await asyncio.gather(*(session.commit([is_revision(key, 0)], [put(key, b"")]) for key in keys))
    assert len({each.revision for each in written if each.refused is None}) == 20
    assert [await count(session, key) for key in keys] == [1] * 20


async def test_whether_etcd_is_away_is_known(
    network: Front, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_session, "RENEW_EVERY_S", 0.02)
    monkeypatch.setattr(etcd_session, "RENEW_CALL_S", 0.2)
    session = await sessions.begin(network.url)
    running = asyncio.create_task(session.run())
    network.way = Way.REQUEST_LOST
    async with asyncio.timeout(20):
        while "no etcd member answers" not in session.away:
            await asyncio.sleep(0.01)
    network.way = Way.THROUGH
    async with asyncio.timeout(20):
        while session.away:
            await asyncio.sleep(0.01)
    running.cancel()


# --- leading


async def test_one_leads_at_a_time_and_the_next_when_it_ends(etcd: Members, sessions: Sessions) -> None:
    one, two = [await sessions.begin(*etcd.endpoints) for _ in range(2)]
    told: list[str] = []

    async def work(session: Session, name: str) -> None:
        async with session.leading("sweeping"):
            told.append(f"{name} begins")
            await asyncio.sleep(0.1)
            told.append(f"{name} ends")

    async with asyncio.timeout(20):
        await asyncio.gather(work(one, "a"), work(two, "b"), work(one, "c"))
    assert sorted(told[::2]) == ["a begins", "b begins", "c begins"], "no two at once, of one session or of two"
    assert [each.split()[0] for each in told[::2]] == [each.split()[0] for each in told[1::2]]


async def test_names_are_led_in_apart(etcd: Members, sessions: Sessions) -> None:
    one, two = [await sessions.begin(*etcd.endpoints) for _ in range(2)]
    async with asyncio.timeout(20), one.leading("sweeping"), two.leading("folding"):
        pass


async def test_the_next_leads_when_the_leader_has_died(etcd: Members, sessions: Sessions) -> None:
    one, two = [await sessions.begin(*etcd.endpoints) for _ in range(2)]

    async def die() -> None:
        async with one.leading("sweeping"):
            await expire(one)
            await asyncio.Event().wait()

    dying = asyncio.create_task(die())
    async with asyncio.timeout(20):
        while not one._held:
            await asyncio.sleep(0.01)
        async with two.leading("sweeping"):
            assert not dying.done()
    dying.cancel()


@pytest.mark.parametrize("renew", [Session._renew, Session.begin])
async def test_lost_leadership_stops_the_work(
    renew: Callable[[Session], Awaitable[None]], etcd: Members, sessions: Sessions
) -> None:
    session = await sessions.begin(*etcd.endpoints)
    told: list[str] = []

    async def work() -> None:
        async with session.leading("sweeping"):
            try:
                told.append("works")
                await asyncio.Event().wait()
            finally:
                told.append("stopped")

    working = asyncio.create_task(work())
    while not told:
        await asyncio.sleep(0.01)
    await expire(session)
    await renew(session)
    with pytest.raises(LeadershipLostError, match="no longer leads in sweeping"):
        await asyncio.wait_for(working, 20)
    assert told == ["works", "stopped"]
    async with asyncio.timeout(20), session.leading("sweeping"):
        pass


async def test_who_hears_nothing_stops_before_another_begins(
    network: Front, etcd: Members, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LEASE_S", 2), ("GIVE_UP_S", 0.8), ("RENEW_EVERY_S", 0.1), ("RENEW_CALL_S", 0.2)):
        monkeypatch.setattr(etcd_session, name, value)
    one, two = await sessions.begin(network.url), await sessions.begin(*etcd.endpoints)
    renewing = [asyncio.create_task(session.run()) for session in (one, two)]
    told: list[str] = []

    async def work() -> None:
        async with one.leading("sweeping"):
            told.append("one begins")
            try:
                await asyncio.Event().wait()
            finally:
                told.append("one stops")

    working = asyncio.create_task(work())
    while not told:
        await asyncio.sleep(0.01)
    begun = one._renewed
    while one._renewed < begun + 0.9:
        await asyncio.sleep(0.02)
    assert told == ["one begins"], "as long as the lease is renewed"
    network.way = Way.REQUEST_LOST
    async with asyncio.timeout(30), two.leading("sweeping"):
        told.append("two begins")
    assert told == ["one begins", "one stops", "two begins"]
    network.way = Way.THROUGH
    with pytest.raises(LeadershipLostError):
        await working
    for task in renewing:
        task.cancel()


async def test_who_never_hears_of_etcd_again_stops_as_well(
    etcd: Members, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_session, "GIVE_UP_S", 0.5)
    session = await sessions.begin(*etcd.endpoints)
    with pytest.raises(LeadershipLostError):
        async with asyncio.timeout(20), session.leading("sweeping"):
            await asyncio.Event().wait()


async def test_what_cannot_be_let_go_of_is_so_later(
    network: Front, etcd: Members, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_session, "AWAY_CALL_S", 0.1)
    one, two = await sessions.begin(network.url), await sessions.begin(*etcd.endpoints)
    async with one.leading("sweeping"):
        network.way = Way.REQUEST_LOST
    network.way = Way.THROUGH
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), two.leading("sweeping"):
            raise AssertionError
    await one._renew()
    async with asyncio.timeout(20), two.leading("sweeping"):
        pass


async def test_an_error_of_the_work_is_its_own(etcd: Members, sessions: Sessions) -> None:
    session = await sessions.begin(*etcd.endpoints)

    async def work() -> None:
        async with session.leading("sweeping"):
            raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await work()
