"""What happens in the cluster, as events: differences of what nodes report and of what operators do. Pure.

A state counts as changed when it has lasted SETTLE_S, so that a server that all nodes are about to find down is told
once. Servers that change together are told together, a line for each group and state, once there are more than
TOGETHER; an object that changes FLAPS times within FLAPS_S is told of no more until that is over. What was so already
when the control plane started is no event, but for nodes: how they were is noted from one start to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from control.reconcile import NodeStatus, Step
from core.model import Model
from core.overrides import configured

SETTLE_S: Final = 3.0
LAGGING_S: Final = 10.0  # a new version takes a moment
BEGINNING_S: Final = 10.0  # until nodes have found the way back to a control plane that has started
TOGETHER: Final = 10
NAMED: Final = 20
FLAPS: Final = 6
FLAPS_S: Final = 600.0
PROBLEMS_MOST: Final = 20  # of a node
TEXT_MOST: Final = 500
INFO, WARNING, ERROR = "info", "warning", "error"


class EventKind(StrEnum):
    """What an event is about."""

    VERSION = "version"
    NODE = "node"
    SERVER = "server"
    CERTIFICATE = "certificate"
    DRAIN = "drain"
    METERING = "metering"
    CONTROL = "control"
    PROBLEM = "problem"
    VIP = "vip"
    MEMBER = "member"
    SIGN_IN = "sign-in"


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened at `at`, in Unix time. `object` is what it is about, such as nodes/l7-1."""

    at: float
    kind: str
    severity: str
    object: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One that was kept."""

    id: int
    what: Happening

    def document(self) -> dict[str, object]:
        each = self.what
        return {
            "id": self.id, "at": round(each.at, 3), "kind": each.kind, "severity": each.severity,
            "object": each.object, "text": each.text, "fields": dict(each.fields),
        }  # fmt: skip


class Settled:
    """States by key that count when they have lasted; the first ones are no change where they are taken as given."""

    def __init__(self, settle_s: float = SETTLE_S) -> None:
        self.states: dict[Any, str] = {}
        self._settle_s = settle_s
        self._pending: dict[Any, tuple[str, float]] = {}

    def changes(self, seen: Mapping[Any, str], now: float) -> list[tuple[Any, str, str]]:
        """(key, before, after) of those whose new state has lasted; "" is the state of what is not there."""
        found = []
        for key in dict.fromkeys((*seen, *self.states, *self._pending)):
            state, before = seen.get(key, ""), self.states.get(key, "")
            if state == before:
                self._pending.pop(key, None)
                continue
            pending = self._pending.get(key)
            if pending is None or pending[0] != state:
                pending = self._pending[key] = (state, now)
            if now - pending[1] >= self._settle_s:
                del self._pending[key]
                self._set(key, state)
                found.append((key, before, state))
        return found

    def take(self, seen: Mapping[Any, str]) -> None:
        """These are given."""
        self.states, self._pending = {key: state for key, state in seen.items() if state}, {}

    def _set(self, key: Any, state: str) -> None:
        if state:
            self.states[key] = state
        else:
            self.states.pop(key, None)


class Flapping:
    """Whether an object has changed too often to be told of."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, int]] = {}

    def filtered(self, happenings: Iterable[Happening], now: float) -> Iterator[Happening]:
        self._counts = {name: each for name, each in self._counts.items() if now - each[0] < FLAPS_S}
        for each in happenings:
            key = f"{each.kind} {each.object}"
            since, count = self._counts.get(key, (now, 0))
            self._counts[key] = since, count + 1
            if count < FLAPS:
                yield each
            elif count == FLAPS:
                text = f"{each.object} changes its state again and again; it is not told of until it has calmed down"
                yield Happening(each.at, each.kind, WARNING, each.object, text, {"changes": count + 1})


