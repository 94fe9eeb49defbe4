"""What is known of availability groups: members of the configuration, and those that nodes have learnt of. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core import spread
from core.errors import Problem
from core.members import together
from core.model import AvailabilityGroup, Model, Server
from core.reader import read_object


def document(model: Model, facts: Iterable[Mapping[str, Any]]) -> list[dict[str, object]]:
    """The zones of each group, with racks, members, their part of the weight and how many are down. `facts`: what the
    nodes report."""
    reports = list(facts)
    groups = {name: known_members(group, reports) for name, group in model.availability_groups.items()}
    return spread.report(groups, {server for report in reports for server in _down(report)})


def known_members(group: AvailabilityGroup, facts: Iterable[Mapping[str, Any]]) -> tuple[Server, ...]:
    """Members of the configuration, and those that nodes report."""
    return together(group, [_reported(report, group.name) for report in facts if spread.is_dynamic(group)])


def _reported(report: Mapping[str, Any], group: str) -> tuple[Server, ...]:
    """What one node knows of a group; whatever is no member is passed over."""
    members = report.get("members")
    rows = members.get(group) if isinstance(members, Mapping) else None
    problems: list[Problem] = []
    found = (read_object(Server, row, (), problems) for row in (rows if isinstance(rows, list) else ()))
    return tuple(each for each in found if isinstance(each, Server))


def _down(report: Mapping[str, Any]) -> Iterable[str]:
    health = report.get("health")
    for entry in health if isinstance(health, list) else ():
        if isinstance(entry, Mapping) and entry.get("healthy") is False:
            yield str(entry.get("server")).partition("/")[0]  # an L4 node says the protocol too
