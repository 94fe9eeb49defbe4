"""When answers are fetched, given out, renewed and forgotten, with a clock of the test's own."""

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as x509_ocsp

from certs import ocsp
from certs.ocsp import OcspError
from certs.report import VOID
from keyserver import staples as staples_module
from keyserver.staples import FETCHING, FORGET_AFTER_S, Staples
from tests.responder import HOUR, Responder

KEY = ec.generate_private_key(ec.SECP256R1())
KEY_ID = bytes(32)


class World:
    """A responder, a wall clock, and what passes between them and the answers under test."""

    def __init__(self) -> None:
        self.responder = Responder()
        self.leaf = self.responder.leaf(KEY)
        self.start = self.responder.begins
        self.passed = timedelta()
        self.asked: list[str] = []
        self.away = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.staples = Staples(self.fetch, lambda: self.start + self.passed)
        self.staples.add(b"chain", KEY_ID, ocsp.subject(self.responder.chain(self.leaf)))
        self.base = asyncio.get_running_loop().time()

    async def fetch(self, url: str, request: bytes) -> bytes:
        self.asked.append(url)
        await self.gate.wait()
        if self.away:
            raise OcspError(self.away)
        return self.responder.answer(self.leaf)

    async def ask(self, passed: timedelta | None = None) -> tuple[bool, str]:
        """Whether there is an answer, and why no newer one, after some time and once what is fetched is here."""
        self.passed = self.passed if passed is None else passed
        given = self.staples.give(b"chain", self.base + self.passed.total_seconds())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert bool(given.answer) is (given.ends > 0)
        return bool(given.answer), given.why


async def test_an_answer_is_fetched_when_first_wanted() -> None:
    world = World()
    assert await world.ask() == (False, FETCHING)
    given = world.staples.give(b"chain", world.base)
    assert ocsp.judge(given.answer, found(world), world.start).ends.timestamp() == given.ends
    assert world.asked == ["http://ocsp.test/"]
    assert world.staples.counters == {"ocsp_fetched": 1}


def found(world: World) -> ocsp.Subject:
    subject = ocsp.subject(world.responder.chain(world.leaf))
    assert subject is not None
    return subject


async def test_it_is_renewed_after_half_of_its_life_and_not_before() -> None:
    world = World()
    await world.ask()
    assert await world.ask(0.9 * HOUR) == (True, "")
    assert len(world.asked) == 1
    world.responder.begins, world.responder.ends = world.start + HOUR, world.start + 3 * HOUR
    assert await world.ask(1.01 * HOUR) == (True, "")
    assert len(world.asked) == 2
    assert await world.ask(2.5 * HOUR) == (True, "")


async def test_the_old_one_is_given_out_to_its_end_and_not_beyond() -> None:
    world = World()
    await world.ask()
    world.away = "gone fishing"
    assert await world.ask(1.1 * HOUR) == (True, "")
    assert await world.ask(2 * HOUR - timedelta(seconds=1)) == (True, "gone fishing")
    assert await world.ask(2 * HOUR) == (False, "gone fishing")
    world.away, world.responder.ends = "", world.start + 4 * HOUR
    await world.ask(3 * HOUR)
    assert await world.ask(3 * HOUR) == (True, "")


async def test_a_revoked_certificate_gets_none_at_once() -> None:
    world = World()
    await world.ask()
    world.responder.status = x509_ocsp.OCSPCertStatus.REVOKED
    await world.ask(1.1 * HOUR)
    answer, why = await world.ask()
    assert not answer
    assert "was revoked" in why
    assert world.staples.give(b"chain", world.base).ends == VOID
    world.responder.status = x509_ocsp.OCSPCertStatus.GOOD
    await world.ask(1.2 * HOUR)
    assert await world.ask() == (True, "")


async def test_after_a_failure_it_is_tried_again_with_growing_delays() -> None:
    world = World()
    world.away = "gone fishing"
    tried = []
    for second in range(200):
        before = len(world.asked)
        await world.ask(timedelta(seconds=second))
        if len(world.asked) > before:
            tried.append(second)
    gaps = [later - earlier for earlier, later in pairwise(tried)]
    assert [7 <= gaps[0] <= 11, 15 <= gaps[1] <= 21, 30 <= gaps[2] <= 41, 60 <= gaps[3] <= 81] == [True] * 4
    assert world.staples.counters["ocsp_failed"] == len(world.asked)


async def test_one_fetch_at_a_time_for_a_chain_and_a_few_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staples_module, "MAX_FETCHES", 2)
    world = World()
    world.gate.clear()
    for number in range(3):
        world.staples.add(b"%d" % number, KEY_ID, found(world))
    for _ in range(3):
        for digest in (b"chain", b"0", b"1", b"2"):
            world.staples.give(digest, world.base)
        await asyncio.sleep(0)
    assert len(world.asked) == 2
    world.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.staples.give(b"1", world.base)
    await asyncio.sleep(0)
    assert len(world.asked) == 3


async def test_what_nobody_asks_for_is_forgotten() -> None:
    world = World()
    await world.ask()
    world.staples.add(b"other", KEY_ID, None)
    world.staples.give(b"other", world.base + FORGET_AFTER_S - 1)
    assert world.staples.key_of(b"chain") == KEY_ID
    world.staples.give(b"other", world.base + FORGET_AFTER_S + 1)
    assert world.staples.key_of(b"chain") is None
    assert world.staples.key_of(b"other") == KEY_ID


async def test_as_many_chains_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staples_module, "MAX_CHAINS", 2)
    world = World()
    await world.ask()
    world.staples.add(b"1", KEY_ID, None)
    world.staples.add(b"2", KEY_ID, None)
    assert [world.staples.key_of(digest) is None for digest in (b"chain", b"1", b"2")] == [True, False, False]


@pytest.mark.parametrize(
    ("subject", "why"), [(None, ""), (OcspError("no issuer"), "no issuer")], ids=["no responder", "no issuer"]
)
async def test_chains_that_nobody_can_be_asked_about(subject: OcspError | None, why: str) -> None:
    world = World()
    world.staples.add(b"other", KEY_ID, subject)
    given = world.staples.give(b"other", world.base)
    assert (given.answer, given.ends, given.why) == (b"", 0, why)
    await asyncio.sleep(0)
    assert world.asked == []


async def test_closing_gives_up_what_is_being_fetched() -> None:
    world = World()
    world.gate.clear()
    await world.ask()
    await world.staples.close()
    assert await world.ask() == (False, FETCHING)
