"""What a rule, or its listener, asks of a request beyond forwarding it. Pure.

Made with the configuration, from a rule and its listener; None where nothing is asked for, which costs a request one
look at an attribute. `proxy/admission.py` goes through it, in its order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Final

from core.model import Listener, Rule
from core.resolve import Guard
from core.shaping import Mirror, RateLimit
from proxy.browsers import Browsers
from proxy.maintenance import Closed

HEAD_BYTES: Final = 65_536  # what may be asked for at most; see head.Limits


@dataclass(frozen=True, slots=True)
class Rated:
    """A limit and what it is called, on this node and in the memory that its workers share."""

    name: str
    limit: RateLimit


@dataclass(frozen=True, slots=True)
class Crowded:
    """How many requests there may be at a time; 0: any number. `name` as of a rate."""

    name: str
    most: int
    per_client: int


class Mirroring:
    """Which requests of a rule are copied: a percentage of them, as evenly as can be."""

    __slots__ = ("_due", "mirror")

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._due = 0.0

    def next(self) -> bool:
        """Whether this one is."""
        self._due += self.mirror.percent
        if self._due < 100 - 1e-6:
            return False
        self._due -= 100
        return True


@dataclass(frozen=True, slots=True)
class Demands:
    """A field for each; empty where it is not asked for.

    `quick_bytes`: a whole message of this length fulfils them all, so that the fast lane may have it; -1: none does.
    """

    access: Guard | None = None
    rates: tuple[Rated, ...] = ()
    crowds: tuple[Crowded, ...] = ()
    head_bytes: int = HEAD_BYTES
    body_bytes: int = 0
    browsers: Browsers | None = None
    authentication: str = ""
    maintenance: Closed | None = None
    mirroring: Mirroring | None = None
    quick_bytes: int = field(init=False, compare=False, default=-1)

    def __post_init__(self) -> None:
        sizes = ("head_bytes", "body_bytes", "quick_bytes")
        if not any(getattr(self, each.name) for each in fields(self) if each.name not in sizes):
            quick = min(self.head_bytes, self.body_bytes) if self.body_bytes else self.head_bytes
            object.__setattr__(self, "quick_bytes", quick)

    @classmethod
    def of_listener(cls, listener: Listener) -> Demands | None:
        """What a listener asks of all its requests."""
        return _something(
            cls(
                rates=rates_of("listener", listener),
                crowds=crowds_of("listener", listener),
                head_bytes=listener.max_head_bytes,
                body_bytes=listener.max_body_bytes,
                browsers=Browsers.of(listener),
                maintenance=Closed.of(listener.maintenance),
            )
        )

    @classmethod
    def of(cls, rule: Rule, listener: Demands | None, guard: Guard | None = None) -> Demands | None:
        """What a rule asks besides, or instead. `guard`: its access list."""
        base = listener or _NOTHING
        return _something(
            replace(
                base,
                access=guard,
                mirroring=Mirroring(rule.mirror) if rule.mirror is not None and rule.mirror.percent else None,
                rates=base.rates + rates_of("rule", rule),
                crowds=base.crowds + crowds_of("rule", rule),
                body_bytes=rule.max_body_bytes or base.body_bytes,
                browsers=Browsers.over(base.browsers, rule),
                authentication=rule.authentication,
                maintenance=base.maintenance if rule.maintenance is None else Closed.of(rule.maintenance),
            )
        )


_NOTHING: Final = Demands()


def _something(demands: Demands) -> Demands | None:
    return None if demands == _NOTHING else demands


def rates_of(kind: str, owner: Rule | Listener) -> tuple[Rated, ...]:
    """The limits of an object, by names that no two objects share."""
    return tuple(Rated(f"{kind} {owner.name} rate {index}", limit) for index, limit in enumerate(owner.rate_limits))


def crowds_of(kind: str, owner: Rule | Listener) -> tuple[Crowded, ...]:
    """The same of requests at a time."""
    if not owner.max_requests and not owner.max_requests_per_client:
        return ()
    return (Crowded(f"{kind} {owner.name} requests", owner.max_requests, owner.max_requests_per_client),)
