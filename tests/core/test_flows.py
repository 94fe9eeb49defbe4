"""Where flows go, against the numbers that the XDP program gives (tests/l4fast/test_explained.py has it itself)."""

from __future__ import annotations

import pytest

from core.flows import chosen, order, slot, takes
from core.model import Mode, Scheduler
from core.resolve import L4Service, Real

REALS = tuple(Real(f"10.0.0.{n}", 8080, 100, 8080) for n in (1, 2, 3))


def service(scheduler: Scheduler, reals: tuple[Real, ...] = REALS) -> L4Service:
    return L4Service("web", "192.0.2.1", 80, "tcp", Mode.NAT, scheduler, reals, None, 900)


@pytest.mark.parametrize(
    ("scheduler", "same"),
    [(Scheduler.SH, {"port", "vip", "protocol"}), (Scheduler.TCH, {"protocol"}), (Scheduler.MAGLEV, set())],
)
def test_a_hash_is_of_what_its_scheduler_says(scheduler: Scheduler, same: set[str]) -> None:
    def at(client: str = "198.51.100.7", port: int = 4242, vip: str = "192.0.2.1", protocol: str = "tcp") -> int:
        return slot((client, port), (vip, 80), protocol, scheduler, 1 << 31, 7)

    found = {"port": at(port=4243), "vip": at(vip="192.0.2.2"), "protocol": at(protocol="udp")}
    assert {name for name, where in found.items() if where == at()} == same
    assert at(client="198.51.100.8") != at()


def test_versions_and_seeds_are_told_apart() -> None:
    six = [slot(("2001:db8::7", 1), ("2001:db8::1", 80), "tcp", Scheduler.MAGLEV, 4099, seed) for seed in (0, 1)]
    four = [slot(("198.51.100.7", 1), ("192.0.2.1", 80), "tcp", Scheduler.MAGLEV, 4099, seed) for seed in (0, 1)]
    assert len({*six, *four}) == 4
    assert all(0 <= each < 4099 for each in (*six, *four))


def test_who_is_down_or_weighs_nothing_is_not_chosen() -> None:
    of = service(Scheduler.MAGLEV, (*REALS[:2], Real("10.0.0.3", 8080, 0, 8080)))
    down = {("10.0.0.1", 8080, "tcp")}
    assert [takes(of, real, down) for real in of.reals] == [False, True, False]
    found = {chosen(of, ("198.51.100.7", port), down, 0) for port in range(1, 50)}
    assert found == {REALS[1]}
    assert chosen(of, ("198.51.100.7", 1), {("10.0.0.1", 8080, "tcp"), ("10.0.0.2", 8080, "tcp")}, 0) is None


def test_the_order_of_turns() -> None:
    names = ["a", "b", "c"]
    assert sorted(order(Scheduler.WRR, names, [3, 1, 1], ())) == [0, 0, 0, 1, 2]
    assert list(order(Scheduler.RR, names, [3, 1, 0], ())) == [0, 1]
    assert list(order(Scheduler.RR, names, [3, 1, 1], [0])) == [1, 2]
    assert len(order(Scheduler.SH, names, [1, 1, 1], ())) == 4099
    assert len(order(Scheduler.SH, [str(n) for n in range(41)], [1] * 41, ())) == 65537
