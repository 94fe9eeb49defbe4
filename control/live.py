"""What the nodes know of a connection that lives, or of a request: each is asked, and the answers put side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from control.questions import Node, QuestionError, Questions
from core.endpoints import endpoint

ASK_S: Final = 5.0
NODES_LIMIT: Final = 64  # that are asked


async def live(
    questions: Questions,
    protocol: str = "",
    client: tuple[str, int] = ("", 0),
    vip: tuple[str, int] = ("", 0),
    *,
    request_id: str = "",
) -> dict[str, Any]:
    """`sessions` of L4 nodes and `connections` of L7 nodes, `requests` that are over, and `silent`: who did not answer,
    and why."""
    asked: dict[Node, tuple[str, Mapping[str, object]]] = {}
    if not request_id:
        ends = {"client": endpoint(*client), "vip": endpoint(*vip)}
        asked |= {("l4", name): ("sessions", ends) for name in questions.nodes("l4")[:NODES_LIMIT]}
    if protocol != "udp":
        wanted: dict[str, object] = {"request_id": request_id} if request_id else \
            {"client": client[0], "client_port": client[1], "port": vip[1]}  # fmt: skip
        kind = "request" if request_id else "connections"
        asked |= {("l7", name): (kind, wanted) for name in questions.nodes("l7")[:NODES_LIMIT]}
    found: dict[str, Any] = {"sessions": [], "connections": [], "requests": [], "silent": {}, "asked": len(asked)}
    by_kind: dict[str, tuple[Mapping[str, object], list[Node]]] = {}
    for node, (kind, arguments) in asked.items():
        by_kind.setdefault(kind, (arguments, []))[1].append(node)
    for kind, (arguments, nodes) in by_kind.items():
        for (_, name), answer in (await questions.ask_all(nodes, kind, arguments, ASK_S)).items():
            if isinstance(answer, QuestionError):
                found["silent"][name] = str(answer)
            elif kind == "request" and isinstance(answer, Mapping):
                for part in ("connections", "requests"):
                    found[part] += _named(name, answer.get(part))
            else:
                rows = _named(name, answer)
                found[kind] += [row for row in rows if row.get("protocol", protocol) == protocol]
    return found


def _named(node: str, rows: object) -> list[dict[str, Any]]:
    return [{"node": node, **row} for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
