"""What `paifang top` shows: a picture of the cluster as lines of styled text, for a screen of any size. Pure.

Sections stand one below the other and share the height: each is given what it needs if all fit, else the first ones
(nodes, verdicts) get theirs before the others. Columns that do not fit the width are left out, the least telling first.
A line is a list of (text, style); without styles it is the text for a pipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from control import top_l7
from control.rates import DROP, Flow, Health, Node, Picture, Reason, View
from control.top_table import GAP, NONE, Column, Line, Row, Section, Sort, Style, Table, number, telling

REMARKS_SHOWN: Final = 3
FULL: Final = 0.8  # a table that is fuller is worth a look
K = TypeVar("K")


def sections(picture: Picture) -> list[Section]:
    """Those that have something to show."""
    return [section for section, make in _TABLES.items() if make(picture, Sort.NAME).rows]


def text(lines: Iterable[Line]) -> str:
    return "\n".join("".join(part for part, _ in line).rstrip() for line in lines)


def lines(
    picture: Picture, *, width: int, height: int | None = None, sort: Sort = Sort.PACKETS, only: Section | None = None,
    notice: str = "", clock: str = "",
) -> list[Line]:  # fmt: skip
    """The whole screen. `height` None: as many lines as there are. `notice` stands out below the title."""
    tables = [make(picture, sort) for section, make in _TABLES.items() if only in (None, section)]
    tables = [table for table in tables if table.rows or only]
    shown = [_title(picture, sort, clock, width)]
    if notice:
        shown.append([(_cut(notice, width), Style.BAD)])
    space = None if height is None else height - len(shown)
    for table, rows in zip(tables, _shares(tables, space), strict=True):
        if rows is not None:
            shown += [[], *_render(table, width, rows)]
    return shown if height is None else shown[:height]


def _title(picture: Picture, sort: Sort, clock: str, width: int) -> Line:
    counting = {
        "L4": sum(node.counts for node in picture.nodes),
        "L7": sum(node.traffic is not None for node in picture.nodes),
    }
    told = [f"{count} {tier} node{'' if count == 1 else 's'}" for tier, count in counting.items() if count]
    parts = ["paifang top", ", ".join(told) or "no nodes", f"configuration {picture.version}", f"by {sort}", clock]
    return [(_cut(GAP.join(filter(None, parts)), width), Style.TITLE)]


def _shares(tables: Sequence[Table], space: int | None) -> list[int | None]:
    """How many rows of each table fit; None where not even one does. Each has a blank line, a header and its notes."""
    if space is None:
        return [len(table.rows) for table in tables]
    shares: list[int | None] = []
    for place, table in enumerate(tables):
        frame = 2 + len(table.notes)
        later = sum(min(4, 2 + len(other.rows)) for other in tables[place + 1 :])  # a header and two rows of each
        room = max(space - later, min(space, frame + 1)) - frame
        share = min(len(table.rows), room)
        if share < min(1, len(table.rows)) or room < 0:
            shares.append(None)
        else:
            shares.append(share)
            space -= frame + share
    return shares


def _render(table: Table, width: int, limit: int) -> Iterable[Line]:
    hidden = len(table.rows) - limit
    rows = table.rows if hidden <= 0 else table.rows[: max(0, limit - 1)]
    columns = _fitting(table.columns, rows, width)
    header = Row(tuple(column.title for column in table.columns), Style.HEADER)
    widths = {n: max(len(row.cells[n]) for row in (header, *rows)) for n in columns}
    for row in (header, *rows):
        line: Line = []
        for n in columns:
            cell = row.cells[n].ljust(widths[n]) if table.columns[n].left else row.cells[n].rjust(widths[n])
            line += [(GAP, row.style)] if line else []
            line.append((cell, Style.BAD if n in row.bad else row.style))
        yield _cut_line(line, width)
    if hidden > 0:
        yield [(_cut(f"… {hidden + 1} more", width), Style.DIM)]
    for note in table.notes:
        yield [(_cut(GAP.join(note.cells), width), note.style)]


def _fitting(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[int]:
    """The numbers of the columns that fit, in order."""
    needs = [
        max(len(cell) for cell in (column.title, *(row.cells[n] for row in rows))) for n, column in enumerate(columns)
    ]
    chosen = list(range(len(columns)))
    while len(chosen) > 1 and sum(needs[n] for n in chosen) + len(GAP) * (len(chosen) - 1) > width:
        chosen.remove(min(chosen[1:], key=lambda n: (columns[n].weight, -n)))
    return chosen


def _cut(words: str, width: int) -> str:
    """On one line of printable characters: what a node says does not command the terminal."""
    clean = "".join(each if each.isprintable() else "?" for each in words)
    return clean if len(clean) <= width else clean[: max(0, width - 1)] + "…"[: max(0, width)]


def _cut_line(line: Line, width: int) -> Line:
    """Where even the first column is wider than the screen."""
    if sum(len(part) for part, _ in line) <= width:
        return [(_cut(part, len(part)), style) for part, style in line]
    return [(_cut("".join(part for part, _ in line), width), line[0][1])]


# Sections

_DROPS_CELL, _TABLE_CELL = 7, 8  # of a node's row
_REFUSED_CELL = 7  # of a listener's
_HEALTH_CELL = 2  # of a server's


def _nodes(picture: Picture, _sort: Sort) -> Table:
    columns = (
        Column("NODE", left=True), Column("STATE", 8, left=True), Column("PACKETS/S", 7), Column("BITS/S IN", 6),
        Column("BITS/S OUT", 5), Column("NEW/S", 4), Column("SESSIONS", 4), Column("DROPS/S", 8),
        Column("TABLE", 3), Column("HALF-OPEN", 2),
    )  # fmt: skip
    rows = [_node(node) for node in picture.nodes]
    if sum(node.counts for node in picture.nodes) > 1:
        rows.append(Row(("all", "", *_of_view(picture.together), "", "")))
    remarks = [f"{node.name}: {remark}" for node in picture.nodes for remark in node.remarks]
    notes = [Row((remark,), Style.BAD) for remark in remarks[:REMARKS_SHOWN]]
    if len(remarks) > REMARKS_SHOWN:
        notes.append(Row((f"… {len(remarks) - REMARKS_SHOWN} more: paifang status",), Style.DIM))
    return Table(Section.NODES, columns, rows, tuple(notes))


def _node(node: Node) -> Row:
    view = node.view
    fills = _percent(view, "sessions"), _percent(view, "half_open")
    cells = (f"{node.role} {node.name}", node.step, *_of_view(view), *fills)
    alarms = {1: node.step != "in step", _DROPS_CELL: bool(view.drops), _TABLE_CELL: _is_full(view)}
    return Row(cells, bad=frozenset(cell for cell, alarm in alarms.items() if alarm))


def _of_view(view: View) -> tuple[str, ...]:
    total = view.total
    values = (view.packets, total.bits_in, total.bits_out, total.new, total.sessions, view.drops)
    return tuple(map(number, values))


def _is_full(view: View) -> bool:
    """The table whose fill is an alarm; the others evict."""
    return _share(view, "sessions") > FULL


def _share(view: View, table: str) -> float:
    """How full the table is, of that IP version of which it is fuller."""
    return max((fill.used / fill.size for fill in view.tables.get(table, {}).values()), default=0.0)


def _percent(view: View, table: str) -> str:
    return f"{100 * _share(view, table):.0f} %" if table in view.tables else NONE


def _verdicts(picture: Picture, _sort: Sort) -> Table:
    columns = (Column("VERDICT", left=True), Column("PER SECOND", 8), Column("SINCE START", 7))
    met = {name: reason for name, reason in picture.together.reasons.items() if reason.total}
    order = sorted(met, key=lambda name: (-_order(met[name], name), name))
    rows = [Row((name, number(met[name].per_s), number(met[name].total)), _alarm(name, met[name])) for name in order]
    return Table(Section.VERDICTS, columns, rows)


def _order(reason: Reason, name: str) -> float:
    """Drops that go on stand first, then the rest by rate."""
    rate = reason.per_s or 0.0
    return rate + 1e15 if rate and name.startswith(DROP) else rate


def _alarm(name: str, reason: Reason) -> Style:
    return Style.BAD if name.startswith(DROP) and reason.per_s else Style.PLAIN


_FLOW: Final = (
    Column("PACKETS/S IN", 7), Column("OUT", 5), Column("BITS/S IN", 8), Column("OUT", 6), Column("NEW/S", 4),
    Column("SESSIONS", 4),
)  # fmt: skip


def _listeners(picture: Picture, sort: Sort) -> Table:
    flows = picture.together.listeners
    rows = [
        Row((name, *_of_flow(flow), number(flow.refused)), bad=frozenset({_REFUSED_CELL} if flow.refused else ()))
        for name, flow in _sorted(flows, sort, lambda name: name)
    ]
    return Table(Section.LISTENERS, (Column("LISTENER", left=True), *_FLOW, Column("REFUSED/S", 3)), rows)


def _servers(picture: Picture, sort: Sort) -> Table:
    """Servers that are counted by listener, and those of which only the health is known; who is down stands first."""
    view = picture.together
    rows = []
    for (listener, server), flow in _sorted(view.servers, sort, " ".join):
        rows.append(_server(listener, server, flow, view.health.get(server)))
    counted = {server for _, server in view.servers}
    rows += [_server(NONE, server, Flow(), health) for server, health in view.health.items() if server not in counted]
    rows.sort(key=lambda row: not row.bad)
    columns = (Column("SERVER", left=True), Column("LISTENER", 9, left=True), Column("HEALTH", 8, left=True), *_FLOW,
               Column("CONNECTIONS", 3), Column("WHY", 2, left=True))  # fmt: skip
    return telling(Table(Section.SERVERS, columns, rows))


def _server(listener: str, server: str, flow: Flow, health: Health | None) -> Row:
    why = health.why if health and health.down else NONE
    cells = (server, listener, _health(health), *_of_flow(flow), number(flow.connections), why)
    return Row(cells, bad=frozenset({_HEALTH_CELL} if health and health.down else ()))


def _health(health: Health | None) -> str:
    if health is None:
        return NONE
    if not health.down:
        return "up"
    return "DOWN" if health.down == health.probed else f"DOWN {health.down}/{health.probed}"


def _of_flow(flow: Flow) -> tuple[str, ...]:
    values = (flow.packets_in, flow.packets_out, flow.bits_in, flow.bits_out, flow.new, flow.sessions)
    return tuple(map(number, values))


def _sorted(flows: Mapping[K, Flow], sort: Sort, name: Callable[[K], str]) -> list[tuple[K, Flow]]:
    return sorted(flows.items(), key=lambda item: (-_key(item[1], sort), name(item[0])))


def _key(flow: Flow, sort: Sort) -> float:
    match sort:
        case Sort.PACKETS:
            return (flow.packets_in or 0) + (flow.packets_out or 0)
        case Sort.BITS:
            return (flow.bits_in or 0) + (flow.bits_out or 0)
        case Sort.NEW:
            return flow.new or 0
        case Sort.SESSIONS:
            return max(flow.sessions or 0, flow.connections or 0)
        case Sort.DROPS:
            return flow.refused or 0
        case Sort.NAME:
            return 0


_TABLES: Final[Mapping[Section, Callable[[Picture, Sort], Table]]] = {
    Section.NODES: _nodes,
    Section.VERDICTS: _verdicts,
    Section.LISTENERS: _listeners,
    Section.SERVERS: _servers,
    Section.L7_NODES: top_l7.nodes,
    Section.L7_LISTENERS: top_l7.listeners,
    Section.L7_SERVICES: top_l7.services,
    Section.L7_SERVERS: top_l7.servers,
}
