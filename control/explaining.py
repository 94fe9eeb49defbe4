"""What would happen to a packet or request: the configuration, and what the nodes report, put together and explained.

Flows are explained here (core/explain.py). Requests are by `python -m proxy.explain_asked`, a process of its own: what
decides about them is the proxy's code, which this process does not have (docs/decisions/0151).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from control.groups import known_members
from control.reconcile import NodeStatus, Step
from core.config import to_dict
from core.endpoints import split
from core.explain import ExplainError, Facts, document, flow
from core.members import with_members
from core.model import Model
from core.spread import is_dynamic

LIMIT_S: Final = 20.0
ARGV: Final = (sys.executable, "-m", "proxy.explain_asked")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about: a request, by `url`, or else a flow of `protocol` between two ends "ADDRESS:PORT"."""

    url: str = ""
    method: str = "GET"
    headers: tuple[str, ...] = ()
    sni: str | None = None
    protocol: str = ""
    client: str = ""  # an address, with a port or without
    to: str = ""  # of a request the VIP

    def ends(self) -> tuple[tuple[str, int] | None, tuple[str, int]]:
        """The client, None where it is not given, and the VIP. Raises ExplainError."""
        client = end(self.client) if self.client else None
        return client, end(self.to) if self.to else ("", 0)

    def request(self) -> dict[str, Any]:
        """As `python -m proxy.explain_asked` reads it. Raises ExplainError."""
        client, to = self.ends()
        return {
            "url": self.url, "method": self.method, "fields": list(self.headers), "sni": self.sni,
            "client": client and list(client), "to": to[0],
        }  # fmt: skip


def end(text: str) -> tuple[str, int]:
    """ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT; port 0 where there is none. Raises ExplainError."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, 0
    found = split(text) if ":" in text else (text, 0)
    if found is None or not found[0]:
        raise ExplainError(f"{text!r} is neither ADDRESS nor ADDRESS:PORT")
    return found


@dataclass(frozen=True, slots=True)
class Reports:
    """What the nodes say, as far as it matters here. `known`: some node of the right role was heard."""

    l4_down: Mapping[str, str] = field(default_factory=dict)
    down: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ejected: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    differ: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    known: bool = False


def reports(nodes: Iterable[NodeStatus]) -> Reports:
    """Whom all nodes of a tier that are heard find down is down; where they disagree, it is said by whom."""
    heard = [node for node in nodes if node.step is not Step.SILENT]
    l4, l7 = ([node for node in heard if node.role == role] for role in ("l4", "l7"))
    l4_down, _ = _agreed(l4, lambda row: ("", str(row["server"])))
    down, differ = _agreed(l7, lambda row: (str(row["service"]), str(row["server"])))
    ejected: dict[str, dict[str, str]] = {}
    for node in l7:
        for row in _rows(node, "upstreams"):
            if row.get("ejected"):
                ejected.setdefault(str(row["service"]), {})[str(row["server"])] = f"ejected by workers of {node.name}"
    return Reports(l4_down.get("", {}), down, ejected, differ, known=bool(l4 or l7))


def _agreed(nodes: Sequence[NodeStatus], key: Any) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """By service and server: what all nodes find down, and what only some do."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for node in nodes:
        for row in _rows(node, "health"):
            if row.get("healthy") is False:
                found.setdefault(key(row), {})[node.name] = str(row.get("why", ""))
    down: dict[str, dict[str, str]] = {}
    differ: dict[str, dict[str, str]] = {}
    for (service, server), by in found.items():
        said = "; ".join(f"{name}: {why}" for name, why in by.items())
        if len(by) == len(nodes):
            down.setdefault(service, {})[server] = said
        else:
            differ.setdefault(service, {})[server] = f"unhealthy for some nodes alone ({said})"
    return down, differ


def _rows(node: NodeStatus, name: str) -> list[Mapping[str, Any]]:
    rows = node.facts.get(name)
    return [row for row in rows if isinstance(row, Mapping) and "server" in row] if isinstance(rows, list) else []


def resolved(model: Model, nodes: Iterable[NodeStatus]) -> Model:
    """The model with the members that nodes know of groups whose members come and go."""
    facts = [node.facts for node in nodes]
    groups = {
        name: known_members(group, facts) for name, group in model.availability_groups.items() if is_dynamic(group)
    }
    return with_members(model, groups)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What few may know: the seed of flows, the secret of cookies. `said`: a server that an L4 node names, and it."""

    seed: int | None = None
    cookie_secret: bytes = field(default=b"", repr=False)
    said: tuple[str, str] = ("", "")


def explain_flow(model: Model, asked: Asked, told: Reports, secrets: Secrets) -> dict[str, Any]:
    """Raises ExplainError."""
    client, vip = asked.ends()
    if client is None or not vip[1]:
        raise ExplainError(f"{asked.protocol}: give both ends, CLIENT:PORT and VIP:PORT")
    facts = Facts(told.l4_down, secrets.seed, told.known, secrets.said)
    return document(flow(model, asked.protocol, client, vip, facts))


def question(model: Model, asked: Asked, told: Reports, secrets: Secrets) -> bytes:
    """What `python -m proxy.explain_asked` reads. Raises ExplainError."""
    facts = {
        "l4_down": told.l4_down, "seed": secrets.seed, "known": told.known, "said": secrets.said, "down": told.down,
        "ejected": told.ejected, "differ": told.differ, "cookie_secret": secrets.cookie_secret.hex(), "node": "",
    }  # fmt: skip
    return json.dumps({"config": to_dict(model), "request": asked.request(), "facts": facts}).encode()


async def explain_request(
    model: Model, asked: Asked, told: Reports, secrets: Secrets, turns: asyncio.Semaphore
) -> dict[str, Any]:
    """`turns` says how many are asked at a time. Raises ExplainError."""
    data = await asyncio.to_thread(question, model, asked, told, secrets)
    async with turns:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*ARGV, stdin=pipe, stdout=pipe)
        try:
            async with asyncio.timeout(LIMIT_S):
                output, _ = await process.communicate(data)
        except TimeoutError:
            raise ExplainError(f"no answer within {LIMIT_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return read(output)


def read(output: bytes) -> dict[str, Any]:
    """An answer of `python -m proxy.explain_asked`. Raises ExplainError."""
    try:
        answer = dict(json.loads(output))
    except ValueError:
        raise ExplainError("it cannot be explained: `python -m proxy.explain_asked` failed; the log says why") from None
    if "wrong" in answer:
        raise ExplainError(str(answer["wrong"]))
    return answer
