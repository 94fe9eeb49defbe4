"""The rows of `bench l4` that count nanoseconds a packet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench import Row
from bench.l4.frames import ACK, FIN, SYN, TCP, UDP, frame, to_vip
from bench.l4.rig import (
    FULLNAT_PORT,
    LC_PORT,
    NAT_PORT,
    PORTS,
    STATELESS,
    WRR_PORT,
    Figures,
    Rig,
)
from core.model import Mode

# As multiples of the floor, by IP version.
ESTABLISHED_GOAL = {4: 1.6, 6: 2.0}
SYN_GOAL, FIRST_GOAL, SESSION_GOAL, STATELESS_GOAL = 2.0, 3.0, 8.0, 2.0


# Sessions are made once in a round: fewer flows than these are too few to be timed. They fit the half-open table.
ONCE = (1 << 13,)
# Of 1,024 flows each is in the half-open table; of 65,536 none is any more when it comes again.
OFTEN = (1 << 10, 1 << 16)


@dataclass(frozen=True)
class First:
    """A case of packets that find no session. `quick`: it is measured with many flows in quick runs too."""

    name: str
    port: int
    flags: int
    goal: float
    protocol: int = TCP
    flows: tuple[int, ...] = OFTEN
    after_syn: bool = False
    quick: bool = False


FIRSTS = (
    First("SYN, maglev", NAT_PORT, SYN, SYN_GOAL),
    First("SYN, wrr", WRR_PORT, SYN, SYN_GOAL, quick=True),
    First("first packet without session, maglev", NAT_PORT, ACK | FIN, FIRST_GOAL),
    First("session made by an ACK, maglev", NAT_PORT, ACK, SESSION_GOAL, flows=ONCE, quick=True),
    First("session made after a SYN, wrr", WRR_PORT, ACK, SESSION_GOAL, flows=ONCE, after_syn=True, quick=True),
    First("session made by UDP, lc of ten servers", LC_PORT, 0, SESSION_GOAL, UDP, flows=ONCE),
    First("session made by UDP, maglev", NAT_PORT, 0, SESSION_GOAL, UDP, flows=ONCE),
)


def rows(rig: Rig, *, quick: bool) -> Iterator[Row]:
    for count in (1 << 10, 1 << 16) if quick else (1, 1 << 10, 1 << 16, 1 << 20):
        few = quick and count > 1 << 10
        yield from _established(rig, count, (Mode.NAT,) if few else tuple(Mode))
        if not few:
            yield from _stateless(rig, count)
    yield _answers(rig)
    for case in FIRSTS:
        for count in case.flows:
            if count <= 1 << 10 or case.quick or not quick:
                yield _first(rig, case, count)


def _row(rig: Rig, name: str, count: int, figures: Figures, goal: float) -> Row:
    title = f"IPv{rig.version} {name}, {count:,} flow{'s' * (count > 1)}"
    return Row(title, "ns/packet", figures[0], "floor, established", figures[1], goal)


def _established(rig: Rig, count: int, modes: tuple[Mode, ...]) -> Iterator[Row]:
    clients, vip = rig.addresses.clients(count), rig.addresses.vip
    for mode in modes:
        opened = to_vip(clients, vip, FULLNAT_PORT, SYN) if mode is Mode.FULLNAT else None
        figures = rig.established(to_vip(clients, vip, PORTS[mode], ACK), mode, opened)
        yield _row(rig, f"established tcp {mode}", count, figures, ESTABLISHED_GOAL[rig.version])


def _stateless(rig: Rig, count: int) -> Iterator[Row]:
    clients, vip = rig.addresses.clients(count), rig.addresses.stateless_vip
    for mode, port in STATELESS.items():
        figures = rig.established(to_vip(clients, vip, port, ACK), mode)
        yield _row(rig, f"stateless tcp {mode}", count, figures, STATELESS_GOAL)


def _answers(rig: Rig) -> Row:
    count = 1024
    real = (rig.addresses.reals[4], 8000 + NAT_PORT)
    answers = [frame(real, client, flags=ACK) for client in rig.addresses.clients(count)]
    return _row(rig, "answer tcp nat", count, rig.established(answers, Mode.NAT), ESTABLISHED_GOAL[rig.version])


def _first(rig: Rig, case: First, count: int) -> Row:
    clients, vip = rig.addresses.clients(count), rig.addresses.vip
    now = to_vip(clients, vip, case.port, case.flags, case.protocol)
    before = to_vip(clients, vip, case.port, SYN) if case.after_syn else None
    figures = rig.first(now, before, count if case.flows == ONCE else rig.repeat)
    return _row(rig, case.name, count, figures, case.goal)
