"""What a request has to pass before it is forwarded, or answered as its rule says, in this order:

    access lists → limits → identity → what is answered here → forward

What is cheap and keeps out most comes first; who is not admitted learns nothing of what is behind it. A step is a
function of the `Case`: it may look at the clock of `Means` and change what `Means` keeps, and says one of

    None        go on
    Refusal     an error of ours; `lines` are further fields of it (Retry-After, WWW-Authenticate)
    Reply, Redirect   an answer that is no error
    Delay       wait so long, and go on with the next step
    Await       do this work, which takes its time and whose verdict is this step's

and may leave changes in the case, for the head that goes to the server (`request`) or comes from it (`response`).

An exchange makes a case of a request whose rule has demands (proxy/demands.py) and goes through STEPS; so it holds for
whatever the client speaks. Who adds something adds a field to `Demands` and a step here, in its place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from time import monotonic
from typing import Final, Protocol

from proxy.actions import Changes, Redirect, Reply, joined
from proxy.cors import is_preflight
from proxy.crowds import Crowds
from proxy.demands import Demands
from proxy.errors import Code
from proxy.message import RequestHead
from proxy.origin import Origin
from proxy.pages import Pages
from proxy.rates import Rates, client_address, client_prefix


def _nowhere(_: str, more: int = 1) -> None:
    """Where nobody counts."""


class Authenticator(Protocol):
    """Somebody who finds out who sends requests."""

    def ask(self, case: Case) -> Verdict:
        """What becomes of a request; whoever is admitted is noted in the case."""


@dataclass(slots=True)
class Means:
    """What steps have at hand in a worker: its clock, its counters, its limits (None: nothing is limited), and who
    finds out who sends requests, by name."""

    now: Callable[[], float] = monotonic
    count: Callable[[str], None] = _nowhere
    rates: Rates | None = None
    crowds: Crowds | None = None
    authenticators: Mapping[str, Authenticator] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request is answered with an error; `lines` are further fields, each with its CRLF."""

    code: Code
    lines: bytes = b""
    pages: Pages | None = None  # of its own


@dataclass(frozen=True, slots=True)
class Delay:
    """The request has to wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Await:
    """The verdict takes its time: `work` is to be called once, and what comes of it goes to `Exchange.decided`."""

    work: Callable[[], Awaitable[Verdict]]


Verdict = Refusal | Reply | Redirect | Delay | Await | None


@dataclass(slots=True)
class Case:
    """A request that something is demanded of. `target` is in normal form."""

    demands: Demands
    head: RequestHead
    target: bytes
    origin: Origin
    means: Means
    request: Changes | None = None
    response: Changes | None = None
    leave: list[Callable[[], None]] = field(default_factory=list)  # to be called when the request is over
    user: str = ""  # who sends it, as far as that is known: printable ASCII
    at: int = 0  # how many steps are done

    def identify(self, user: str, request: Changes, cookies: bytes = b"") -> None:
        """Who sends it is known: what the server is told in place of the client's own words, and lines for the answer
        to the client."""
        self.user = user
        self.request = request if self.request is None else joined(self.request, request)
        if cookies:
            told = Changes(frozenset(), cookies)
            self.response = told if self.response is None else joined(self.response, told)

    def go(self) -> Verdict:
        """Takes the steps that are left, as far as they say nothing."""
        while self.at < len(STEPS):
            step = STEPS[self.at]
            self.at += 1
            verdict = step(self)
            if verdict is not None:
                return verdict
        return None


def _sizes(case: Case) -> Verdict:
    """What the head says of itself and of the body. Of a body that does not say it, the exchange counts what comes."""
    demands = case.demands
    if case.head.size > demands.head_bytes:
        return Refusal(Code.HEAD_LARGE)
    if demands.body_bytes and case.head.block.length > demands.body_bytes:
        return Refusal(Code.BODY_LARGE)
    return None


def _access(case: Case) -> Verdict:
    """The rule's access list; that of the listener has been asked when the connection came."""
    guard = case.demands.access
    if guard is None:
        return None
    try:
        admitted = guard.admits(client_address(case.head, case.origin).decode("latin-1"))
    except ValueError:  # a trusted proxy says something that is no address
        admitted = False
    return None if admitted else Refusal(Code.ACCESS)


def _rates(case: Case) -> Verdict:
    """Requests a second: all limits let it through, or none counts it."""
    rates, means = case.demands.rates, case.means
    if not rates or means.rates is None:
        return None
    now = means.now()
    taken, delay_s = [], 0.0
    for rated in rates:
        rate = means.rates.of(rated.name)
        at = rate.at(case.head, case.target, case.origin, now) if rate is not None else -1
        if rate is None or at < 0:
            continue
        wait_s = rate.wait_s(at, now)
        if wait_s > rate.max_delay_s:
            if not rate.dry_run:
                return Refusal(Code.RATE, retry_after(wait_s))
            means.count("rate_limit_dry_runs")
            continue
        taken.append((rate, at))
        if wait_s > delay_s and not rate.dry_run:
            delay_s = wait_s
    for rate, at in taken:
        rate.take(at, now)
    if delay_s <= 0:
        return None
    means.count("delayed_requests")
    return Delay(delay_s)


def _crowds(case: Case) -> Verdict:
    """Requests at a time. After whatever may make it wait, so that nobody holds a place for a turn that is to come."""
    crowds, demands = case.means.crowds, case.demands
    if not demands.crowds or crowds is None:
        return None
    client = client_prefix(client_address(case.head, case.origin), 32, 64).decode("latin-1")
    for crowded in demands.crowds:
        place = crowds.of(crowded.name)
        if place is None:
            continue
        if place.full:
            return Refusal(Code.REQUESTS_FULL, retry_after(1))
        leave = place.enter(client, crowded.per_client)
        if leave is None:
            return Refusal(Code.CLIENT_FULL, retry_after(1))
        case.leave.append(leave)
    return None


def _preflight(case: Case) -> Verdict:
    """Browsers ask without credentials whether they may ask."""
    browsers = case.demands.browsers
    if browsers is None or browsers.cors is None or not is_preflight(case.head):
        return None
    granted = browsers.cors.preflight(case.head)
    return Refusal(Code.CORS) if granted is None else Reply.of(204, granted)


def _identity(case: Case) -> Verdict:
    """Who sends it."""
    name = case.demands.authentication
    if not name:
        return None
    authenticator = case.means.authenticators.get(name)
    return Refusal(Code.AUTHENTICATION) if authenticator is None else authenticator.ask(case)


def _maintenance(case: Case) -> Verdict:
    """Before identity: nobody has to say who he is to be told that it is closed."""
    closed = case.demands.maintenance
    if closed is None or closed.admits(case.head, case.target, client_address(case.head, case.origin)):
        return None
    again_s = closed.settings.retry_after_s
    return Refusal(Code.MAINTENANCE, retry_after(again_s) if again_s else b"", closed.pages)


def retry_after(seconds: float) -> bytes:
    """RFC 9110 §10.2.3, in whole seconds."""
    return b"Retry-After: %d\r\n" % max(ceil(seconds), 1)


STEPS: Final[tuple[Callable[[Case], Verdict], ...]] = (
    _sizes,
    _access,
    _rates,
    _crowds,
    # Identity; a browser's question about that comes before.
    _preflight,
    _maintenance,
    _identity,
)
