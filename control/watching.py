"""What those who watch the cluster are told: differences of two pictures of it, as server-sent events. Pure.

A picture is what the nodes report, less what moves all the time: each node's step, version and problems, each server's
health. Between two pictures lies a bounded number of events, however long a slow reader was away: nothing is queued.
Versions of the configuration have a number, the event's id; pictures have none and begin anew with each connection.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from control.reconcile import NodeStatus

HEARTBEAT = b": still here\n\n"


class Topic(StrEnum):
    """What may be watched: versions of the configuration, the nodes, the servers' health, what happens."""

    VERSION = "version"
    NODE = "node"
    SERVER = "server"
    EVENT = "event"


RESET = "reset"  # the versions that came before are not told: read the configuration


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is a version of the configuration, from which a reader may go on."""

    name: str
    data: Mapping[str, object]
    id: int | None = None

    def encode(self) -> bytes:
        """As it stands in the stream (HTML, server-sent events)."""
        identifier = "" if self.id is None else f"id: {self.id}\n"
        return f"{identifier}event: {self.name}\ndata: {json.dumps(self.data)}\n\n".encode()


NodeKey = tuple[str, str]
ServerKey = tuple[str, str, str, str]  # role and name of the node, service (empty: L4), server


@dataclass(frozen=True, slots=True)
class Picture:
    """The nodes and the servers as they are seen."""

    nodes: Mapping[NodeKey, Mapping[str, object]] = field(default_factory=dict)
    servers: Mapping[ServerKey, tuple[bool, str]] = field(default_factory=dict)


def picture(statuses: Iterable[NodeStatus]) -> Picture:
    """What the nodes report now. Reports that are not formed as they should be have no servers."""
    nodes: dict[NodeKey, Mapping[str, object]] = {}
    servers: dict[ServerKey, tuple[bool, str]] = {}
    for status in statuses:
        problems = status.facts.get("problems")
        nodes[status.role, status.name] = {
            "role": status.role, "name": status.name, "step": status.step.value, "version": status.version,
            "problems": [str(each) for each in problems] if isinstance(problems, list) else [],
            "listed": status.listed,
        }  # fmt: skip
        health = status.facts.get("health")
        for entry in health if isinstance(health, list) else ():
            if isinstance(entry, Mapping) and isinstance(entry.get("healthy"), bool):
                key = (status.role, status.name, str(entry.get("service", "")), str(entry.get("server")))
                servers[key] = (entry["healthy"], str(entry.get("why", "")))
    return Picture(nodes, servers)


def beginning(seen: Picture) -> Iterator[Event]:
    """What a reader gets first: every node, and the servers that are not healthy."""
    yield from differences(Picture(), Picture(seen.nodes))
    unhealthy = {key: value for key, value in seen.servers.items() if not value[0]}
    yield from differences(Picture(), Picture(servers=unhealthy))


def differences(before: Picture, after: Picture) -> Iterator[Event]:
    """What leads from one picture to the other. What is seen no more has the step `gone`, or null as its health."""
    for node, told in after.nodes.items():
        if before.nodes.get(node) != told:
            yield Event(Topic.NODE, told)
    for node in before.nodes.keys() - after.nodes.keys():
        yield Event(Topic.NODE, {**before.nodes[node], "step": "gone", "problems": []})
    for server, (healthy, why) in after.servers.items():
        if server not in before.servers or before.servers[server][0] is not healthy:  # each check has a why of its own
            yield _server(server, healthy, why)
    for server in before.servers.keys() - after.servers.keys():
        yield _server(server, None, "")


def _server(key: ServerKey, healthy: bool | None, why: str) -> Event:
    role, node, service, server = key
    told = {"role": role, "node": node, "service": service, "server": server, "healthy": healthy, "why": why}
    return Event(Topic.SERVER, told)
