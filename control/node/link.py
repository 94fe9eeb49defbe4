"""The long-lived link of a node to the control plane.

Loops over one mutual-TLS connection pool. One follows the configuration by long poll: it asks for "anything but
version N" and is answered at once or after 25 s. Another reports every second what the node runs and how it fares. A
third one hands over what was counted (control/node/metering.py), and one answers questions (control/node/questions.py).

* A configuration is *applied* by the node or refused as a whole; refused, the old one stays, the reason is reported,
  and it is tried again now and then, since the cause may lie in the machine (a port in use) and not in the file.
* Of a version that follows the one before, only what has changed is sent and read (core/delta.py).
* With it, l7 nodes get the secret of sticky cookies, which no configuration shows.
* What has been applied is kept in STATE/config.json, what was ordered besides in STATE/orders.json (atomic, synced).
  A node that starts while the control plane is away begins with these, and runs on with what it has whenever the link
  breaks.
* The control plane is whoever bears a certificate of the role `control`; that is checked inside the handshake.
* Of several control nodes one is followed, and the next where it does not answer; all of them get the reports.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import aiohttp

from control.node.admin import Handler
from control.node.controls import Controls, ControlsError
from control.node.identity import Identity
from control.node.kept import Kept
from control.node.membership import Membership, Orders, bounded
from control.node.metering import Metering
from control.node.questions import Answering
from core.config import from_dict
from core.delta import DeltaError, patched
from core.encoding import Encoder
from core.errors import ConfigErrors
from core.model import Model, Server

log = logging.getLogger(__name__)

POLL_TIMEOUT = aiohttp.ClientTimeout(total=40, sock_connect=3)  # the answer is due within 25 s
REPORT_TIMEOUT = aiohttp.ClientTimeout(total=5)
CONFIG_LIMIT_BYTES = 1 << 26
SOFTWARE = version("paifang")
REPORT_EVERY_S = 1.0
REPORT_LONGEST_S = 2.5  # a node is silent after five
REPORT_SHARE = 0.05  # of a core, at most, for reports
BACKOFF_S = (0.2, 10.0)  # the first delay and the longest
RETRY_REJECTED_S = (5.0, 60.0)

Applier = Callable[[Model, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Given:
    """A configuration as the control plane or the copy gives it. `tag` is what the next delta is asked for by."""

    version: int = 0
    model: Model = field(default_factory=Model)
    tag: str = ""
    cookie_secret: bytes = field(default=b"", repr=False)


class LinkError(Exception):
    """The control plane answers, but not with what is asked for."""


class Backoff:
    """Delays that double from `first` to `longest`, each shortened by up to half at random so that nodes spread."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._delay = first

    def next(self) -> float:
        """The delay before the next attempt, in seconds."""
        delay, self._delay = self._delay, min(self._delay * 2, self._longest)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret

    def reset(self) -> None:
        """After a success."""
        self._delay = self._first


