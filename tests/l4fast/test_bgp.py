from __future__ import annotations

from l4fast.bgp import Answers, Neighbour, bfd_sessions, configuration, configured, protocols
from l4fast.shares import Share

CONFIGURATION = """\
# Written by paifang l4, and overwritten.
log stderr { info, remote, warning, error, auth, fatal, bug };
router id 10.0.0.11;
protocol device { scan time 1; }
protocol bfd { interface "*" { interval 100 ms; multiplier 3; }; }
protocol static vips4 {
    ipv4;
    route 10.0.9.1/32 blackhole;
    route 10.0.9.2/32 blackhole { bgp_path.prepend(65001); bgp_path.prepend(65001); };
    route 192.0.2.10/32 blackhole;
}
protocol static vips6 {
    ipv6;
    route 2001:db8::10/128 blackhole;
}
protocol bgp router1 {
    local as 65001;
    neighbor 10.0.0.1 as 65000;
    hold time 9;
    connect delay time 1;
    error wait time 1, 5;
    bfd on;
    graceful restart off;
    ipv4 {
        import none;
        export where source = RTS_STATIC;
        next hop self;
    };
}
protocol bgp router2 {
    local as 65001;
    neighbor fd00::1 as 65000;
    hold time 9;
    connect delay time 1;
    error wait time 1, 5;
    bfd on;
    graceful restart off;
    ipv6 {
        import none;
        export where source = RTS_STATIC;
        next hop self;
    };
}
"""
SHARES = (
    Share("10.0.9.1", 0, 3), Share("10.0.9.2", 2, 3), Share("192.0.2.10", 1, 3), Share("2001:db8::10", 2, 3),
)  # fmt: skip
NEIGHBOURS = (Neighbour("10.0.0.1", 65000), Neighbour("fd00::1", 65000))
POOLS = frozenset({"10.0.9.1", "10.0.9.2"})


def text(shares: tuple[Share, ...] = SHARES, password: str = "") -> str:
    return configuration(shares, POOLS, router_id="10.0.0.11", local_as=65001, neighbours=NEIGHBOURS, password=password)


def test_the_configuration() -> None:
    assert text() == CONFIGURATION


def test_without_addresses_the_sessions_stay() -> None:
    empty = text(())
    assert "route " not in empty
    assert empty.partition("protocol bgp router1")[2] == CONFIGURATION.partition("protocol bgp router1")[2]


def test_what_a_configuration_announces() -> None:
    assert configured(CONFIGURATION) == ("10.0.9.1", "10.0.9.2", "192.0.2.10", "2001:db8::10")
    assert configured(text(())) == ()


def test_a_password_is_each_sessions() -> None:
    assert text(password="s3cret").count('    password "s3cret";\n') == 2
    assert "password" not in text()


def test_the_longest_path_is_bounded() -> None:
    assert text((Share("10.0.9.2", 50, 99),)).count("prepend") == 8


def test_protocols() -> None:
    rows = [
        "Name       Proto      Table      State  Since         Info",
        "device1    Device     ---        up     11:31:22.930  ",
        "vips4      Static     master4    up     11:31:22.930  ",
        "router1    BGP        ---        up     11:31:26.935  Established   ",
        "router2    BGP        ---        start  2026-11-20 11:31:26.935  Active        Socket: No route to host",
        "router3    BGP        ---        down   11:31:26.935  ",
    ]
    assert protocols(rows) == {
        "router1": "Established", "router2": "Active Socket: No route to host", "router3": "down",
    }  # fmt: skip


def test_bfd_sessions() -> None:
    rows = [
        "bfd1:",
        "IP address                Interface  State      Since         Interval  Timeout",
        "10.0.0.1                  eth0       Up         2026-11-20 11:31:23.655    0.100    0.300",
        "fd00::1                   eth0       Down       11:31:23.655    1.000    0.000",
    ]
    assert bfd_sessions(rows) == {"10.0.0.1": "Up", "fd00::1": "Down"}


def test_an_answer_however_it_is_cut() -> None:
    data = b"1002-router1 BGP\n router2 BGP\n1002-router3 BGP\n0000 \n"
    lines = ["router1 BGP", "router2 BGP", "router3 BGP", ""]
    for size in (1, 3, len(data)):
        answers = Answers()
        done = [answers.receive_data(data[at : at + size]) for at in range(0, len(data), size)]
        assert (done[-1], any(done[:-1])) == (True, False)
        assert (answers.lines, answers.code) == (lines, 0)


def test_an_error_has_its_number() -> None:
    answers = Answers()
    assert answers.receive_data(b"0002-Reading configuration from x\n8002 x:3:1 syntax error\n")
    assert answers.code == 8002
    assert answers.lines == ["Reading configuration from x", "x:3:1 syntax error"]