class Watcher:
    """Finds what has changed since it last looked. `nodes` is how the nodes were when the one before ended."""

    def __init__(self, nodes: Mapping[str, str], now: float) -> None:
        self._begun = now
        self._given = False
        self._nodes = Settled(0.0)
        self._nodes.take(nodes)
        self._drains, self._problems, self._vips = Settled(0.0), Settled(), Settled()
        self._servers = Settled()
        self._flapping = Flapping()

    @property
    def nodes(self) -> Mapping[str, str]:
        """How the nodes are, for the next start."""
        return self._nodes.states

    def look(
        self, model: Model, statuses: Sequence[NodeStatus], by: Mapping[str, str], now: float, at: float
    ) -> list[Happening]:
        """`by`: who has each node drain, by name; `now` on our clock, `at` in Unix time."""
        heard = [each for each in statuses if each.step is not Step.SILENT]
        servers, problems = _servers(model, heard), _problems(heard)
        drains, vips = _drains(heard), _vips(heard)
        if not self._given:
            for settled, seen in (
                (self._servers, servers), (self._problems, problems), (self._drains, drains), (self._vips, vips)
            ):  # fmt: skip
                settled.take({key: state for key, (state, *_) in seen.items()})
            if now - self._begun < BEGINNING_S:
                return []
            self._given = True
        found = [
            *self._node_news(statuses, now, at),
            *self._drain_news(drains, by, now, at),
            *self._problem_news(problems, now, at),
            *self._vip_news(vips, now, at),
            *self._server_news(servers, now, at),
        ]
        return list(self._flapping.filtered(found, now))

    def _node_news(self, statuses: Sequence[NodeStatus], now: float, at: float) -> Iterator[Happening]:
        known = {f"{each.role}/{each.name}": each for each in statuses}
        states = {key: _state(each, self._nodes.states.get(key, "")) for key, each in known.items()}
        for key, before, after in self._nodes.changes(states, now):
            role, _, name = key.partition("/")
            node = known.get(key)
            why = node.why if node is not None else ""
            fields = {"role": role, "name": name, "step": after or "gone", "before": before, "why": why,
                      "version": None if node is None else node.version}  # fmt: skip
            text, severity = _node_text(name, before, after, why)
            if text:
                yield Happening(at, "node", severity, f"nodes/{name}", text[:TEXT_MOST], fields)

    def _drain_news(
        self, seen: Mapping[Any, tuple[str, str]], by: Mapping[str, str], now: float, at: float
    ) -> Iterator[Happening]:
        for name, _, state in self._drains.changes({key: each[0] for key, each in seen.items()}, now):
            who = f" by the word of {by[name]}" if name in by else ""
            text = f"{name} drains{who}" if state else f"{name} does not drain any more"
            yield Happening(at, "drain", INFO, f"nodes/{name}", text, {"drains": bool(state), "by": by.get(name)})

    def _problem_news(self, seen: Mapping[Any, tuple[str, str]], now: float, at: float) -> Iterator[Happening]:
        for (node, words), _, state in self._problems.changes({key: each[0] for key, each in seen.items()}, now):
            text = seen[node, words][1] if state else words
            kind = "metering" if "metering" in text else "problem"
            told = f"{node}: {text}" if state else f"{node}, no longer: {text}"
            yield Happening(
                at, kind, WARNING if state else INFO, f"nodes/{node}", told[:TEXT_MOST], {"is": bool(state)}
            )

    def _vip_news(self, seen: Mapping[Any, tuple[str, str]], now: float, at: float) -> Iterator[Happening]:
        for (node, address), before, state in self._vips.changes({key: each[0] for key, each in seen.items()}, now):
            if {before, state} == {"", "away"}:
                continue
            held = state == "held"
            text = f"{node} has {address}" if held else f"{node} does not have {address} any more"
            yield Happening(at, "vip", INFO, f"nodes/{node}", text, {"address": address, "held": held})

    def _server_news(self, seen: Mapping[Any, tuple[str, str]], now: float, at: float) -> Iterator[Happening]:
        together: dict[tuple[str, str, str], list[str]] = {}
        for (role, group, server), before, state in self._servers.changes({k: s[0] for k, s in seen.items()}, now):
            if not (before or state):
                continue
            together.setdefault((role, group, state), []).append(server)
        for (role, group, state), servers in sorted(together.items()):
            of = f" of {group.partition('/')[2]}" if group else ""
            severity = {"": INFO, "some": WARNING, "all": ERROR}[state]
            fields: dict[str, object] = {"role": role, "group": group, "state": STATES[state]}
            if len(servers) > TOGETHER:
                named = sorted(servers)[:NAMED]
                text = f"{len(servers)} servers{of} are {_WORDS[state].format(role=role)}: {', '.join(named)}"
                more = " …" if len(servers) > NAMED else ""
                fields |= {"servers": named, "count": len(servers)}
                yield Happening(at, "server", severity, group or "servers", (text + more)[:TEXT_MOST], fields)
                continue
            for server in sorted(servers):
                why = seen[role, group, server][1] if state else ""
                text = f"{server}{of} is {_WORDS[state].format(role=role)}" + (f": {why}" if why else "")
                more_fields = {**fields, "servers": [server], "count": 1, "why": why}
                yield Happening(at, "server", severity, f"servers/{server}", text[:TEXT_MOST], more_fields)


