"""The screen of `paifang top`: what stands where, at every size, and what stands out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.rates import Fill, Flow, Health, Node, Picture, Reason, View
from control.top_table import Line, Section, Sort, Style, number
from control.top_view import lines, text

WEB = Flow(
    packets_in=1500, packets_out=3000, bits_in=1.2e6, bits_out=36e6, new=12.5, refused=0, sessions=420, connections=None
)
MAIL = Flow(packets_in=10, packets_out=8, bits_in=5e3, bits_out=4e3, new=90, refused=2, sessions=10)
VIEW = View(
    total=WEB,
    packets=4510,
    drops=3,
    reasons={
        "tx_session": Reason(5_000_000, 1400),
        "tx_reply": Reason(9_000_000, 3100),
        "drop_bad_flags": Reason(70, 3),
        "drop_ttl": Reason(4, 0),
        "drop_no_port": Reason(0, 0),
        "event_warmed": Reason(8, 0),
    },
    listeners={"web": WEB, "mail": MAIL},
    servers={("web", "10.0.1.1:80"): WEB, ("web", "10.0.1.2:80"): replace(WEB, packets_in=9000)},
    health={
        "10.0.1.1:80": Health(2, 1, "refused"),
        "10.0.1.2:80": Health(2, 0, ""),
        "10.0.1.9:25": Health(2, 2, "late"),
    },
    tables={"sessions": {"4": Fill(90, 100), "6": Fill(0, 100)}, "half_open": {"4": Fill(1, 4)}},
)
NODES = (
    Node("l4-1", "l4", "in step", (), True, VIEW),
    Node("l4-2", "l4", "lagging", ("runs version 6, not 7",), True, replace(VIEW, drops=0, tables={})),
    Node("l7-1", "l7", "in step", (), False, View()),
)
PICTURE = Picture(7, NODES, VIEW)


def shown(width: int = 200, height: int | None = None, **options: object) -> list[str]:
    return text(lines(PICTURE, width=width, height=height, **options)).splitlines()  # type: ignore[arg-type]


def words(of: str, among: list[str]) -> list[str]:
    return next(line.split() for line in among if line.startswith(of))


def bad(line: Line) -> list[str]:
    return [part.strip() for part, style in line if style is Style.BAD]


def test_the_whole() -> None:
    assert shown(clock="12:00:00") == [
        "paifang top  2 L4 nodes  configuration 7  by packets  12:00:00",
        "",
        "NODE     STATE    PACKETS/S  BITS/S IN  BITS/S OUT  NEW/S  SESSIONS  DROPS/S  TABLE  HALF-OPEN",
        "l4 l4-1  in step      4.51k      1.20M       36.0M     12       420        3   90 %       25 %",
        "l4 l4-2  lagging      4.51k      1.20M       36.0M     12       420        0      -          -",
        "l7 l7-1  in step          -          -           -      -         -        -      -          -",
        "all                   4.51k      1.20M       36.0M     12       420        3",
        "l4-2: runs version 6, not 7",
        "",
        "VERDICT         PER SECOND  SINCE START",
        "drop_bad_flags           3           70",
        "tx_reply             3.10k        9.00M",
        "tx_session           1.40k        5.00M",
        "drop_ttl                 0            4",
        "event_warmed             0            8",
        "",
        "LISTENER  PACKETS/S IN    OUT  BITS/S IN    OUT  NEW/S  SESSIONS  REFUSED/S",
        "web              1.50k  3.00k      1.20M  36.0M     12       420          0",
        "mail                10      8      5.00k  4.00k     90        10          2",
        "",
        "SERVER       LISTENER  HEALTH    PACKETS/S IN    OUT  BITS/S IN    OUT  NEW/S  SESSIONS  WHY",
        "10.0.1.1:80  web       DOWN 1/2         1.50k  3.00k      1.20M  36.0M     12       420  refused",
        "10.0.1.9:25  -         DOWN                 -      -          -      -      -         -  late",
        "10.0.1.2:80  web       up               9.00k  3.00k      1.20M  36.0M     12       420  -",
    ]


def test_what_somebody_should_look_at_stands_out() -> None:
    found = [bad(line) for line in lines(PICTURE, width=200) if bad(line)]
    assert found == [
        ["3", "90 %"],
        ["lagging"],
        ["l4-2: runs version 6, not 7"],
        ["drop_bad_flags", "", "3", "", "70"],
        ["2"],
        ["DOWN 1/2"],
        ["DOWN"],
    ]


@pytest.mark.parametrize(
    ("sort", "listeners"),
    [
        (Sort.PACKETS, ["web", "mail"]),
        (Sort.BITS, ["web", "mail"]),
        (Sort.NEW, ["mail", "web"]),
        (Sort.SESSIONS, ["web", "mail"]),
        (Sort.DROPS, ["mail", "web"]),
        (Sort.NAME, ["mail", "web"]),
    ],
)
def test_orders(sort: Sort, listeners: list[str]) -> None:
    found = shown(sort=sort, only=Section.LISTENERS)
    assert [line.split()[0] for line in found[3:]] == listeners
    assert f"by {sort}" in found[0]


@pytest.mark.parametrize("section", list(Section)[:4])
def test_one_section_alone(section: Section) -> None:
    headers = [line.split()[0] for line in shown(only=section) if line[:4] in ("NODE", "VERD", "LIST", "SERV")]
    assert headers == [{"nodes": "NODE", "verdicts": "VERDICT", "listeners": "LISTENER", "servers": "SERVER"}[section]]


def test_a_narrow_screen_keeps_the_most_telling_columns() -> None:
    assert shown(60)[2].split("  ")[0] == "NODE"
    assert "HALF-OPEN" not in shown(90)[2]
    assert words("NODE", shown(40)) == ["NODE", "STATE", "PACKETS/S", "DROPS/S"]
    assert words("LISTENER", shown(40))[:3] == ["LISTENER", "PACKETS/S", "IN"]


def test_a_low_screen_shows_some_of_each_and_says_how_many_more() -> None:
    found = shown(height=20)
    assert [line.split()[0] for line in found if line[:4] in ("NODE", "VERD", "LIST", "SERV")] == [
        "NODE", "VERDICT", "LISTENER", "SERVER",
    ]  # fmt: skip
    assert any(line.startswith("… ") and line.endswith(" more") for line in found)
    hidden = sum(int(line.split()[1]) for line in found if line.startswith("… "))
    rows = 4 + 5 + 2 + 3
    assert hidden + len(found) - 1 - 4 * 2 - 1 - sum(line.startswith("… ") for line in found) == rows


@given(width=st.integers(0, 130), height=st.integers(1, 40), only=st.sampled_from([None, *Section]))
def test_it_fits_any_screen(width: int, height: int, only: Section | None) -> None:
    found = lines(PICTURE, width=width, height=height, only=only, notice="the control plane does not answer")
    assert len(found) <= height
    assert all(sum(len(part) for part, _ in line) <= width for line in found)


def test_nothing_yet() -> None:
    found = text(lines(Picture(0, (), View()), width=80, height=24, notice="waiting"))
    assert found.splitlines() == ["paifang top  no nodes  configuration 0  by packets", "waiting"]


def test_many_remarks_are_counted() -> None:
    troubled = replace(NODES[1], remarks=tuple(f"problem {n}" for n in range(9)))
    found = text(lines(Picture(7, (troubled,), View()), width=80)).splitlines()
    assert "l4-2: problem 2" in found
    assert "… 6 more: paifang status" in found


def test_what_a_node_says_does_not_command_the_terminal() -> None:
    evil = replace(NODES[1], remarks=("\x1b[2J\x07gone\n",), step="\x1b]0;x\x07")
    found = lines(Picture(7, (evil,), VIEW), width=80)
    assert all(part.isprintable() for line in found for part, _ in line)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"), (0, "0"), (0.04, "0.0"), (0.25, "0.2"), (9.94, "9.9"), (9.96, "10"), (12.4, "12"), (999.4, "999"),
        (999.6, "1.00k"), (1000, "1.00k"), (12_345, "12.3k"), (99_960, "100k"), (123_456, "123k"), (999_700, "1.00M"),
        (2.5e9, "2.50G"), (4e15, "4.00P"), (4e18, "4000P"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, expected: str) -> None:
    assert number(value) == expected
