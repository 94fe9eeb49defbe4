"""Prometheus' text format: families of samples in, text out. Pure.

What is counted stands in the kernel or in worker processes, so that each scrape begins with numbers that exist already:
there are no instruments here, only what to call the numbers and how to write them. Conventions of names are Prometheus'
(https://prometheus.io/docs/practices/naming/): base units, counters end in `_total`, a label's values are bounded by
the configuration. Source of the format: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Samples in one piece of the text: about a millisecond of work, after which others of the event loop have their turn.
PIECE_SAMPLES: Final = 500

Sample = tuple[tuple[str, ...], float]

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")
_IN_HELP: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `samples` are (values of `labels`, number). A counter's name ends in `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: Iterable[Sample]
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert all(map(_NAME.fullmatch, (self.name, *self.labels))), self.name
        assert (self.kind == "counter") is self.name.endswith("_total"), self.name


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution. `rows` are (values of `labels`, how many are in each bucket, their sum).

    A bucket is what is above the bound before and not above its own; the last one, without a bound, is the rest.
    """

    name: str
    help: str
    bounds: Sequence[float]
    rows: Iterable[tuple[tuple[str, ...], Sequence[int], float]]
    labels: tuple[str, ...] = ()
    kind: ClassVar[str] = "histogram"


def counter(name: str, help: str, samples: Iterable[Sample], labels: tuple[str, ...] = ()) -> Family:
    """A number that only rises, from zero at the start of whatever counts it."""
    return Family(name, "counter", help, samples, labels)


def gauge(name: str, help: str, samples: Iterable[Sample], labels: tuple[str, ...] = ()) -> Family:
    """A number that rises and falls."""
    return Family(name, "gauge", help, samples, labels)


def only(value: float) -> tuple[Sample, ...]:
    """The sample of a metric without labels."""
    return (((), value),)


def table(families: Iterable[Family | Histogram]) -> str:
    """A page's table of metrics, in Markdown."""
    rows = [
        f"| `{family.name}` | {family.kind} | {', '.join(f'`{label}`' for label in family.labels)} | {family.help} |"
        for family in families
    ]
    return "\n".join(["| metric | type | labels | |", "|---|---|---|---|", *rows])


def render(families: Iterable[Family | Histogram], piece_samples: int = PIECE_SAMPLES) -> Iterator[bytes]:
    """The text, in pieces of about `piece_samples` lines at most. A family without samples is left out."""
    for family in families:
        lines: list[str] = []
        headed = False
        for line in _lines(family):
            if not headed:
                lines += _heading(family)
                headed = True
            lines.append(line)
            if len(lines) >= piece_samples:
                yield "".join(lines).encode()
                lines.clear()
        if lines:
            yield "".join(lines).encode()


def _lines(family: Family | Histogram) -> Iterator[str]:
    if isinstance(family, Family):
        for values, number in family.samples:
            yield f"{family.name}{_labels(family.labels, values)} {_number(number)}\n"
        return
    for values, buckets, total in family.rows:
        below = 0
        for bound, count in zip((*family.bounds, math.inf), buckets, strict=True):
            below += count
            labels = _labels((*family.labels, "le"), (*values, _number(float(bound))))
            yield f"{family.name}_bucket{labels} {below}\n"
        labels = _labels(family.labels, values)
        yield f"{family.name}_sum{labels} {_number(total)}\n"
        yield f"{family.name}_count{labels} {below}\n"


def _heading(family: Family | Histogram) -> tuple[str, str]:
    return (
        f"# HELP {family.name} {family.help.translate(_IN_HELP)}\n",
        f"# TYPE {family.name} {family.kind}\n",
    )


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    pairs = [f'{name}="{value.translate(_IN_LABEL)}"' for name, value in zip(names, values, strict=True)]
    return f"{{{','.join(pairs)}}}"


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))  # True is 1
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
