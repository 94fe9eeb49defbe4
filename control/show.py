"""What the command line prints: plans, tables and status as text. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from control.durations import shown

MARKS = {"create": "+", "update": "~", "move": "^", "delete": "-"}
CELL_LIMIT = 60
LINE_LIMIT = 100
ITEMS_SHOWN = 20
FRESH_S = 2.0  # a node reports once a second


def plan(changes: Sequence[Mapping[str, Any]]) -> str:
    """One line a change, its differing fields below it."""
    if not changes:
        return "no changes"
    lines = []
    for change in changes:
        lines.append(f"{MARKS[change['op']]} {change['op']} {change['kind']}/{change['name']}")
        if change["op"] == "update":
            lines += _differences(change["old"], change["new"])
    counts = [(sum(change["op"] == op for change in changes), op) for op in MARKS]
    summary = ", ".join(f"{count} to {op}" for count, op in counts if count)
    return "\n".join([*lines, summary])


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    keys = [*new, *(key for key in old if key not in new)]
    return [line for key in keys if old.get(key) != new.get(key) for line in _difference(key, old, new)]


def _difference(key: str, old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """A field's two values; of lists too long for a line what goes and what comes."""
    before, after = (_listed(each.get(key, "(default)")) for each in (old, new))
    if isinstance(before, list) and isinstance(after, list) and len(json.dumps([before, after])) > CELL_LIMIT:
        was, now = ({json.dumps(each, sort_keys=True): each for each in items} for items in (before, after))
        marked = [("-", was[each]) for each in was if each not in now]
        marked += [("+", now[each]) for each in now if each not in was]
        shown = [f"      {mark} {_short(each, LINE_LIMIT)}" for mark, each in marked[:ITEMS_SHOWN]]
        more = [f"      and {len(marked) - ITEMS_SHOWN} more"] if len(marked) > ITEMS_SHOWN else []
        return [f"    {key}:" + ("" if marked else " in another order"), *shown, *more]
    return [f"    {key}: {_short(before)} → {_short(after)}"]


def _listed(value: object) -> object:
    """A text of several lines as its lines."""
    return value.split("\n") if isinstance(value, str) and "\n" in value else value


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Columns as wide as they need to be."""
    cells = [list(header), *([_short(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def objects(tables: Sequence[Mapping[str, object]]) -> str:
    """Objects of one kind: their names, then every field that one of them has."""
    header = list(dict.fromkeys(key for item in tables for key in item))
    return table([[item.get(key, "") for key in header] for item in tables], [key.upper() for key in header])


def status(document: Mapping[str, Any]) -> str:
    """The nodes, each with what is not as it should be, and what will not be so for long."""
    lines = [f"version {document['version']}"]
    rows = [
        (
            node["role"], node["name"], node["step"], "-" if node["version"] is None else node["version"],
            "-" if node["age_s"] is None else f"{node['age_s']:.1f} s", "; ".join(remarks(node)),
        )
        for node in document["nodes"]
    ]  # fmt: skip
    lines.append(table(rows, ("ROLE", "NAME", "STATE", "VERSION", "REPORT", "REMARKS")) if rows else "no nodes")
    lines += [f"warning: {clean(text)}" for text in document.get("warnings", ())]
    if owners := vips(document["nodes"]):
        lines += ["", table(owners, ("VIP", "BY", "HELD BY", "REMARKS"))]
    if found := document.get("groups"):
        lines += ["", table([_zone(row) for row in found], ("GROUP", "ZONE", "RACKS", "MEMBERS", "WEIGHT", "DOWN"))]
    return "\n".join(lines)


def _zone(row: Mapping[str, Any]) -> tuple[object, ...]:
    """A zone of an availability group."""
    racks = ", ".join(row["racks"]) or "-"
    return row["group"], row["zone"] or "-", racks, row["members"], f"{row['percent']:g} %", row["down"] or "-"


def vips(nodes: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Each VIP that L4 nodes announce: by which method, which nodes have it, and what is wrong about that."""
    holders: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for node in nodes:
        vip = node["facts"].get("vip")
        for each in (vip.get("addresses") or ()) if isinstance(vip, Mapping) else ():
            names = holders.setdefault((str(each["address"]), str(vip["method"])), [])
            if each.get("held") and node["step"] != "silent":
                names.append((str(node["name"]), node["age_s"] or 0.0))
    return [
        (address, method, ", ".join(name for name, _ in names) or "nobody", _claim(method, [age for _, age in names]))
        for (address, method), names in holders.items()
    ]


def _claim(method: str, ages: Sequence[float]) -> str:
    """`ages`: of the reports of those who claim it, in seconds: one that has just died is no rival."""
    if not ages:
        return "no node has it: see the nodes' remarks"
    rivals = method == "vrrp" and sum(age < FRESH_S for age in ages) > 1
    return "several nodes claim it: they do not hear each other's VRRP" if rivals else ""


def remarks(node: Mapping[str, Any]) -> list[str]:
    """Why a node is not in step, the problems it reports, and the servers that it holds for down or has ejected."""
    facts = node["facts"]
    down = [
        f"{entry.get('server')} down: {entry.get('why')}"
        for entry in facts.get("health") or ()
        if isinstance(entry, Mapping) and entry.get("healthy") is False
    ]
    ejected = [
        f"{entry.get('server')} ejected from {entry.get('service')} by {entry['ejected']} of "
        f"{facts.get('workers')} workers"
        for entry in facts.get("upstreams") or ()
        if isinstance(entry, Mapping) and entry.get("ejected")
    ]
    return troubles(node) + down + ejected


def troubles(node: Mapping[str, Any]) -> list[str]:
    """Why a node is not in step, and the problems it reports."""
    found = [node["why"] + _since(node)] if node["why"] else []
    if not node["listed"]:
        found.append("not listed under nodes")
    if node["facts"].get("resting"):
        found.append(f"drains by an operator's word: {left(node)}")
    return found + [str(problem) for problem in node["facts"].get("problems") or ()]


def _since(node: Mapping[str, Any]) -> str:
    """For how long a node lags; of a silent one `why` says it."""
    since_s = node.get("since_s")
    return f", for {shown(since_s)}" if since_s is not None and node["step"] == "lagging" else ""


def left(node: Mapping[str, Any]) -> str:
    """What a draining node still has: an L7 node connections, an L4 node VIPs."""
    count = remaining(node)
    what = "connections" if node["role"] == "l7" else "VIPs"
    return f"{count} {what} left" if count else "nothing left"


def remaining(node: Mapping[str, Any]) -> int:
    """How much that is."""
    facts = node["facts"]
    if node["role"] == "l7":
        return int((facts.get("counters") or {}).get("connections_open", 0))
    return sum(bool(each.get("held")) for each in (facts.get("vip") or {}).get("addresses") or ())


def history(versions: Sequence[Mapping[str, Any]], when: Sequence[str]) -> str:
    """The versions, newest first; `when` has the time of each as text."""
    rows = [
        (entry["version"], time, entry["author"], entry["comment"]) for entry, time in zip(versions, when, strict=True)
    ]
    return table(rows, ("VERSION", "TIME", "AUTHOR", "COMMENT"))


def clean(text: str) -> str:
    """Text that others have given, for a terminal: what could command it, or turn the writing round, as �."""
    return "".join(each if each.isprintable() or each == "\n" else "�" for each in text)


def _short(value: object, limit: int = CELL_LIMIT) -> str:
    """A value on one line of bounded length; chains and lists are cut."""
    text = clean(" ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"
