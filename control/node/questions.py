"""A node's side of the questions that the control plane asks (control/questions.py).

Handlers are registered by kind, as those of the administrator's socket are (control/node/admin.py): arguments in, a
document out. They only look; nothing that changes something is asked this way. Every control node is followed, so that
each may ask. One that does not know of questions is left alone for a while.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Mapping
from typing import Any, Final

import aiohttp

from control.node.admin import Handler
from control.node.membership import bounded

log = logging.getLogger(__name__)

QUESTION_LIMIT_BYTES: Final = 16_384
ANSWER_LIMIT_BYTES: Final = 4 << 20
POLL_LIMIT_BYTES: Final = 1 << 20
LONGEST_S: Final = 30.0  # for an answer
AT_A_TIME: Final = 8
WAIT_S: Final = 25.0
POLL_TIMEOUT: Final = aiohttp.ClientTimeout(total=40, sock_connect=3)
ANSWER_TIMEOUT: Final = aiohttp.ClientTimeout(total=15, sock_connect=3)
AGAIN_S: Final = (0.2, 10.0)  # the first delay and the longest
UNKNOWN_AGAIN_S: Final = 60.0  # where the control node is of an older release


class Answering:
    """Answers what control nodes ask, by `handlers`."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._busy = 0

    async def run(self, session: aiohttp.ClientSession, url: str) -> None:
        """Follow one control node until cancelled. `session` presents the node's identity."""
        delay_s = AGAIN_S[0]
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    questions = await self._poll(session, url)
                except aiohttp.ClientResponseError as error:
                    pause_s = UNKNOWN_AGAIN_S if error.status == 404 else AGAIN_S[1]
                    log.debug("%s: no questions: %s", url, error)
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                    continue
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
                    log.debug("%s: no questions: %r", url, error)
                    await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                    delay_s = min(delay_s * 2, AGAIN_S[1])
                    continue
                delay_s = AGAIN_S[0]
                for question in questions:
                    group.create_task(self._reply(session, url, question), name="answer")

    async def _poll(self, session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
        params = {"wait": f"{WAIT_S:.1f}"}
        async with session.get(f"{url}/v1/node/questions", params=params, timeout=POLL_TIMEOUT) as response:
            if response.status == 204:
                return []
            response.raise_for_status()
            document = json.loads(await bounded(response, POLL_LIMIT_BYTES))
        return [dict(each) for each in document["questions"]]

    async def _reply(self, session: aiohttp.ClientSession, url: str, question: Mapping[str, Any]) -> None:
        body = json.dumps({"id": question.get("id"), **await self.answer(question)}, default=str).encode()
        if len(body) > ANSWER_LIMIT_BYTES:
            why = f"the answer has {len(body)} bytes, {ANSWER_LIMIT_BYTES} at most; ask for less"
            body = json.dumps({"id": question.get("id"), "error": why}).encode()
        headers = {"Content-Type": "application/json"}
        try:
            async with session.post(
                f"{url}/v1/node/answer", data=body, headers=headers, timeout=ANSWER_TIMEOUT
            ) as response:
                response.raise_for_status()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.debug("%s: an answer is lost: %r", url, error)

    async def answer(self, question: Mapping[str, Any]) -> dict[str, object]:
        """`{"answer": …}`, or `{"error": TEXT}`."""
        kind, arguments = question.get("kind"), question.get("arguments", {})
        if not isinstance(kind, str) or not isinstance(arguments, dict):
            return {"error": "this is no question"}
        if (handler := self._handlers.get(kind)) is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            return {"error": f"questions of the kind {kind!r} are not known here; known: {known}"}
        if self._busy >= AT_A_TIME:
            return {"error": f"{AT_A_TIME} questions are being answered; ask again in a moment"}
        self._busy += 1
        try:
            async with asyncio.timeout(min(float(question.get("timeout_s", LONGEST_S)), LONGEST_S)):
                found = handler(dict(arguments))
                return {"answer": await found if isinstance(found, Awaitable) else found}
        except TimeoutError:
            return {"error": f"{kind}: no answer in time"}
        except Exception as error:
            log.warning("the question %s cannot be answered: %r", kind, error)
            return {"error": f"{kind}: {error}"}
        finally:
            self._busy -= 1
