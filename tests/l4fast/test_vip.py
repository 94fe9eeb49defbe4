from __future__ import annotations

from dataclasses import replace

from core.model import Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.vip import misplaced, missing, routes, unreachable, vips


def service(listener: str, vip: str, port: int) -> L4Service:
    return L4Service(listener, vip, port, "tcp", Mode.NAT, Scheduler.WRR, (), None, 900)


def served(listener: str, vip: str, mode: Mode, address: str) -> L4Service:
    return replace(service(listener, vip, 80), mode=mode, reals=(Real(address, 80, 100, 80),))


SERVICES = (service("a", "10.1.0.2", 80), service("b", "10.1.0.1", 80), service("c", "10.1.0.2", 81))


def test_vips_once_in_order() -> None:
    assert vips(SERVICES) == ("10.1.0.2", "10.1.0.1")
    assert vips(()) == ()


def test_routes() -> None:
    assert routes(SERVICES, ["10.0.9.1"], ["10.0.0.5", "10.0.0.6", "fd00::5"]) == (
        "ip route replace 10.1.0.2/32 via 10.0.0.5",
        "ip route replace 10.1.0.1/32 via 10.0.0.5",
        "ip route replace 10.0.9.1/32 via 10.0.0.5",
    )


def test_routes_of_ipv6() -> None:
    both = (*SERVICES[:1], service("d", "2001:db8::1", 80))
    assert routes(both, ["2001:db8:9::1"], ["10.0.0.5", "fd00::5", "fd00::6"]) == (
        "ip route replace 10.1.0.2/32 via 10.0.0.5",
        "ip -6 route replace 2001:db8::1/128 via fd00::5",
        "ip -6 route replace 2001:db8:9::1/128 via fd00::5",
    )
    assert routes(both, [], ["10.0.0.5"]) == ("ip route replace 10.1.0.2/32 via 10.0.0.5",)
    assert routes(both, [], []) == ()


def test_misplaced() -> None:
    assert misplaced((service("d", "2001:db8::1", 80),), {"2001:db8::1"}, set()) == ("2001:db8::1",)
    assert misplaced(SERVICES, {"10.0.0.5", "10.1.0.1"}, set()) == ("10.1.0.1",)
    assert misplaced(SERVICES, {"10.0.0.5"}, set()) == ()


def test_a_server_on_the_node_needs_the_vip() -> None:
    of = (*SERVICES, served("e", "10.1.0.1", Mode.DR, "10.0.0.5"), served("f", "10.1.0.3", Mode.NAT, "10.0.0.5"))
    here = {"10.0.0.5"}
    assert missing(of, {"10.0.0.5"}, here) == ("10.1.0.1",)
    assert missing(of, {"10.0.0.5", "10.1.0.1"}, here) == ()
    assert missing(of, {"10.0.0.5"}, set()) == ()
    assert misplaced(of, {"10.0.0.5", "10.1.0.1", "10.1.0.3"}, here) == ("10.1.0.3",)
    assert unreachable(of, here) == (("f", "10.0.0.5", Mode.NAT),)
    assert unreachable(of, set()) == ()
