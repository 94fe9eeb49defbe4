"""Who talks most, of what each node answers: put together. Pure.

Rates add up, and so do the sessions of clients and servers, which each node counts by its own packets. Sessions by
listener and state are known to all L4 nodes: the highest number counts. What is not formed as it should be is passed
over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

NAMES: Final = {"client": ("client",), "server": ("server",), "flow": ("client", "vip", "protocol", "server")}


class Tier(StrEnum):
    """Where it is counted."""

    L4 = "l4"
    L7 = "l7"


class By(StrEnum):
    """What a row is of."""

    CLIENT = "client"
    FLOW = "flow"
    SERVER = "server"


def together(by: By, limit: int, answers: Sequence[object]) -> dict[str, Any]:
    """`ready`: whether any node knows; the rows by what they carry, the most first."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    sessions: dict[tuple[str, str], int] = {}
    windows, shares = [0.0], [1]
    for answer in answers:
        if not isinstance(answer, Mapping) or answer.get("ready") is not True:
            continue
        windows.append(_number(answer.get("window_s")))
        shares.append(int(_number(answer.get("share", 1))))
        for row in _rows(answer.get("talkers")):
            key = tuple(str(row.get(name, "")) for name in NAMES[by])
            known = rows.setdefault(key, dict(zip(NAMES[by], key, strict=True)))
            for name, value in row.items():
                if name not in NAMES[by]:
                    known[name] = round(known.get(name, 0) + _number(value), 3)
        for row in _rows(answer.get("sessions")):
            of = str(row.get("listener")), str(row.get("state"))
            sessions[of] = max(sessions.get(of, 0), int(_number(row.get("sessions"))))
    order = sorted(rows.values(), key=_weight, reverse=True)
    return {
        "ready": len(windows) > 1,
        "window_s": max(windows),
        "share": max(shares),
        "talkers": order[:limit],
        "sessions": [
            {"listener": listener, "state": state, "sessions": count}
            for (listener, state), count in sorted(sessions.items())
        ],
    }


def _weight(row: Mapping[str, Any]) -> float:
    return max(_number(row.get(name, 0)) for name in ("bytes_in_per_s", "bytes_out_per_s"))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _rows(rows: object) -> list[Mapping[str, Any]]:
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
