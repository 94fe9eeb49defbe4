"""Workers that serve, end, hang and lie, and what becomes of the requests meanwhile. The workers are the test's own."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from keyserver import crew as crew_module
from keyserver.crew import WINDOW, Crew, Job
from keyserver.errors import ErrorCode
from keyserver.policy import KeyType
from keyserver.protocol import Failed, Message, Sign, Signed, encode, server_side
from tests.waiting import until

SOON_S = 10.0


class Puppet:
    """A worker that does what the test says. Made by the crew, as its process."""

    all: list["Puppet"]

    def __init__(self, requests: socket.socket, keys: socket.socket) -> None:
        self.sock = requests.dup()
        self.sock.setblocking(False)
        self.wire = server_side(0)
        self.pid = 1000 + len(self.all)
        self.killed = False
        self.all.append(self)

    def kill(self) -> None:
        self.killed = True
        self.sock.close()

    def wait(self, timeout: float | None = None) -> int:
        return 0

    async def receive(self, count: int = 1) -> list[Sign]:
        """The next requests."""
        loop, signs = asyncio.get_running_loop(), list[Sign]()
        while len(signs) < count:
            self.wire.receive_data(await asyncio.wait_for(loop.sock_recv(self.sock, 65536), SOON_S))
            signs += [event for event in self.wire.events() if isinstance(event, Sign)]
        return signs

    async def greet(self) -> None:
        loop = asyncio.get_running_loop()
        self.wire.receive_data(await asyncio.wait_for(loop.sock_recv(self.sock, 65536), SOON_S))
        await loop.sock_sendall(self.sock, self.wire.data_to_send())

    async def answer(self, *messages: Message) -> None:
        data = b"".join(map(encode, messages))
        await asyncio.get_running_loop().sock_sendall(self.sock, data)


class Asked:
    """Jobs that were asked for, and their results."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.results: dict[int, bytes | ErrorCode] = {}

    def ask(self, number: int, abandoned: Callable[[], bool] = lambda: False, age_s: float = 0) -> bool:
        def done(result: bytes | ErrorCode) -> None:
            assert number not in self.results, "done twice"
            self.results[number] = result

        request = Sign(number, bytes(32), 0x0804, "a.test", b"%d" % number)
        return self.crew.ask(Job(request, asyncio.get_running_loop().time() - age_s, done, abandoned))

    async def until(self, count: int) -> None:
        await until(lambda: len(self.results) >= count)


StartCrew = Callable[..., Awaitable[Crew]]


@pytest.fixture
async def start() -> AsyncIterator[StartCrew]:
    crews: list[Crew] = []
    Puppet.all = []

    async def make(size: int = 1) -> Crew:
        crew = Crew("rsa", [KeyType.RSA], size, Puppet)
        crews.append(crew)
        await crew.start()
        return crew

    yield make
    for crew in crews:
        await crew.close()
    for puppet in Puppet.all:
        with contextlib.suppress(OSError):
            puppet.sock.close()


@pytest.fixture
async def one(start: StartCrew) -> tuple[Asked, Puppet]:
    """A crew with one worker that is ready."""
    crew = await start()
    (puppet,) = Puppet.all
    await puppet.greet()
    await until(lambda: crew.ready)
    return Asked(crew), puppet


async def test_a_window_at_a_time_in_order(one: tuple[Asked, Puppet]) -> None:
    asked, puppet = one
    flushes: list[int] = []
    asked.crew.flush = lambda: flushes.append(len(asked.results))
    for number in range(1, 2 * WINDOW + 1):
        assert asked.ask(number)
    signs = await puppet.receive(WINDOW)
    assert [sign.content for sign in signs] == [b"%d" % n for n in range(1, WINDOW + 1)]
    assert asked.crew.waiting == WINDOW
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.get_running_loop().sock_recv(puppet.sock, 1), 0.05)
    await puppet.answer(*(Signed(sign.request_id, sign.content) for sign in signs))
    signs = await puppet.receive(WINDOW)
    await puppet.answer(*(Failed(sign.request_id, ErrorCode.UNKNOWN_KEY) for sign in signs))
    await asked.until(2 * WINDOW)
    assert asked.results[WINDOW] == b"%d" % WINDOW
    assert asked.results[WINDOW + 1] is ErrorCode.UNKNOWN_KEY
    assert flushes[-1] == 2 * WINDOW
    assert len(flushes) <= 4, "replies that come together are flushed together"


async def test_the_least_busy_worker_gets_the_next(start: StartCrew) -> None:
    crew = await start(2)
    asked = Asked(crew)
    for puppet in Puppet.all:
        await puppet.greet()
    await until(lambda: crew.ready == 2)
    for number in range(1, 5):
        asked.ask(number)
    assert [[sign.content for sign in await puppet.receive(2)] for puppet in Puppet.all] == [[b"1", b"3"], [b"2", b"4"]]


async def test_what_a_worker_owed_goes_to_the_next_one_first(
    one: tuple[Asked, Puppet], caplog: pytest.LogCaptureFixture
) -> None:
    asked, puppet = one
    fresh: list[None] = []
    asked.crew.fresh = lambda: fresh.append(None)
    for number in range(1, WINDOW + 3):
        asked.ask(number)
    sign = (await puppet.receive(WINDOW))[0]
    await puppet.answer(Signed(sign.request_id, b"done"))
    await puppet.receive(1)
    puppet.sock.close()
    await until(lambda: len(Puppet.all) == 2)
    await until(lambda: fresh)
    second = Puppet.all[1]
    await second.greet()
    again = await second.receive(WINDOW)
    assert [sign.content for sign in again] == [b"%d" % n for n in range(2, WINDOW + 2)]
    await second.answer(*(Signed(sign.request_id, b"late") for sign in again))
    assert [sign.content for sign in await second.receive(1)] == [b"%d" % (WINDOW + 2)]
    await asked.until(WINDOW + 1)
    assert (asked.results[1], asked.results[2]) == (b"done", b"late")
    assert asked.crew.restarts == 1
    assert "has ended; starting another" in caplog.text


