"""What an L7 node tells the control plane each second of its traffic, for `paifang top`. Pure.

Counts since it started, of TOLD_MOST listeners and as many backend services, the first of the configuration; the rest
is added up as OTHER's. So a report stays below 0.6 megabytes, whatever is configured, but for its servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from proxy import meters
from proxy.meters import OTHER, Document

TOLD_MOST: Final = 1000
RESUMED: Final = " resumed"
FAILED: Final = "failed "


def traffic(
    rows: Mapping[str, Mapping[str, Document]], opened: Iterable[Mapping[str, int]], started: float, at_s: float
) -> dict[str, Any]:
    """`rows` as `meters.Sums.rows` gives them; `opened`: by worker, connections at once in its last
    second by listener; `at_s` by our clock."""
    connections: dict[str, int] = {}
    for each in opened:
        for name, count in each.items():
            connections[name] = connections.get(name, 0) + count
    listeners = {
        name: {**_row(row), "open": connections.pop(name, 0), "tls": _handshakes(row.get("tls", {}))}
        for name, row in _bounded("listeners", rows["listeners"]).items()
    }
    if OTHER in listeners:
        listeners[OTHER]["open"] += sum(connections.values())
    services = {name: _row(row) for name, row in _bounded("services", rows["services"]).items()}
    return {"started": started, "at_s": round(at_s, 3), "listeners": listeners, "services": services}


def _bounded(kind: str, rows: Mapping[str, Document]) -> dict[str, Document]:
    names = [name for name in rows if name != OTHER]
    found = {name: rows[name] for name in names[:TOLD_MOST]}
    if rest := [*names[TOLD_MOST:], *({OTHER} & rows.keys())]:
        nothing = meters.NOTHING[kind]
        found[OTHER] = meters.together(kind, (row for name in rest if (row := rows[name]) is not nothing))
    return found


def _row(row: Document) -> dict[str, Any]:
    """`buckets` up to the last one with something in it; `moved`: bytes in and out, of listeners connections too."""
    filled = max((number for number, count in enumerate(row["buckets"], 1) if count), default=0)
    return {"statuses": row["statuses"], "buckets": row["buckets"][:filled], "moved": row["moved"]}


def _handshakes(tls: Mapping[str, int]) -> list[int]:
    """New sessions, resumed ones, failures."""
    resumed = sum(count for how, count in tls.items() if how.endswith(RESUMED))
    failed = sum(count for how, count in tls.items() if how.startswith(FAILED))
    return [sum(tls.values()) - resumed - failed, resumed, failed]
