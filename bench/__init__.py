"""Benchmarks, each side by side with a peer or a floor in the same run.

A module here offers `run(quick: bool) -> list[Row]`; `python -m bench NAME` prints its rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `against` names the peer or floor it is held against; `goal` bounds the ratio (None: no goal).

    `higher_is_better` says whether the goal is a least (rates) or a most (costs).
    """

    name: str
    unit: str
    value: float
    against: str | None = None
    against_value: float | None = None
    goal: float | None = None
    higher_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        return self.value / self.against_value if self.against_value else None

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.ratio is None:
            return None
        return self.ratio >= self.goal if self.higher_is_better else self.ratio <= self.goal


def shown(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, each named on stderr as soon as it is measured: for benchmarks that take minutes."""
    for row in rows:
        ratio = "" if row.ratio is None else f", {row.ratio:.2f} × {row.against}"
        print(f"  {row.name}: {row.value:,.1f} {row.unit}{ratio}", file=sys.stderr, flush=True)
        yield row
