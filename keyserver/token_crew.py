"""A token's keys as seen from the process that talks to the network: which there are, from its crew's workers.

Each worker has a session of its own and is asked for the list, at the start and at each SIGHUP; a token does not tell
when its keys change. A PIN that was refused is not tried again until SIGHUP: tokens lock themselves after a few.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from control.node.tasks import Tasks
from keyserver import token_worker
from keyserver.crew import Crew, Hand
from keyserver.passphrases import Passphrases
from keyserver.token_keys import Token, TokenError

log = logging.getLogger(__name__)

LIST_TIMEOUT_S = 30.0  # devices take their time to log in
MAX_LINE_BYTES = 1 << 22

Listing = Mapping[bytes, tuple[str, str]]  # key id → (type, label)


class TokenCrew:
    """Opens `token` in each worker of `crew`."""

    def __init__(self, crew: Crew, token: Token, pin: Passphrases) -> None:
        self.crew = crew
        self.label = token.label
        self._order = token_worker.order(token, pin)
        self._refused = False
        self._tasks = Tasks()
        self._lock = asyncio.Lock()
        crew.fresh = self._equip_soon

    async def list(self) -> Listing:
        """What the workers have now; all are asked. Raises TokenError where none can tell."""
        async with self._lock:
            self._refused = False
            found: Listing | None = None
            problem = TokenError("it has no worker", "see the log")
            for hand in list(self.crew.hands):
                try:
                    found = await self._ask(hand)
                except TokenError as error:
                    problem = error
                    if error.final:
                        break
            if found is None:
                raise problem
            return found

    async def close(self) -> None:
        await self._tasks.close()

    def _equip_soon(self) -> None:
        self._tasks.spawn(self._equip(), "a token for a new worker")

    async def _equip(self) -> None:
        async with self._lock:
            for hand in [hand for hand in self.crew.hands if not hand.equipped]:
                if self._refused:
                    return
                try:
                    await self._ask(hand)
                except TokenError as error:
                    log.error("a new worker cannot use the token: %s", error)

    async def _ask(self, hand: Hand) -> Listing:
        """Raises TokenError; the worker is then replaced, unless its PIN was refused."""
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                answer = await self._exchange(hand)
            found = token_worker.listing(answer)
        except (OSError, TimeoutError, ValueError) as error:
            hand.kill()
            raise TokenError(
                f"its worker does not answer ({type(error).__name__})", "is it the right module?"
            ) from None
        except TokenError as error:
            self._refused = error.final
            if not error.final:
                hand.kill()
            raise
        hand.equipped = True
        return found

    async def _exchange(self, hand: Hand) -> bytes:
        loop = asyncio.get_running_loop()
        with hand.keys.dup() as sock:  # the worker may end meanwhile, and its own be closed
            sock.setblocking(False)
            await loop.sock_sendall(sock, self._order)
            answer = b""
            while not answer.endswith(b"\n"):
                data = await loop.sock_recv(sock, 1 << 16)
                answer += data
                if not data or len(answer) > MAX_LINE_BYTES:
                    raise OSError("cut short")
        return answer
