"""Questions to nodes: the control plane asks, a node answers, over the link that the node has opened.

Each node keeps a long poll open (`GET /v1/node/questions`); it is answered at once with what is asked of that node, and
the node sends each answer by `POST /v1/node/answer`. Who answers is known by the link's certificate: an answer counts
for a question that was asked of that very node, and for no other. A question is delivered once, to the newest poll of
the node; whatever is lost on the way ends with its time.

Bounded are the questions that are open (of a node, and altogether), their size and that of the answers, and their time.
A node that does not poll is of an older release or not linked, which is said at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from control.node.questions import ANSWER_LIMIT_BYTES, LONGEST_S, QUESTION_LIMIT_BYTES

OPEN_OF_A_NODE: Final = 16
OPEN_AT_ALL: Final = 1024
NODES_REMEMBERED: Final = 10_000
AWAY_AFTER_S: Final = 5.0  # without a poll: one comes back at once when it was answered
Node = tuple[str, str]  # role, name


class QuestionError(Exception):
    """A question without an answer; the text says why."""


class NotAskedError(QuestionError):
    """The node does not take questions: it is not linked here, or of an older release."""


class NoAnswerError(QuestionError):
    """The node did not answer in time."""


class RefusedError(QuestionError):
    """The node answers that it cannot."""


@dataclass(slots=True)
class _Question:
    number: str
    node: Node
    document: Mapping[str, object]
    answer: asyncio.Future[Mapping[str, object]]


class Questions:
    """One per process; belongs to the event loop. `ask` is for everybody, the rest for the nodes' API."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._count = 0
        self._open: dict[str, _Question] = {}
        self._waiting: dict[Node, list[_Question]] = {}  # asked, and not delivered yet
        self._polls: dict[Node, asyncio.Future[None]] = {}  # the newest poll of each node
        self._seen: dict[Node, float] = {}  # when its last poll ended
        self._closed = False

    def takes_questions(self, role: str, name: str) -> bool:
        """Whether this node polls for questions here."""
        node = (role, name)
        return node in self._polls or self._clock() - self._seen.get(node, float("-inf")) < AWAY_AFTER_S

    def nodes(self, role: str) -> tuple[str, ...]:
        """The names of the nodes of a role that take questions here."""
        known = {name for of, name in (*self._polls, *self._seen) if of == role}
        return tuple(sorted(name for name in known if self.takes_questions(role, name)))

    async def ask(
        self, role: str, name: str, kind: str, arguments: Mapping[str, object] | None = None, timeout_s: float = 5.0
    ) -> object:
        """A node's answer, as JSON has it. Raises QuestionError: NotAsked, NoAnswer or Refused.

        `timeout_s` is for everything, LONGEST_S at most.
        """
        node, timeout_s = (role, name), min(timeout_s, LONGEST_S)
        if not self.takes_questions(role, name):
            raise NotAskedError(f"{name} does not take questions: it is not linked here, or of an older release")
        mine = sum(1 for each in self._open.values() if each.node == node)
        if mine >= OPEN_OF_A_NODE or len(self._open) >= OPEN_AT_ALL:
            raise QuestionError(f"too many questions are open ({mine} of {name}); ask again in a moment")
        self._count += 1
        number = str(self._count)
        document = {"id": number, "kind": kind, "arguments": dict(arguments or {}), "timeout_s": round(timeout_s, 3)}
        if len(json.dumps(document)) > QUESTION_LIMIT_BYTES:
            raise QuestionError(f"a question may have {QUESTION_LIMIT_BYTES} bytes")
        question = _Question(number, node, document, asyncio.get_running_loop().create_future())
        self._open[number] = question
        self._waiting.setdefault(node, []).append(question)
        self._wake(node)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await question.answer
        except TimeoutError:
            raise NoAnswerError(f"{name} did not answer within {timeout_s:g} s") from None
        finally:
            del self._open[number]
            if question in (waiting := self._waiting.get(node, [])):
                waiting.remove(question)
        if "error" in answer:
            raise RefusedError(f"{name}: {answer['error']}")
        return answer.get("answer")

    async def ask_all(
        self, nodes: Iterable[Node], kind: str, arguments: Mapping[str, object] | None = None, timeout_s: float = 5.0
    ) -> dict[Node, object | QuestionError]:
        """The answers of several nodes, or why there is none."""

        async def one(node: Node) -> object | QuestionError:
            try:
                return await self.ask(*node, kind, arguments, timeout_s)
            except QuestionError as error:
                return error

        wanted = list(nodes)
        return dict(zip(wanted, await asyncio.gather(*map(one, wanted)), strict=True))

    # -- the nodes' API

    async def poll(self, role: str, name: str, wait_s: float, alive: Callable[[], bool]) -> list[Mapping[str, object]]:
        """What is asked of a node, as soon as something is; empty after `wait_s`, or where a newer poll has come.

        `alive` says whether who polls is still there.
        """
        node, mine = (role, name), asyncio.get_running_loop().create_future()
        if (older := self._polls.get(node)) is not None and not older.done():
            older.set_result(None)
        self._polls[node] = mine
        try:
            if not self._waiting.get(node) and not self._closed:
                await asyncio.wait([mine], timeout=wait_s)
            if self._polls.get(node) is not mine or not alive():
                return []
            return [each.document for each in self._waiting.pop(node, [])]
        finally:
            self._seen.pop(node, None)  # so that the order is that of the last polls
            self._seen[node] = self._clock()
            if len(self._seen) > NODES_REMEMBERED:
                del self._seen[next(iter(self._seen))]
            if self._polls.get(node) is mine:
                del self._polls[node]

    def answered(self, role: str, name: str, answer: Mapping[str, object]) -> bool:
        """Takes an answer, `{"id", "answer"}` or `{"id", "error"}`; False where it is to no question (any more)."""
        question = self._open.get(str(answer.get("id")))
        if question is None or question.node != (role, name) or question.answer.done():
            return False
        question.answer.set_result(answer)
        return True

    def close(self) -> None:
        """Release those who poll."""
        self._closed = True
        for node in list(self._polls):
            self._wake(node)

    def _wake(self, node: Node) -> None:
        if (poll := self._polls.get(node)) is not None and not poll.done():
            poll.set_result(None)


__all__ = [
    "ANSWER_LIMIT_BYTES", "NoAnswerError", "Node", "NotAskedError", "QuestionError", "Questions", "RefusedError",
]  # fmt: skip
