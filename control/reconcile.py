"""What the cluster should run against what its nodes say they run. Pure.

A node is *in step* when it runs the current version, *lagging* when it reports but runs another one, *silent* when its
reports have stopped or never came. Nodes that report without being listed in the configuration are shown as well: they
serve traffic all the same. A configuration that lists no nodes (one machine) misses none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from core.model import Model, Role

REVOKED = "revoked"
SILENT_AFTER_S = 5.0  # five reports in a row are missing

# The key server takes its keys and policy from its own machine, not from here, and does not report.
REPORTING = frozenset({Role.L4, Role.L7})


class Step(StrEnum):
    IN_STEP = "in step"
    LAGGING = "lagging"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Report:
    """The last that a node has said. `rejected` is (version, why) of a configuration that it refuses."""

    role: str
    name: str
    version: int
    rejected: tuple[int, str] | None
    age_s: float
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node. `version` and `age_s` are None if it has never reported; `why` explains what is not in step."""

    role: str
    name: str
    step: Step
    why: str
    version: int | None
    age_s: float | None
    facts: Mapping[str, object]
    listed: bool
    since_s: float | None = None  # for how long it has not been in step
    member: str = ""  # "revoked" where its identity is refused


def reconcile(
    version: int,
    model: Model,
    reports: Iterable[Report],
    ages_s: Mapping[int, float] = MappingProxyType({}),
    revoked: Collection[tuple[str, str]] = (),
) -> tuple[NodeStatus, ...]:
    """The status of every node that is listed in the configuration or has reported, by role and name.

    `ages_s`: for how long each of the last versions has been there. `revoked`: roles and names.
    """
    listed = {(node.role.value, node.name) for node in model.nodes.values() if node.role in REPORTING}
    known = {(report.role, report.name): report for report in reports}
    statuses = [_status(version, report, not model.nodes or key in listed) for key, report in known.items()]
    statuses += [
        NodeStatus(role, name, Step.SILENT, "has never reported", None, None, {}, True)
        for role, name in listed - known.keys()
    ]
    placed = [
        replace(
            status,
            since_s=_since_s(status, ages_s),
            member=REVOKED if (status.role, status.name) in revoked else "",
            why=f"revoked; {status.why}".removesuffix("; ") if (status.role, status.name) in revoked else status.why,
        )
        for status in statuses
    ]
    return tuple(sorted(placed, key=lambda status: (status.role, status.name)))


def _since_s(status: NodeStatus, ages_s: Mapping[int, float]) -> float | None:
    """For how long it has not been in step: since the first version that it does not run, as far as that is known."""
    if status.step is Step.IN_STEP or status.age_s is None:
        return None
    if status.step is Step.SILENT:
        return status.age_s
    missed = [age_s for version, age_s in ages_s.items() if status.version is not None and version > status.version]
    return round(max(missed), 3) if missed else None


def _status(version: int, report: Report, listed: bool) -> NodeStatus:
    step, why = Step.IN_STEP, ""
    if report.age_s > SILENT_AFTER_S:
        step, why = Step.SILENT, f"no report for {report.age_s:.0f} s"
    elif report.version != version:
        step, why = Step.LAGGING, f"runs version {report.version}, not {version}"
        if report.rejected is not None and report.rejected[0] == version:
            why = f"refuses version {version}: {report.rejected[1]}"
    return NodeStatus(
        report.role, report.name, step, why, report.version, round(report.age_s, 3), report.facts, listed
    )  # fmt: skip