class ControlLink:
    """Follows the configuration and reports. `version` is the one that runs, 0 before the first.

    `url` may be several, with commas between. `apply` may raise to refuse a configuration; `report` gives JSON-able
    facts; `rest` is told since when the node is to take nothing new (Unix time, 0: it serves). `answers`: what the
    node answers, by kind (control/node/questions.py). Raises LinkError for a URL without https. The caller spawns `run`
    and cancels it.
    """

    def __init__(
        self,
        *,
        url: str,
        identity: Identity,
        state: Path,
        apply: Applier,
        report: Callable[[], dict[str, object]],
        take_cookie_secret: Callable[[bytes], None] | None = None,
        metering: Metering | None = None,
        take_members: Callable[[Mapping[str, tuple[Server, ...]]], None] | None = None,
        rest: Callable[[float], None] | None = None,
        answers: Mapping[str, Handler] | None = None,
    ) -> None:
        try:
            self._controls = Controls(url)
        except ControlsError as error:
            raise LinkError(str(error)) from None
        self.version = 0
        self.connected = False
        self._identity = identity
        self._copy = Kept(state / "config.json")
        self._encoder = Encoder()
        self._apply_model = apply
        self._report = report
        self._take_cookie_secret = take_cookie_secret
        self._metering = metering
        self._take_members = take_members
        self._rest = rest
        self._answering = Answering(answers) if answers else None
        self._orders = Orders()
        self._kept_orders = Kept(state / "orders.json")
        self._cookie_secret = b""
        self._model: Model | None = None
        self._rejected: tuple[int, Model, str] | None = None
        self._retry = Backoff(*RETRY_REJECTED_S)
        self._membership = Membership(identity, lambda: self._controls.url, self._obey)
        self._report_now = {each: asyncio.Event() for each in self._controls.urls}

    async def run(self) -> None:
        """Follow and report until cancelled."""
        self._copy.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._obey_again()
        connector = aiohttp.TCPConnector(ssl=self._identity.client_context("control"))
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            group.create_task(self._follow(session), name="control-follow")
            for url in self._controls.urls:
                group.create_task(self._report_forever(session, url), name=f"control-report {url}")
                if self._answering is not None:
                    group.create_task(self._answering.run(session, url), name=f"control-questions {url}")
            group.create_task(self._copy.run(), name="control-keep")
            group.create_task(self._kept_orders.run(), name="control-keep-orders")
            if self._metering is not None:
                delivering = self._metering.deliver_forever(session, lambda: self._controls.url)
                group.create_task(delivering, name="control-metering")
            group.create_task(self._membership.run(session), name="control-membership")

    async def _follow(self, session: aiohttp.ClientSession) -> None:
        backoff = Backoff(*BACKOFF_S)
        seen = Given()  # last, applied or refused
        while True:
            try:
                answer = await self._poll(session, seen)
            except (aiohttp.ClientError, OSError, TimeoutError, LinkError) as error:
                await self._on_poll_failure(error)
                if self._controls.failed():
                    await asyncio.sleep(backoff.next())
                continue
            if not self.connected:
                log.info("linked to the control plane at %s", self._controls.url)
            self.connected = True
            self._controls.answered()
            backoff.reset()
            if answer is not None:
                seen = answer
                self._hand_over(seen.cookie_secret)
                self._retry.reset()
                await self._apply(seen.model, seen.version)
                if self._model is None:
                    await self._apply_copy()
            elif self._rejected is not None:
                await self._apply(self._rejected[1], self._rejected[0])

    async def _poll(self, session: aiohttp.ClientSession, seen: Given) -> Given | None:
        """The configuration, its version and what comes with it, or None if it still is `seen`."""
        wait_s = 25.0 if self._rejected is None else min(25.0, self._retry.next())
        params = {"after": str(seen.version), "tag": seen.tag, "wait": f"{wait_s:.1f}"}
        url = self._controls.url
        async with session.get(f"{url}/v1/node/config", params=params, timeout=POLL_TIMEOUT) as response:
            if response.status == 204:
                return None
            try:
                body = await bounded(response, CONFIG_LIMIT_BYTES)
            except ValueError as error:
                raise LinkError(str(error)) from None
            if response.status != 200:
                raise LinkError(f"{url} answers {response.status}: {body[:200]!r}")
        return _parse(body, url, seen.model)

    def _hand_over(self, secret: bytes) -> None:
        """The secret of sticky cookies, to a node that wants it and has been given one."""
        if secret and self._take_cookie_secret is not None:
            self._cookie_secret = secret
            self._take_cookie_secret(secret)

    async def _on_poll_failure(self, error: Exception) -> None:
        if self.connected or self._model is None:
            log.warning("no configuration from %s: %s", self._controls.url, error or type(error).__name__)
        self.connected = False
        if self._model is None:
            await self._apply_copy()

    async def _apply(self, model: Model, version: int) -> None:
        """Hand what control wants to the node; keep a copy of what it takes, note why it refuses."""
        why = await self._take(model, version)
        self._rejected = None if why is None else (version, model, why)
        self._hurry_reports()
        if why is None:
            secret = self._cookie_secret
            self._copy.give(lambda: self._copy_of(model, version, secret))

    async def _take(self, model: Model, version: int) -> str | None:
        """Let the node run a configuration, and return why it does not."""
        if model != self._model:
            try:
                await self._apply_model(model, version)
            except Exception as error:
                why = str(error) or type(error).__name__
                log.error("configuration %d is refused, %d stays: %s", version, self.version, why)
                return why
        self._model, self.version = model, version
        log.info("configuration %d runs", version)
        return None

    def _copy_of(self, model: Model, version: int, cookie_secret: bytes) -> str:
        """To be called by one thread at a time."""
        secret = f', "cookie_secret": "{cookie_secret.hex()}"' if cookie_secret else ""
        return f'{{"version": {version}, "config": {self._encoder.encode(model)}{secret}}}'

    async def _apply_copy(self) -> None:
        try:
            data = await asyncio.to_thread(self._copy.path.read_bytes)
            kept = _parse(data, str(self._copy.path))
        except FileNotFoundError:
            return
        except (OSError, LinkError) as error:
            log.error("the last good configuration is lost: %s", error)
            return
        log.warning("starting with the configuration %d kept in %s", kept.version, self._copy.path)
        self._hand_over(kept.cookie_secret)
        why = await self._take(kept.model, kept.version)
        if why is not None and self._rejected is None:
            self._rejected = (kept.version, kept.model, why)
        self._hurry_reports()

    def _hurry_reports(self) -> None:
        for each in self._report_now.values():
            each.set()

    async def _report_forever(self, session: aiohttp.ClientSession, url: str) -> None:
        backoff, now = Backoff(REPORT_EVERY_S, BACKOFF_S[1]), self._report_now[url]
        headers, cost_s = {"Content-Type": "application/json"}, 0.0
        while True:
            if now.is_set():  # the change that it is about may be on its way to workers, and to other nodes here
                await asyncio.sleep(hurry_s(cost_s))
            now.clear()
            begun = time.thread_time()
            body = json.dumps(self._current_report()).encode()
            cost_s = time.thread_time() - begun
            try:
                async with session.post(
                    f"{url}/v1/node/report", data=body, headers=headers, timeout=REPORT_TIMEOUT
                ) as response:
                    response.raise_for_status()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                log.debug("cannot report: %s", error)
                delay_s = backoff.next()
            else:
                backoff.reset()
                delay_s = report_every_s(cost_s)
            try:
                async with asyncio.timeout(delay_s):  # not wait_for(), which loses cancellations in Python 3.11
                    await now.wait()
            except TimeoutError:
                continue

    def _current_report(self) -> dict[str, object]:
        rejected = self._rejected and {"version": self._rejected[0], "why": self._rejected[2]}
        facts = {**self._report(), "identity": self._membership.report(), "software": SOFTWARE}
        if self._metering is not None and (more := self._metering.problems):
            known = facts.get("problems")
            facts["problems"] = [*(known if isinstance(known, list) else ()), *more]
        return {"version": self.version, "rejected": rejected, "report": facts}

    def _obey(self, orders: Orders) -> None:
        """Hands over who has registered; has the node drain, or serve again; keeps both for the next start."""
        before, self._orders = self._orders, orders
        if self._take_members is not None:
            self._take_members(orders.members)
        if self._rest is not None and orders.drain != before.drain:
            self._rest(orders.drain)
            self._hurry_reports()
        if (orders.drain, orders.members) != (before.drain, before.members):
            self._kept_orders.give(lambda: json.dumps(orders.kept()))

    def _obey_again(self) -> None:
        """What was ordered before this process was started."""
        try:
            self._orders = Orders.of(json.loads(self._kept_orders.path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("%s: the last orders are lost: %r", self._kept_orders.path, error)
            return
        if self._take_members is not None and self._orders.members:
            self._take_members(self._orders.members)
        if self._rest is not None and self._orders.drain:
            log.warning("this node drains: `paifang undrain %s` has it serve again", self._identity.name)
            self._rest(self._orders.drain)


def report_every_s(cost_s: float) -> float:
    """How often a node reports whose last report took so much CPU time: one with 10,000 servers takes its time."""
    return min(max(REPORT_EVERY_S, cost_s / REPORT_SHARE), REPORT_LONGEST_S)


def hurry_s(cost_s: float) -> float:
    """How long a report of such a cost that is to follow a change waits for those whom it would hold up."""
    return min(4 * cost_s, REPORT_EVERY_S)


def _parse(data: bytes, source: str, base: Model | None = None) -> Given:
    """What control, or the copy, gives. `base` is what a delta of the answer begins with. Raises LinkError."""
    try:
        document = json.loads(data)
        version, secret = document["version"], bytes.fromhex(document.get("cookie_secret", ""))
        if "changes" in document and base is not None:
            model = patched(base, document["changes"])
        else:
            model = from_dict(document["config"], path=source)
    except (ValueError, KeyError, TypeError, AttributeError, ConfigErrors, DeltaError) as error:
        raise LinkError(f"{source}: not a configuration: {error}") from None
    if not isinstance(version, int) or version < 1:
        raise LinkError(f"{source}: {version!r} is no version")
    return Given(version, model, str(document.get("tag", "")), secret)
