from __future__ import annotations

from core.model import Mode, Scheduler
from core.resolve import L4Service
from l4fast.vip import misplaced, routes, vips


def service(listener: str, vip: str, port: int) -> L4Service:
    return L4Service(listener, vip, port, "tcp", Mode.NAT, Scheduler.WRR, (), None, 900)


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
    assert misplaced((service("d", "2001:db8::1", 80),), {"2001:db8::1"}) == ("2001:db8::1",)
    assert misplaced(SERVICES, {"10.0.0.5", "10.1.0.1"}) == ("10.1.0.1",)
    assert misplaced(SERVICES, {"10.0.0.5"}) == ()
