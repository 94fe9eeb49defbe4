"""What a rule, or its listener, asks of a request beyond forwarding it. Pure.

Made with the configuration, from a rule and its listener; None where nothing is asked for, which costs a request one
look at an attribute. `proxy/admission.py` goes through it, in its order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.model import Listener, Rule
from core.shaping import RateLimit
from proxy.browsers import Browsers


@dataclass(frozen=True, slots=True)
class Rated:
    """A limit and what it is called, on this node and in the memory that its workers share."""

    name: str
    limit: RateLimit


@dataclass(frozen=True, slots=True)
class Demands:
    """A field for each; empty where it is not asked for."""

    rates: tuple[Rated, ...] = ()
    browsers: Browsers | None = None

    @classmethod
    def of_listener(cls, listener: Listener) -> Demands | None:
        """What a listener asks of all its requests."""
        return _something(cls(rates_of("listener", listener), Browsers.of(listener)))

    @classmethod
    def of(cls, rule: Rule, listener: Demands | None) -> Demands | None:
        """What a rule asks besides, or instead."""
        base = listener or _NOTHING
        return _something(
            replace(
                base,
                rates=base.rates + rates_of("rule", rule),
                browsers=Browsers.over(base.browsers, rule),
            )
        )


_NOTHING = Demands()


def _something(demands: Demands) -> Demands | None:
    return None if demands == _NOTHING else demands


def rates_of(kind: str, owner: Rule | Listener) -> tuple[Rated, ...]:
    """The limits of an object, by names that no two objects share."""
    return tuple(Rated(f"{kind} {owner.name} rate {index}", limit) for index, limit in enumerate(owner.rate_limits))
