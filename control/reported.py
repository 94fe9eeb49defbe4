"""A node's report as it comes in: what of it is sound is kept, and all else is refused. Pure.

What a node says of itself is handed on, in `/v1/status` and to whoever watches. So nothing may be in it that JSON
cannot say (NaN), that is nested so deeply that it cannot be written out again, or that is no number anywhere else.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

WHY_LIMIT = 2000
DEPTH_LIMIT = 32
LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Said:
    """`rejected` is (version, why) of a configuration that the node refuses."""

    version: int
    rejected: tuple[int, str] | None
    facts: dict[str, object]


def read(body: bytes) -> Said:
    """Raises ValueError for what is no report."""
    try:
        document = json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is no object")
    _check(document)
    version, rejected, facts = document.get("version"), document.get("rejected"), document.get("report")
    if type(version) is not int or not isinstance(facts, dict):
        raise ValueError("version is a number and report an object")
    if rejected is None:
        return Said(version, None, facts)
    if not isinstance(rejected, dict) or type(rejected.get("version")) is not int or "why" not in rejected:
        raise ValueError("rejected is null or has a version, a number, and why")
    return Said(version, (rejected["version"], str(rejected["why"])[:WHY_LIMIT]), facts)


def _check(document: dict[str, object]) -> None:
    """Raises ValueError."""
    level: list[dict[str, object] | list[object]] = [document]
    for _ in range(DEPTH_LIMIT):
        below: list[dict[str, object] | list[object]] = []
        for container in level:
            for value in container.values() if isinstance(container, dict) else container:
                if isinstance(value, dict | list):
                    below.append(value)
                elif isinstance(value, float) and not math.isfinite(value):
                    raise ValueError("a number is not finite")
                elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
                    raise ValueError("a number has more than 63 bits")
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {DEPTH_LIMIT} deep")
