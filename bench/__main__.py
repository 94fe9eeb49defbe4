"""`python -m bench {NAME,all} [--quick] [--json]`: runs benchmarks and prints their rows as a table or as JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path

from bench import Row
from deploy.lab.lab import interrupted

BENCHES = (
    "l4",
    "veth",
    "l7",
    "h2",
    "rules",
    "redirects",
    "tls",
    "keyserver",
    "failover",
    "sync",
    "tlsscan",
    "config",
    "scale",
)
RESULTS = Path(__file__).parent / "results"


def as_dict(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "unit": row.unit,
        "value": row.value,
        "against": row.against,
        "against_value": row.against_value,
        "ratio": row.ratio,
        "goal": row.goal,
        "met": row.met,
    }


def table(rows: list[Row]) -> str:
    """The rows as aligned text, one line each."""
    verdicts = {True: "met", False: "MISSED", None: ""}
    cells = [("name", "value", "unit", "against", "its value", "ratio", "goal", "")]
    for row in rows:
        sign = "≥" if row.higher_is_better else "≤"
        cells.append(
            (
                row.name,
                f"{row.value:,.1f}",
                row.unit,
                row.against or "",
                "" if row.against_value is None else f"{row.against_value:,.1f}",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                "" if row.goal is None else f"{sign} {row.goal}",
                verdicts[row.met],
            )
        )
    widths = [max(len(cell[column]) for cell in cells) for column in range(8)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(c, widths, strict=True)).rstrip() for c in cells
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks next to their peers.")
    parser.add_argument("name", choices=(*BENCHES, "all"))
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--quick", action="store_true", help="under 45 seconds each, and less precise")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    RESULTS.mkdir(exist_ok=True)
    every: list[Row] = []
    for name in BENCHES if options.name == "all" else (options.name,):
        print(f"bench {name} …", file=sys.stderr, flush=True)
        rows = importlib.import_module(f"bench.{name}").run(options.quick)
        (RESULTS / f"{name}.json").write_text(json.dumps([as_dict(row) for row in rows], indent=1) + "\n")
        every += rows
    print(json.dumps([as_dict(row) for row in every], indent=1) if options.json else table(every))
    return 0


if __name__ == "__main__":
    sys.exit(main())
