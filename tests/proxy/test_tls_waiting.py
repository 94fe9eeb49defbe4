"""Both ways of waiting, without TLS: steps that ask, fail, are abandoned before, while and after they wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy import keyless, tls_waiting
from proxy.tls_waiting import SPARE_STACKS, Abandoned, GreenletWaiting, Signed, ThreadWaiting, Waiting
from tests.proxy.tls_support import WAYS, run

Reply = Callable[[Signed], None]


class Trace:
    """One step: what it asked for and how it ended."""

    def __init__(self, answer: Signed | None = None) -> None:
        keyless.load()
        self.answer = answer  # None: the test replies by itself
        self.asked: list[tuple[bytes, int, bytes]] = []
        self.replies: list[Reply] = []
        self.ended: list[Exception | None] = []
        self.result: list[bytes] = []

    def call(self) -> None:
        self.result.append(keyless.SIGNER.get()(b"id", 0x0403, b"content"))

    def ask(self, key_id: bytes, scheme: int, content: bytes, reply: Reply) -> None:
        self.asked.append((key_id, scheme, content))
        self.replies.append(reply)
        if self.answer is not None:
            reply(self.answer)

    async def end(self) -> Exception | None:
        while not self.ended:
            await asyncio.sleep(0.001)
        assert len(self.ended) == 1
        return self.ended[0]

    async def asking(self) -> None:
        while not self.asked:
            await asyncio.sleep(0.001)


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.mark.parametrize("later", [False, True])
def test_a_step_gets_what_it_asks_for(way, later) -> None:
    async def main() -> None:
        waiting: Waiting = way()
        for _ in range(20):
            trace = Trace(None if later else b"signature")
            waiting.run(trace.call, trace.ask, trace.ended.append)
            await trace.asking()
            if later:
                assert not trace.ended
                trace.replies[0](b"signature")
            assert await trace.end() is None
            assert trace.asked == [(b"id", 0x0403, b"content")]
            assert trace.result == [b"signature"]
            trace.replies[0](b"a second reply")
        waiting.close()

    run(main())


def test_an_error_is_raised_where_it_was_waited(way) -> None:
    async def main() -> None:
        waiting = way()
        trace = Trace(LookupError("no such key"))
        waiting.run(trace.call, trace.ask, trace.ended.append)
        error = await trace.end()
        assert isinstance(error, LookupError)
        assert error.__traceback__ is None  # it would hold on to everything on the handshake's stack
        waiting.close()

    run(main())


def test_a_step_that_asks_nothing_just_ends(way) -> None:
    async def main() -> None:
        waiting = way()
        ended: list[Exception | None] = []
        waiting.run(lambda: None, lambda *_: pytest.fail("asked"), ended.append)
        while not ended:
            await asyncio.sleep(0.001)
        assert ended == [None]
        waiting.close()

    run(main())


def test_an_abandoned_step_unwinds_and_later_replies_are_dropped(way) -> None:
    async def main() -> None:
        waiting = way()
        trace = Trace()
        step = waiting.run(trace.call, trace.ask, trace.ended.append)
        await trace.asking()
        step.abandon()
        assert isinstance(await trace.end(), Abandoned)
        other = Trace()  # may run on the stack of the first
        waiting.run(other.call, other.ask, other.ended.append)
        await other.asking()
        trace.replies[0](b"too late")
        step.abandon()
        assert not other.ended
        other.replies[0](b"in time")
        assert await other.end() is None
        assert (trace.result, other.result) == ([], [b"in time"])
        waiting.close()

    run(main())


def test_many_wait_at_once_and_are_answered_in_any_order() -> None:
    async def main() -> None:
        waiting = GreenletWaiting()
        traces = [Trace() for _ in range(3 * SPARE_STACKS)]
        for trace in traces:
            waiting.run(trace.call, trace.ask, trace.ended.append)
        for number, trace in reversed(list(enumerate(traces))):
            trace.replies[0](b"%d" % number)
        assert [trace.result for trace in traces] == [[b"%d" % number] for number in range(len(traces))]
        assert len(waiting._idle) == SPARE_STACKS
        waiting.close()
        assert not waiting._idle

    run(main())


def test_threads_lose_patience() -> None:
    async def main() -> None:
        waiting = ThreadWaiting(1, patience_s=0.05)
        trace = Trace()
        waiting.run(trace.call, trace.ask, trace.ended.append)
        assert isinstance(await trace.end(), Abandoned)
        waiting.close()

    run(main())


def test_more_steps_than_threads_wait_their_turn() -> None:
    async def main() -> None:
        waiting = ThreadWaiting(2)
        traces = [Trace() for _ in range(10)]
        for trace in traces:
            waiting.run(trace.call, trace.ask, trace.ended.append)
        await traces[1].asking()
        assert sum(bool(trace.asked) for trace in traces) == 2
        for trace in traces:
            await trace.asking()
            trace.replies[0](b"signature")
            assert await trace.end() is None
        waiting.close()

    run(main())


def test_greenlets_are_chosen_and_threads_where_there_are_none(monkeypatch, caplog) -> None:
    assert tls_waiting.choose().name == "greenlet"
    monkeypatch.setattr(tls_waiting, "greenlet", None)
    chosen = tls_waiting.choose()
    assert chosen.name == "threads"
    assert "greenlet is not installed" in caplog.text
    chosen.close()
