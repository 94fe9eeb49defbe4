"""What an L4 node probes, and what the answers mean for forwarding. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import cast

from control.node.probe import Target
from core.endpoints import endpoint
from core.resolve import L4Service

Real = tuple[str, int, str]  # address, port, "tcp" or "udp"
Key = tuple[str, int, str, int]  # a real, and which of its checks


def targets(services: Sequence[L4Service]) -> tuple[Target, ...]:
    """Every check of every real, once. A real of services with different checks has several.

    The number of the check, not its settings, is in the key: a real that is down stays down when its check is edited.
    """
    checks: dict[Real, dict[tuple[int, object], Target]] = {}
    for service in services:
        if service.check is None:
            continue
        for real in service.reals:
            name = (real.address, real.port, service.protocol)
            known = checks.setdefault(name, {})
            key: Key = (*name, len(known))
            known.setdefault(
                (real.check_port, service.check), Target(key, real.address, real.check_port, service.check)
            )
    return tuple(target for known in checks.values() for target in known.values())


def of_reals(watched: Iterable[Target], reals: Set[Real]) -> frozenset[Key]:
    """The keys of these reals' checks."""
    keys = cast("Iterable[Key]", (target.key for target in watched))
    return frozenset(key for key in keys if key[:3] in reals)


def down(states: Mapping[Key, tuple[bool, str]]) -> frozenset[Real]:
    """The reals that take no new sessions: those of which a check says so."""
    return frozenset((address, port, protocol) for (address, port, protocol, _), (up, _) in states.items() if not up)


def spoken(states: Mapping[Key, tuple[bool, str]], unasked: str) -> bool:
    """Whether every target has answered, or failed to, at least once."""
    return all(why != unasked for _, why in states.values())


def longest_round_s(watched: Iterable[Target]) -> float:
    """By when every target has been probed once: it starts within its interval and answers within its timeout."""
    return max((target.check.interval_s + target.check.timeout_s for target in watched), default=0.0)


def report(states: Mapping[Key, tuple[bool, str]]) -> list[dict[str, object]]:
    """Each real as `ADDRESS:PORT/PROTOCOL` with its health and why. Of several checks the failing one speaks."""
    result: dict[str, dict[str, object]] = {}
    for (address, port, protocol, _), (up, why) in states.items():
        server = f"{endpoint(address, port)}/{protocol}"
        if server not in result or not up:
            result[server] = {"server": server, "healthy": up, "why": why}
    return list(result.values())
