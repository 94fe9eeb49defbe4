"""The tables of `paifang top`: sections, their columns and rows, orders, and how numbers are written. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NONE: Final = "-"
GAP: Final = "  "
UNITS: Final = ("", "k", "M", "G", "T", "P")


class Style(StrEnum):
    PLAIN = "plain"
    TITLE = "title"
    HEADER = "header"
    BAD = "bad"
    DIM = "dim"


class Section(StrEnum):
    NODES = "nodes"
    VERDICTS = "verdicts"
    LISTENERS = "listeners"
    SERVERS = "servers"
    L7_NODES = "l7 nodes"
    L7_LISTENERS = "l7 listeners"
    L7_SERVICES = "l7 services"
    L7_SERVERS = "l7 servers"


class Sort(StrEnum):
    PACKETS = "packets"
    BITS = "bits"
    NEW = "new"
    SESSIONS = "sessions"
    DROPS = "drops"
    NAME = "name"


Line = list[tuple[str, Style]]


@dataclass(frozen=True, slots=True)
class Column:
    """`weight`: columns of the smallest go first where the width is tight. The first column is always there."""

    title: str
    weight: int = 9
    left: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """`bad`: the cells, by number, that somebody should look at."""

    cells: tuple[str, ...]
    style: Style = Style.PLAIN
    bad: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Table:
    section: Section
    columns: tuple[Column, ...]
    rows: list[Row]
    notes: tuple[Row, ...] = ()


def telling(table: Table) -> Table:
    """Without the columns that have nothing to tell of any row."""
    kept = [n for n in range(len(table.columns)) if not n or any(row.cells[n] != NONE for row in table.rows)]
    rows = [
        Row(tuple(row.cells[n] for n in kept), row.style, frozenset(kept.index(n) for n in row.bad & {*kept}))
        for row in table.rows
    ]
    return Table(table.section, tuple(table.columns[n] for n in kept), rows, table.notes)


def number(value: float | None) -> str:
    """Three digits and a unit: 0, 0.3, 12, 4.56k."""
    if value is None:
        return NONE
    if round(value, 1) < 10 and not float(value).is_integer():
        return f"{value:.1f}"
    unit = 0
    while round(value) >= 1000 and unit < len(UNITS) - 1:
        value /= 1000
        unit += 1
    digits = 0 if not unit or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{UNITS[unit]}"
