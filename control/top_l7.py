"""The sections of `paifang top` about the L7 tier: nodes, listeners, backend services, servers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from control.rates import Picture
from control.rates_l7 import Load, Upstream
from control.top_table import NONE, Column, Row, Section, Sort, Table, number, telling

K = TypeVar("K")
V = TypeVar("V")

_LOAD: Final = (
    Column("REQUESTS/S", 9), Column("2XX", 5), Column("3XX", 2), Column("4XX", 6), Column("5XX", 8), Column("P50", 6),
    Column("P99", 7), Column("CONNECTIONS", 5), Column("TLS/S", 4), Column("RESUMED", 3), Column("TLS FAILED/S", 3),
)  # fmt: skip
_5XX, _TLS_FAILED = 4, 10  # among these


def nodes(picture: Picture, sort: Sort) -> Table:
    """L7 nodes, and all together where there are several."""
    found = {node.name: node.traffic.total for node in picture.nodes if node.traffic is not None}
    table = _loads(Section.L7_NODES, "L7 NODE", found, sort)
    if len(found) > 1:
        table.rows.append(_load("all", picture.traffic.total))
    return telling(table)


def listeners(picture: Picture, sort: Sort) -> Table:
    return telling(_loads(Section.L7_LISTENERS, "L7 LISTENER", picture.traffic.listeners, sort))


def services(picture: Picture, sort: Sort) -> Table:
    return telling(_loads(Section.L7_SERVICES, "BACKEND SERVICE", picture.traffic.services, sort))


def servers(picture: Picture, sort: Sort) -> Table:
    """Servers that are down or ejected stand first."""
    found = picture.traffic.servers
    rows = [_server(*name, found[name]) for name in _sorted(found, sort, _server_key, " ".join)]
    rows.sort(key=lambda row: not row.bad)
    columns = (
        Column("L7 SERVER", left=True), Column("BACKEND SERVICE", 9, left=True), Column("STATE", 8, left=True),
        Column("REQUESTS/S", 8), Column("5XX/S", 6), Column("FAILURES/S", 7), Column("IN FLIGHT", 4), Column("IDLE", 2),
    )  # fmt: skip
    return Table(Section.L7_SERVERS, columns, rows)


def _loads(section: Section, title: str, loads: Mapping[str, Load], sort: Sort) -> Table:
    rows = [_load(name, loads[name]) for name in _sorted(loads, sort, _key, str)]
    return Table(section, (Column(title, left=True), *_LOAD), rows)


def _load(name: str, load: Load) -> Row:
    resumed = NONE if not load.handshakes else f"{100 * (load.resumed or 0) / load.handshakes:.0f} %"
    cells = (
        name, number(load.requests), *(number(load.status(each)) for each in ("2xx", "3xx", "4xx", "5xx")),
        milliseconds(load.quantile_ms(0.5)), milliseconds(load.quantile_ms(0.99)), number(load.connections),
        number(load.handshakes), resumed, number(load.handshakes_failed),
    )  # fmt: skip
    alarms = {1 + _5XX: bool(load.status("5xx")), 1 + _TLS_FAILED: bool(load.handshakes_failed)}
    return Row(cells, bad=frozenset(cell for cell, alarm in alarms.items() if alarm))


def _server(service: str, server: str, row: Upstream) -> Row:
    state = "DOWN" if row.down else f"EJECTED by {row.ejected:.0f}" if row.ejected else "up"
    cells = (
        server, service, state, number(row.requests), number(row.errors), number(row.failures), number(row.active),
        number(row.idle),
    )  # fmt: skip
    alarms = {2: row.down or bool(row.ejected), 5: bool(row.failures)}
    return Row(cells, bad=frozenset(cell for cell, alarm in alarms.items() if alarm))


def milliseconds(value: float | None) -> str:
    """Two digits or so: 0.4 ms, 12 ms, 3.2 s."""
    if value is None:
        return NONE
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _sorted(rows: Mapping[K, V], sort: Sort, key: Callable[[V, Sort], float], name: Callable[[K], str]) -> list[K]:
    return sorted(rows, key=lambda each: (-key(rows[each], sort), name(each)))


def _key(load: Load, sort: Sort) -> float:
    """Requests stand for packets and bits, handshakes for new sessions, 5xx for drops."""
    match sort:
        case Sort.PACKETS | Sort.BITS:
            return load.requests or 0
        case Sort.NEW:
            return load.handshakes or 0
        case Sort.SESSIONS:
            return load.connections or 0
        case Sort.DROPS:
            return load.status("5xx") or 0
        case Sort.NAME:
            return 0


def _server_key(row: Upstream, sort: Sort) -> float:
    match sort:
        case Sort.PACKETS | Sort.BITS | Sort.NEW:
            return row.requests or 0
        case Sort.SESSIONS:
            return row.active
        case Sort.DROPS:
            return (row.errors or 0) + (row.failures or 0)
        case Sort.NAME:
            return 0
