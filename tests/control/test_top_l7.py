"""The sections of `paifang top` about the L7 tier."""

from __future__ import annotations

import pytest

from control.rates import Node, Picture, View
from control.rates_l7 import Load, Traffic, Upstream, together
from control.top_l7 import milliseconds
from control.top_table import Line, Section, Sort, Style
from control.top_view import lines, sections, text

WEB = Load(1500, (0, 0, 1400, 50, 48, 2), (1500.0,), 420, 12, 9, 0.0)
API = Load(10, (0, 0, 10, 0, 0, 0), (0.0,) * 9 + (10.0,), 3, 0, 0, 4)
ONE = Traffic(WEB, {"web": WEB, "api": API}, {"shop": Load(9, (0, 0, 9, 0, 0, 0), (9.0,))}, {
    ("shop", "10.0.1.1:80"): Upstream(700, 0, 2, 3, 4), ("shop", "10.0.1.2:80"): Upstream(0, 0.5, 0, 0, 0, 2),
    ("shop", "10.0.1.3:80"): Upstream(0, 0, 0, down=True),
})  # fmt: skip
NODES = tuple(Node(f"l7-{n}", "l7", "in step", (), False, View(), ONE) for n in (1, 2))
PICTURE = Picture(7, NODES, View(), together([ONE, ONE]))


def shown(only: Section, sort: Sort = Sort.PACKETS) -> list[str]:
    return text(lines(PICTURE, width=200, only=only, sort=sort)).splitlines()[2:]


def bad(line: Line) -> list[str]:
    return [part.strip() for part, style in line if style is Style.BAD]


def test_nodes_and_all_together() -> None:
    assert shown(Section.L7_NODES) == [
        "L7 NODE  REQUESTS/S    2XX  3XX  4XX  5XX     P50     P99  CONNECTIONS  TLS/S  RESUMED  TLS FAILED/S",
        "l7-1          1.50k  1.40k   50   48    2  0.5 ms  1.0 ms          420     12     75 %             0",
        "l7-2          1.50k  1.40k   50   48    2  0.5 ms  1.0 ms          420     12     75 %             0",
        "all           3.00k  2.80k  100   96    4  0.5 ms  1.0 ms          840     24     75 %             0",
    ]


def test_listeners_and_services() -> None:
    assert shown(Section.L7_LISTENERS) == [
        "L7 LISTENER  REQUESTS/S    2XX  3XX  4XX  5XX     P50     P99  CONNECTIONS  TLS/S  RESUMED  TLS FAILED/S",
        "web               3.00k  2.80k  100   96    4  0.5 ms  1.0 ms          840     24     75 %             0",
        "api                  20     20    0    0    0  750 ms  995 ms            6      0        -             8",
    ]
    assert shown(Section.L7_SERVICES) == [
        "BACKEND SERVICE  REQUESTS/S  2XX  3XX  4XX  5XX     P50     P99",
        "shop                     18   18    0    0    0  0.5 ms  1.0 ms",
    ]


def test_servers_that_are_out_stand_first() -> None:
    assert shown(Section.L7_SERVERS) == [
        "L7 SERVER    BACKEND SERVICE  STATE         REQUESTS/S  5XX/S  FAILURES/S  IN FLIGHT  IDLE",
        "10.0.1.2:80  shop             EJECTED by 4           0      0           1          0     0",
        "10.0.1.3:80  shop             DOWN                   0      0           0          0     0",
        "10.0.1.1:80  shop             up                 1.40k      4           0          6     8",
    ]


def test_what_somebody_should_look_at_stands_out() -> None:
    found = [
        bad(line)
        for only in (Section.L7_LISTENERS, Section.L7_SERVERS)
        for line in lines(PICTURE, width=200, only=only)
    ]
    assert [each for each in found if each] == [["4"], ["8"], ["EJECTED by 4", "1"], ["DOWN"]]


@pytest.mark.parametrize(
    ("sort", "first"), [(Sort.SESSIONS, "web"), (Sort.NEW, "web"), (Sort.DROPS, "web"), (Sort.NAME, "api")]
)
def test_orders(sort: Sort, first: str) -> None:
    assert shown(Section.L7_LISTENERS, sort)[1].split()[0] == first


def test_sections_without_rows_are_passed_over() -> None:
    assert sections(PICTURE) == [
        Section.NODES, Section.L7_NODES, Section.L7_LISTENERS, Section.L7_SERVICES, Section.L7_SERVERS,
    ]  # fmt: skip
    assert sections(Picture(0, (), View())) == []
    assert text(lines(PICTURE, width=200)).startswith("paifang top  2 L7 nodes  configuration 7")


def test_a_node_that_has_just_started() -> None:
    node = Node("l7-1", "l7", "in step", (), False, View(), Traffic(Load(), {"web": Load(connections=3)}))
    found = text(lines(Picture(1, (node,), View(), together([node.traffic or Traffic()])), width=200)).splitlines()
    assert "L7 LISTENER  CONNECTIONS" in found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.04, "0.0 ms"),
        (0.4, "0.4 ms"),
        (9.94, "9.9 ms"),
        (12.3, "12 ms"),
        (999.4, "999 ms"),
        (3210, "3.2 s"),
    ],
)
def test_milliseconds(value: float | None, expected: str) -> None:
    assert milliseconds(value) == expected