STATES: Final = {"": "up", "some": "down on some", "all": "down"}
_WORDS: Final = {"": "up", "some": "down on some of the {role} nodes", "all": "down"}
REJECTED: Final = "refuses"
EXPECTED: Final = "expected"


def _state(status: NodeStatus, before: str) -> str:
    if status.step is Step.SILENT:
        return EXPECTED if status.version is None and before in ("", EXPECTED) else "silent"
    if status.step is Step.IN_STEP:
        return "in step"
    if status.why.removeprefix("revoked; ").startswith(f"{REJECTED} "):
        return REJECTED
    return "lagging" if (status.since_s or 0.0) >= LAGGING_S else before or "in step"


def _node_text(name: str, before: str, after: str, why: str) -> tuple[str, str]:
    match after:
        case "":
            return f"{name} is not listed any more, and does not report", INFO
        case "expected":
            return f"{name} is listed, and has never reported", INFO
        case "silent":
            return f"{name} is silent: {why}", ERROR
        case "refuses":
            return f"{name} {why}", ERROR
        case "lagging":
            return f"{name} lags: {why}", WARNING
    if before == "silent":
        return f"{name} is back", INFO
    return (f"{name} has come" if before in ("", EXPECTED) else f"{name} is in step again"), INFO


def _drains(heard: Iterable[NodeStatus]) -> dict[str, tuple[str, str]]:
    return {each.name: ("drains", "") for each in heard if each.facts.get("resting") or each.facts.get("draining")}


def _problems(heard: Iterable[NodeStatus]) -> dict[tuple[str, str], tuple[str, str]]:
    """By node and words without their numbers, which change all the time."""
    found = {}
    for each in heard:
        problems = each.facts.get("problems")
        for problem in problems[:PROBLEMS_MOST] if isinstance(problems, list) else ():
            text = str(problem)[:TEXT_MOST]
            found[each.name, re.sub(r"\d+(\.\d+)?", "…", text)] = ("is", text)
    return found


def _vips(heard: Iterable[NodeStatus]) -> dict[tuple[str, str], tuple[str, str]]:
    found = {}
    for each in heard:
        vip = each.facts.get("vip")
        rows = vip.get("addresses") if isinstance(vip, Mapping) else None
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, Mapping) and "address" in row:
                found[each.name, str(row["address"])] = ("held" if row.get("held") else "away", "")
    return found


def _servers(model: Model, heard: Sequence[NodeStatus]) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Those that are down, by role, group and address: on all nodes that check it, or on some."""
    down: dict[tuple[str, str, str], list[str]] = {}
    checking: dict[str, int] = {}
    for node in heard:
        rows = node.facts.get("health")
        if not isinstance(rows, list) or not rows:
            continue
        checking[node.role] = checking.get(node.role, 0) + 1
        for key, why in dict(_down(model, node.role, rows)).items():
            down.setdefault(key, []).append(why)
    return {key: ("all" if len(whys) >= checking[key[0]] else "some", whys[0]) for key, whys in down.items()}


def _down(model: Model, role: str, rows: Iterable[object]) -> Iterator[tuple[tuple[str, str, str], str]]:
    for row in rows:
        if isinstance(row, Mapping) and row.get("healthy") is False:
            group, service = "", model.backend_services.get(configured(str(row.get("service", ""))))
            if service is not None:
                group = f"server_groups/{service.server_group}"
                if service.availability_group:
                    group = f"availability_groups/{service.availability_group}"
            yield (role, group, str(row.get("server")).partition("/")[0]), str(row.get("why", ""))[:TEXT_MOST]
