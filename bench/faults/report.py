"""What a campaign has found, for people and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from bench.faults.campaign import Result
from bench.faults.events import LOST, Traffic, reasons
from bench.faults.promises import cost
from bench.faults.watch import uses


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.rjust(width) if at else cell.ljust(width)


def readable(result: Result) -> str:
    """The whole report."""
    wrong = result.wrong()
    again = ", ".join(f"{name} {count}" for name, count in sorted(result.restarts.items())) or "none"
    parts = [
        [f"seed {result.seed}: {len(result.struck)} faults in {result.seconds:.0f} s"],
        _totals(result), _by_fault(result), _resources(result),
        [str(bill) for bill in result.bills],
        [f"started again: {again}"],
        [f"NOT SO: {each}" for each in wrong] or ["every promise was kept"],
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts)


def _totals(result: Result) -> list[str]:
    rows = [("traffic", "attempts", "failed", "what")]
    for traffic in Traffic:
        attempts, failed = result.record.attempts(traffic)
        rows.append((traffic, str(attempts), str(failed), LOST[traffic]))
    return table(rows)


def _by_fault(result: Result) -> list[str]:
    """One line a fault: how long until all was well, then per kind of traffic failed/gap."""
    rows = [("fault (failed / longest time without success, s)", "well after", *Traffic)]
    for fault in result.struck:
        cells = [
            f"{each.failed or '–'}{'!' if each.wrong else ''} / {each.gap_s:.1f}" for each in cost(result.record, fault)
        ]
        after = "never" if fault.healed is None else f"{fault.healed - fault.ended:.1f} s"
        rows.append((f"{fault.number}. {fault.text}", after, *cells))
    return table(rows)


def _resources(result: Result) -> list[str]:
    rows: list[tuple[str, ...]] = [("process", "lives", "RSS MiB then", "late", "most", "files then", "late", "most")]
    for use in uses(result.samples):
        numbers = [f"{value:.0f}" for value in (*use.rss_mib, *use.files)]
        rows.append((use.process, str(use.lives), *numbers))
    return table(rows)


def as_dict(result: Result) -> dict[str, object]:
    """For JSON: times are seconds since the campaign began."""
    began = result.began
    faults = []
    for fault in result.struck:
        faults.append({
            "number": fault.number, "kind": fault.kind, "text": fault.text, "at_s": round(fault.before - began, 2),
            "ended_s": round(fault.ended - began, 2),
            "well_s": None if fault.healed is None else round(fault.healed - began, 2),
            "costs": {each.traffic: {"failed": each.failed, "wrong": each.wrong, "why": each.why,
                                     "gap_s": round(each.gap_s, 3), "may_fail": each.may.value}
                      for each in cost(result.record, fault)},
        })  # fmt: skip
    return {
        "seed": result.seed, "seconds": round(result.seconds, 1), "wrong": result.wrong(), "faults": faults,
        "traffic": {traffic: {"attempts": result.record.attempts(traffic)[0],
                              "failed": result.record.attempts(traffic)[1],
                              "why": reasons(event for event in result.record.of(traffic) if event.why)}
                    for traffic in Traffic},
        "bills": [asdict(bill) | {"right": bill.right} for bill in result.bills],
        "restarts": result.restarts, "left": result.left,
        "samples": [[round(each.at - began, 1), each.process, each.pid, round(each.rss_mib, 2), each.files]
                    for each in result.samples],
    }  # fmt: skip
