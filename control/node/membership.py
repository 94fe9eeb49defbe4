"""A node as a member of the cluster: it renews its identity in time, and does what the control plane orders.

Two loops beside the link's. One waits for *orders* (`GET /v1/node/orders`, a long poll): which nodes are refused from
now on, and what drains. The other renews the identity when two thirds of its life are over: a new key is made here, and
the control plane certifies it. Until that has worked, it is tried again and again, and the reports say so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, Final

import aiohttp

from control.node.identity import Identity, IdentityError
from control.node.key_request import fresh_key, request_for
from core.model import Server

log = logging.getLogger(__name__)

POLL_TIMEOUT: Final = aiohttp.ClientTimeout(total=40, sock_connect=3)  # the answer is due within 25 s
RENEW_TIMEOUT: Final = aiohttp.ClientTimeout(total=15, sock_connect=3)
WAIT_S: Final = 25.0
AGAIN_S: Final = (1.0, 60.0)  # the first delay and the longest
LOOK_S: Final = 3600.0  # how long to sleep at most: clocks are set
ANSWER_LIMIT_BYTES: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Orders:
    """What the control plane wants of a node besides its configuration.

    `drain`: since when this node is to take nothing new, in Unix time; 0: it is not to drain.
    """

    drain: float = 0.0
    least: Mapping[str, int] = field(default_factory=dict)  # see control.node.identity
    members: Mapping[str, tuple[Server, ...]] = field(default_factory=dict)  # of availability groups, registered

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Orders:
        """From JSON. Raises ValueError, KeyError, TypeError or AttributeError."""
        least = {str(node): int(number) for node, number in document.get("least", {}).items()}
        rows = document.get("members", {})
        members = {str(group): tuple(Server(*row) for row in of) for group, of in rows.items()}
        return cls(float(document["drain"]), least, members)

    def kept(self) -> dict[str, object]:
        """For the next start, as `of` reads it; `least` the identity keeps."""
        rows = {group: [list(astuple(each)) for each in of] for group, of in self.members.items()}
        return {"drain": self.drain, "members": rows}


class Membership:
    """`url` is where the control plane is reached now; `obey` gets each new order, also the first.

    `failed` is called where nobody answers there.
    """

    def __init__(
        self,
        identity: Identity,
        url: Callable[[], str],
        obey: Callable[[Orders], None] = lambda _: None,
        failed: Callable[[], object] = lambda: None,
    ) -> None:
        self._identity = identity
        self._url = url
        self._obey = obey
        self._failed = failed
        self._problem = ""

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Until cancelled. `session` presents the identity."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_orders(session), name="control-orders")
            group.create_task(self._renew_in_time(session), name="identity-renewal")
            group.create_task(self._identity.follow(), name="identity-directory")

    def report(self) -> dict[str, object]:
        """For the node's reports."""
        return {"ends": self._identity.ends, "problem": self._problem}

    # -- orders

    async def _follow_orders(self, session: aiohttp.ClientSession) -> None:
        after, delay_s = "", AGAIN_S[0]
        while True:
            try:
                answer = await self._poll(session, after)
            except (
                aiohttp.ClientError,
                OSError,
                TimeoutError,
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
            ) as error:
                log.debug("no orders: %r", error)
                self._failed()
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                delay_s = min(delay_s * 2, AGAIN_S[1] / 6)
                continue
            delay_s = AGAIN_S[0]
            if answer is not None:
                after, orders = answer
                self._take(orders)

    async def _poll(self, session: aiohttp.ClientSession, after: str) -> tuple[str, Orders] | None:
        params = {"after": after, "wait": f"{WAIT_S:.1f}"}
        async with session.get(f"{self._url()}/v1/node/orders", params=params, timeout=POLL_TIMEOUT) as response:
            if response.status == 204:
                return None
            response.raise_for_status()
            document = json.loads(await bounded(response, ANSWER_LIMIT_BYTES))
        return str(document["revision"]), Orders.of(document)

    def _take(self, orders: Orders) -> None:
        try:
            self._identity.refuse(orders.least)
        except OSError as error:
            log.error("%s: cannot keep which identities are refused: %s", self._identity.directory, error.strerror)
        self._obey(orders)

    # -- the identity

    async def _renew_in_time(self, session: aiohttp.ClientSession) -> None:
        delay_s = AGAIN_S[0]
        while True:
            await asyncio.sleep(min(max(self._identity.renew_at - time.time(), 0.0), LOOK_S))
            if time.time() < self._identity.renew_at:
                continue
            why = await self._renew(session)
            if why != self._problem and why:
                log.error("the identity cannot be renewed: %s", why)
            self._problem = why
            if why:
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                delay_s = min(delay_s * 2, AGAIN_S[1])
            else:
                delay_s = AGAIN_S[0]

    async def _renew(self, session: aiohttp.ClientSession) -> str:
        """Why it did not work; empty: it did."""
        key = await asyncio.to_thread(fresh_key)
        body = {"request": request_for(key)}
        try:
            async with session.post(f"{self._url()}/v1/node/renew", json=body, timeout=RENEW_TIMEOUT) as response:
                document = json.loads(await bounded(response, ANSWER_LIMIT_BYTES))
                if response.status != 200:
                    return str(document.get("detail", response.status))
            before = self._identity.ends
            self._identity.replace(document["certificate"].encode(), key)
            if self._identity.ends <= before:
                return "the new certificate ends no later; give the control plane a longer --identity-lifetime"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError, IdentityError) as error:
            return f"{error or type(error).__name__}"
        log.info("identity renewed until %s", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._identity.ends)))
        return ""


async def bounded(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body. Raises ValueError where it is longer."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit_bytes:
            raise ValueError(f"the answer is longer than {limit_bytes} bytes")
    return bytes(body)
