from __future__ import annotations

from dataclasses import replace

from control.node.probe import Target
from core.model import CheckType, HealthCheck, Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.health import down, longest_round_s, report, spoken, targets

TCP = HealthCheck()
HTTP = HealthCheck(type=CheckType.HTTP, interval_s=1, timeout_s=1)
A, B = Real("10.0.0.1", 80, 100, 80), Real("10.0.0.2", 80, 100, 8472)


def service(check: HealthCheck | None, *reals: Real, protocol: str = "tcp") -> L4Service:
    return L4Service("web", "10.1.0.1", 80, protocol, Mode.NAT, Scheduler.WRR, reals, check, 900)


def test_targets() -> None:
    assert targets([service(TCP, A, B)]) == (
        Target(("10.0.0.1", 80, "tcp", 0), "10.0.0.1", 80, TCP),
        Target(("10.0.0.2", 80, "tcp", 0), "10.0.0.2", 8472, TCP),
    )
    assert targets([service(None, A)]) == ()
    assert targets([]) == ()


def test_a_real_of_several_services_is_probed_once_for_each_different_check() -> None:
    keys = [
        t.key for t in targets([service(TCP, A), service(TCP, A), service(HTTP, A), service(TCP, A, protocol="udp")])
    ]
    assert keys == [("10.0.0.1", 80, "tcp", 0), ("10.0.0.1", 80, "tcp", 1), ("10.0.0.1", 80, "udp", 0)]


def test_an_edited_check_keeps_its_key() -> None:
    (before,) = targets([service(TCP, A)])
    (after,) = targets([service(replace(TCP, interval_s=9), A)])
    assert before.key == after.key
    assert before != after


STATES = {
    ("10.0.0.1", 80, "tcp", 0): (True, "connected"),
    ("10.0.0.1", 80, "tcp", 1): (False, "status 500"),
    ("10.0.0.2", 80, "tcp", 0): (True, "not probed yet"),
}


def test_one_failing_check_takes_a_real_down() -> None:
    assert down(STATES) == {("10.0.0.1", 80, "tcp")}
    assert report(STATES) == [
        {"server": "10.0.0.1:80/tcp", "healthy": False, "why": "status 500"},
        {"server": "10.0.0.2:80/tcp", "healthy": True, "why": "not probed yet"},
    ]


def test_ipv6_is_unambiguous() -> None:
    states = {("2001:db8::1", 80, "tcp", 0): (True, "connected"), ("2001:db8::1:80", 80, "tcp", 0): (True, "connected")}
    assert [row["server"] for row in report(states)] == ["[2001:db8::1]:80/tcp", "[2001:db8::1:80]:80/tcp"]


def test_the_first_round() -> None:
    assert spoken(STATES, "not probed yet") is False
    assert spoken(dict(list(STATES.items())[:2]), "not probed yet") is True
    assert longest_round_s(targets([service(HTTP, A), service(TCP, B)])) == 7.0
    assert longest_round_s(()) == 0.0