async def test_a_request_that_ends_two_workers_fails(one: tuple[Asked, Puppet]) -> None:
    asked, puppet = one
    asked.ask(1)
    await puppet.receive()
    puppet.sock.close()
    await until(lambda: len(Puppet.all) == 2)
    await Puppet.all[1].greet()
    await Puppet.all[1].receive()
    Puppet.all[1].sock.close()
    await asked.until(1)
    assert asked.results == {1: ErrorCode.INTERNAL}
    await until(lambda: len(Puppet.all) == 3)
    asked.ask(2)
    await Puppet.all[2].greet()
    (sign,) = await Puppet.all[2].receive()
    assert sign.content == b"2"


async def test_a_silent_worker_is_replaced(one: tuple[Asked, Puppet], monkeypatch: pytest.MonkeyPatch) -> None:
    asked, puppet = one
    monkeypatch.setattr(crew_module, "SILENCE_S", 0.1)
    asked.ask(1)
    asked.ask(2)
    first, _ = await puppet.receive(2)
    await puppet.answer(Signed(first.request_id, b"1"))
    await until(lambda: puppet.killed)
    await until(lambda: len(Puppet.all) == 2)
    await Puppet.all[1].greet()
    (sign,) = await Puppet.all[1].receive()
    await Puppet.all[1].answer(Signed(sign.request_id, b"2"))
    await asked.until(2)
    assert asked.results == {1: b"1", 2: b"2"}
    await asyncio.sleep(0.2)
    assert not Puppet.all[1].killed, "who owes nothing may be silent"


async def test_without_a_worker_a_job_waits_for_its_deadline(start: StartCrew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "QUEUE_DEADLINE_S", 0.2)
    crew = await start()
    asked, flushed = Asked(crew), list[None]()
    crew.flush = lambda: flushed.append(None)
    assert asked.ask(1)
    assert asked.ask(2, age_s=1)
    await asked.until(2)
    assert asked.results == {1: ErrorCode.BUSY, 2: ErrorCode.BUSY}
    assert len(flushed) == 2
    assert crew.waiting == 0


async def test_a_worker_that_never_gets_ready_is_replaced(start: StartCrew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "START_S", 0.1)
    crew = await start()
    Asked(crew).ask(1)
    await until(lambda: Puppet.all[0].killed)
    await until(lambda: len(Puppet.all) == 2)


async def test_what_nobody_waits_for_is_not_signed(one: tuple[Asked, Puppet]) -> None:
    asked, puppet = one
    for number in range(1, WINDOW + 1):
        asked.ask(number)
    gone = False
    asked.ask(100, lambda: gone)
    asked.ask(101)
    signs = await puppet.receive(WINDOW)
    gone = True
    await puppet.answer(*(Signed(sign.request_id, b"") for sign in signs))
    assert [sign.content for sign in await puppet.receive(1)] == [b"101"]
    await asked.until(WINDOW + 1)
    assert asked.results[100] is ErrorCode.BUSY


async def test_the_queue_is_bounded(start: StartCrew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "MAX_QUEUED", 3)
    asked = Asked(await start())
    assert [asked.ask(number) for number in range(1, 6)] == [True, True, True, False, False]


async def test_a_worker_that_does_not_speak_the_protocol(one: tuple[Asked, Puppet]) -> None:
    asked, puppet = one
    asked.ask(1)
    await puppet.receive()
    await asyncio.get_running_loop().sock_sendall(puppet.sock, b"\xff" * 16)
    await until(lambda: puppet.killed)
    await until(lambda: len(Puppet.all) == 2)


async def test_answers_that_nobody_asked_for_are_ignored(one: tuple[Asked, Puppet]) -> None:
    asked, puppet = one
    asked.ask(1)
    (sign,) = await puppet.receive()
    await puppet.answer(Signed(77, b"?"), Signed(sign.request_id, b"1"), Signed(sign.request_id, b"2"))
    await asked.until(1)
    await asyncio.sleep(0.01)
    assert asked.results == {1: b"1"}


async def test_who_fails_at_once_is_started_again_ever_later(start: StartCrew, monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    sleep = asyncio.sleep

    async def note(delay_s: float) -> None:
        if delay_s >= 0.05:
            delays.append(delay_s)
        await sleep(0 if delay_s >= 0.05 else delay_s)

    monkeypatch.setattr(asyncio, "sleep", note)
    await start()
    for number in range(9):
        await until(lambda n=number: len(Puppet.all) > n)  # type: ignore[misc]
        Puppet.all[number].sock.close()
    await until(lambda: len(Puppet.all) == 10)
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_closing_fails_what_is_left(one: tuple[Asked, Puppet]) -> None:
    asked, puppet = one
    for number in range(1, WINDOW + 2):
        asked.ask(number)
    await puppet.receive(WINDOW)
    await asked.crew.close()
    assert set(asked.results.values()) == {ErrorCode.INTERNAL}
    assert len(asked.results) == WINDOW + 1
    assert not asked.ask(100)
    assert len(Puppet.all) == 1, "nobody is started any more"
