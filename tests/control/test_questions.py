"""Questions to nodes: what is asked reaches the node that is meant and no other, and every wait ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from control import node_api, questions
from control.node.identity import Identity
from control.node.link import ControlLink
from control.node.questions import Answering
from control.node.tasks import Tasks
from control.questions import NoAnswerError, NotAskedError, QuestionError, Questions, RefusedError
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from core.model import Model
from tests.control.conftest import Authority

LONG_S = 20.0


def alive() -> bool:
    return True


async def polled(asked: Questions, name: str = "a") -> asyncio.Task[list[Mapping[str, object]]]:
    """A poll that waits."""
    task = asyncio.ensure_future(asked.poll("l4", name, LONG_S, alive))
    await asyncio.sleep(0)
    return task


async def test_a_question_goes_to_the_poll_and_its_answer_comes_back() -> None:
    asked = Questions()
    poll = await polled(asked)
    question = asyncio.ensure_future(asked.ask("l4", "a", "talkers", {"limit": 3}, 2.5))
    (document,) = await poll
    assert document == {"id": "1", "kind": "talkers", "arguments": {"limit": 3}, "timeout_s": 2.5}
    assert not asked.answered("l4", "b", {"id": "1", "answer": "forged"})
    assert not asked.answered("l7", "a", {"id": "1", "answer": "forged"})
    assert not asked.answered("l4", "a", {"id": "2", "answer": "never asked"})
    assert asked.answered("l4", "a", {"id": "1", "answer": [1]})
    assert not asked.answered("l4", "a", {"id": "1", "answer": "again"})
    assert await question == [1]


async def test_questions_that_come_between_two_polls_wait_for_the_next() -> None:
    asked = Questions()
    assert await asked.poll("l4", "a", 0, alive) == []
    both = [asyncio.ensure_future(asked.ask("l4", "a", kind)) for kind in ("one", "two")]
    await asyncio.sleep(0)
    found = await asked.poll("l4", "a", LONG_S, alive)
    assert [each["kind"] for each in found] == ["one", "two"]
    for each in found:
        asked.answered("l4", "a", {"id": each["id"], "answer": each["kind"]})
    assert await asyncio.gather(*both) == ["one", "two"]


async def test_the_newest_poll_gets_the_question_and_a_dead_one_none() -> None:
    asked = Questions()
    older, newer = await polled(asked), await polled(asked)
    assert await older == []
    question = asyncio.ensure_future(asked.ask("l4", "a", "x"))
    assert len(await newer) == 1
    asked.answered("l4", "a", {"id": "1", "answer": None})
    assert await question is None
    dead = asyncio.ensure_future(asked.poll("l4", "a", LONG_S, lambda: False))
    await asyncio.sleep(0)
    question = asyncio.ensure_future(asked.ask("l4", "a", "y"))
    assert await dead == []
    assert [each["kind"] for each in await asked.poll("l4", "a", LONG_S, alive)] == ["y"]
    asked.answered("l4", "a", {"id": "2", "error": "no"})
    with pytest.raises(RefusedError, match="a: no"):
        await question


async def test_who_is_not_there_is_not_asked_and_who_is_silent_is_waited_for_in_vain() -> None:
    now = 100.0
    asked = Questions(lambda: now)
    with pytest.raises(NotAskedError, match="older release"):
        await asked.ask("l4", "a", "x")
    await asked.poll("l4", "a", 0, alive)
    with pytest.raises(NoAnswerError, match=r"a did not answer within 0.01 s"):
        await asked.ask("l4", "a", "x", timeout_s=0.01)
    assert await asked.poll("l4", "a", 0, alive) == [], "what nobody waits for any more is not delivered"
    assert asked.nodes("l4") == ("a",)
    now += questions.AWAY_AFTER_S
    assert asked.nodes("l4") == ()
    found = await asked.ask_all([("l4", "a"), ("l4", "b")], "x")
    assert {name: type(why) for (_, name), why in found.items()} == {"a": NotAskedError, "b": NotAskedError}


async def test_the_number_and_the_size_of_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "OPEN_OF_A_NODE", 2)
    asked = Questions()
    await asked.poll("l4", "a", 0, alive)
    await asked.poll("l4", "b", 0, alive)
    with pytest.raises(QuestionError, match="may have"):
        await asked.ask("l4", "a", "x", {"text": "y" * 20_000})
    some = [asyncio.ensure_future(asked.ask("l4", "a", "x", timeout_s=0.05)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QuestionError, match="too many"):
        await asked.ask("l4", "a", "x")
    other = asyncio.ensure_future(asked.ask("l4", "b", "x", timeout_s=0.05))
    for each in (*some, other):
        with pytest.raises(NoAnswerError):
            await each
    with pytest.raises(NoAnswerError):  # there is room again
        await asked.ask("l4", "a", "x", timeout_s=0.01)


async def test_closing_ends_polls() -> None:
    asked = Questions()
    poll = await polled(asked)
    asked.close()
    assert await poll == []
    assert await asked.poll("l4", "a", LONG_S, alive) == []


# -- over the link


@pytest.fixture
async def plane(authority: Authority, tmp_path: Path) -> AsyncIterator[tuple[ControlPlane, str]]:
    store = await SqliteStore.open(tmp_path / "control.db")
    plane = await ControlPlane.load(store)
    runner = web.AppRunner(node_api.application(plane), shutdown_timeout=0.1)
    await runner.setup()
    context = Identity.load(authority.issue("control", "c")).server_context(node_api.ROLES)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield plane, f"https://127.0.0.1:{runner.addresses[0][1]}"
    await plane.close()
    await runner.cleanup()
    await store.close()


Handlers = Mapping[str, Callable[[dict[str, object]], object | Awaitable[object]]]


@asynccontextmanager
async def linked(
    plane: ControlPlane, url: str, identity: Identity, state: Path, handlers: Handlers
) -> AsyncIterator[None]:
    async def apply(_: Model, __: int) -> None:
        return

    link = ControlLink(url=url, identity=identity, state=state, apply=apply, report=dict, answers=handlers)
    tasks = Tasks()
    tasks.spawn(link.run(), "link")
    try:
        async with asyncio.timeout(LONG_S):
            while not plane.questions.takes_questions(identity.role, identity.name):
                await asyncio.sleep(0.01)
        yield
    finally:
        await tasks.close()
        await asyncio.sleep(0.02)  # aiohttp closes TLS transports in the next turns


async def test_a_node_answers_over_its_link(
    plane: tuple[ControlPlane, str], authority: Authority, tmp_path: Path
) -> None:
    async def slow(_: dict[str, object]) -> object:
        await asyncio.Event().wait()
        return None

    def fail(_: dict[str, object]) -> object:
        raise ValueError("cannot look")

    def large(_: dict[str, object]) -> object:
        return "x" * (questions.ANSWER_LIMIT_BYTES + 1)

    handlers: Handlers = {"echo": lambda said: {"heard": said}, "slow": slow, "fail": fail, "large": large}
    control, url = plane
    identity = Identity.load(authority.issue("l7", "l7-1"))
    async with asyncio.timeout(2 * LONG_S), linked(control, url, identity, tmp_path / "state", handlers):
        ask = control.questions.ask
        assert await ask("l7", "l7-1", "echo", {"a": [1]}, LONG_S) == {"heard": {"a": [1]}}
        several = [ask("l7", "l7-1", "echo", {"n": number}, LONG_S) for number in range(6)]
        assert await asyncio.gather(*several) == [{"heard": {"n": number}} for number in range(6)]
        for kind, why in (
            ("fail", "l7-1: fail: cannot look"),
            ("large", "ask for less"),
            ("other", "'other' are not known here; known: echo, fail, large, slow"),
        ):
            with pytest.raises(RefusedError, match=why):
                await ask("l7", "l7-1", kind, timeout_s=LONG_S)
        with pytest.raises(QuestionError, match=r"within 0.3 s|in time"):
            await ask("l7", "l7-1", "slow", timeout_s=0.3)


async def test_an_answer_that_is_none_is_refused(plane: tuple[ControlPlane, str], authority: Authority) -> None:
    _, url = plane
    context = Identity.load(authority.issue("l4", "l4-1")).client_context("control")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        for body, status in ((b"{", 400), (b"[]", 400), (b'{"id": "1"}', 400), (b'{"id": "1", "answer": 2}', 204)):
            async with session.post(f"{url}/v1/node/answer", data=body) as response:
                assert response.status == status, body
        async with session.get(f"{url}/v1/node/questions?wait=nan") as response:
            assert response.status == 400
        async with session.get(f"{url}/v1/node/questions?wait=0") as response:
            assert response.status == 204
    await asyncio.sleep(0.02)


async def test_a_control_plane_of_an_older_release_is_left_alone(authority: Authority, tmp_path: Path) -> None:
    asked: list[str] = []

    async def unknown(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPNotFound

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", unknown)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = Identity.load(authority.issue("control", "old")).server_context({"l4"})
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    context_of_node = Identity.load(authority.issue("l4", "l4-2")).client_context("control")
    answering = Answering({})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context_of_node)) as session:
        url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await answering.run(session, url)
    assert asked == ["/v1/node/questions"]
    await asyncio.sleep(0.02)
    await runner.cleanup()
