"""What each fault may cost, and whether it has cost more. Pure.

Where nothing is said here about a kind of fault and a kind of traffic, the promise is that nothing is lost: no attempt
fails, whether it was under way or begins while the fault lasts. `IN_FLIGHT`: attempts that were under way in the moment
of the fault may fail, no others. `NOTICED`: so may those that begin until health checks have noticed, or until the
process is back. `WHILE`: so may all that begin while the fault lasts, and a while after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from bench.faults.events import Event, Record, Traffic, reasons

# Two checks in a row have to fail, which are 1 s apart and wait for 1 s; a loaded machine needs a while for all.
NOTICE_S = 6.0
# From SIGKILL until the last socket of the process is gone, on a machine with other work: what comes in there is lost.
DYING_S = 0.25


class May(Enum):
    """Which attempts may fail."""

    NONE = "none"
    IN_FLIGHT = "those under way"
    NOTICED = "until noticed"
    WHILE = "while it lasts"


T = Traffic
_YOUNG = {T.TCP_NEW: May.NOTICED, T.UDP: May.NOTICED, T.TLS_NEW: May.IN_FLIGHT, T.TLS_RESUMED: May.IN_FLIGHT}
_L7_GONE = {T.HTTP: May.NOTICED, T.DOWNLOAD: May.NOTICED, T.TLS_NEW: May.NOTICED, T.TLS_RESUMED: May.NOTICED}
_SERVER_GONE = {
    T.TCP: May.NOTICED, T.TCP_NEW: May.NOTICED, T.UDP: May.NOTICED, T.HTTP: May.IN_FLIGHT, T.DOWNLOAD: May.IN_FLIGHT,
    T.TLS_NEW: May.IN_FLIGHT, T.TLS_RESUMED: May.IN_FLIGHT,
}  # fmt: skip
_API = {T.API: May.WHILE}
PROMISES: Mapping[str, Mapping[Traffic, May]] = {
    "l4-node-dead": _YOUNG,
    "l4-unplugged": _YOUNG,
    "l4-l4-cut": {T.UDP: May.WHILE},
    "l4-l4-cut-one-way": {T.UDP: May.WHILE},
    "l7-supervisor-killed": _L7_GONE,
    "l7-worker-killed": {T.HTTP: May.IN_FLIGHT, T.DOWNLOAD: May.IN_FLIGHT, T.TLS_NEW: May.IN_FLIGHT,
                         T.TLS_RESUMED: May.IN_FLIGHT},
    "l7-node-dead": _L7_GONE,
    "server-killed": _SERVER_GONE,
    "server-frozen": {T.UDP: May.WHILE},
    "control-killed": _API,
    "control-frozen": _API,
    "control-disk-full": _API,
    "l4-l7-cut": _L7_GONE,
    "l4-l7-cut-one-way": _L7_GONE,
}  # fmt: skip
# Of datagrams, which nobody sends again, this many may be missing from each fault, and from the time between faults:
# a machine that stands still for a moment loses some between namespaces, as what TCP sends again then shows.
SPARE = {T.UDP: 4}
BACK_S = 45.0  # all processes run and are in step, so long after the fault has ended


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault as it went: when it struck (from a moment before to one after), when it ended, when all was well
    again (None: not within the bound)."""

    number: int
    kind: str
    text: str
    before: float
    struck: float
    ended: float
    healed: float | None
    note: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def until(self) -> float:
        return self.healed if self.healed is not None else self.ended + BACK_S


@dataclass(frozen=True, slots=True)
class Cost:
    """What one fault has cost one kind of traffic. `wrong`: how many failed that should not have."""

    traffic: Traffic
    failed: int
    wrong: int
    why: dict[str, int]
    gap_s: float
    may: May


def may(kind: str, traffic: Traffic) -> May:
    return PROMISES.get(kind, {}).get(traffic, May.NONE)


def allowed(event: Event, fault: Struck) -> bool:
    """Whether this attempt may have failed on behalf of the fault."""
    if event.traffic is T.TCP and event.who not in fault.hosts:
        return False  # a connection may be lost with its server alone
    match may(fault.kind, event.traffic):
        case May.NONE:
            return False
        case May.IN_FLIGHT:
            return event.began <= fault.struck + DYING_S
        case May.NOTICED:
            return event.began <= fault.struck + NOTICE_S
        case May.WHILE:
            return event.began <= fault.until + NOTICE_S


def cost(record: Record, fault: Struck) -> list[Cost]:
    """Of every kind of traffic."""
    found = []
    for traffic in Traffic:
        failed = record.failed(traffic, fault.before, fault.until)
        wrong = [event for event in failed if not allowed(event, fault)]
        gap_s = record.gap_s(traffic, fault.before, fault.until)
        found.append(Cost(traffic, len(failed), len(wrong), reasons(failed), gap_s, may(fault.kind, traffic)))
    return found


def broken(record: Record, faults: Sequence[Struck]) -> list[str]:
    """Every promise that was not kept, in words."""
    said = []
    for fault in faults:
        for each in cost(record, fault):
            if each.wrong > SPARE.get(each.traffic, 0):
                said.append(f"{fault.number}. {fault.text}: {each.wrong} of {each.traffic} failed: {each.why}")
        if fault.healed is None:
            said.append(f"{fault.number}. {fault.text}: not back and in step {BACK_S:.0f} s after: {fault.note}")
    windows = [(fault.before, fault.until) for fault in faults]
    for traffic in Traffic:
        outside = record.outside(traffic, windows)
        if len(outside) > SPARE.get(traffic, 0):
            said.append(f"while there was no fault {len(outside)} of {traffic} failed: {reasons(outside)}")
    return said
