"""What may come of requests: the tables of rules and of http and https listeners that limit them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from core.fields import HASH_KEY, Kind, Pattern, Range, Ref


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests a second: of all together, or of each value of a `key`.

    What is more waits for up to `max_delay_s`, or is refused with 429. A request without the key is not limited.
    """

    rate_per_s: Annotated[float, Range(0.001, 1_000_000, "requests/s")]
    burst: Annotated[int, Range(0, 1_000_000)] = 0
    key: Annotated[str, Pattern(rf"|{HASH_KEY.regex}", HASH_KEY.what)] = ""
    prefix: Annotated[int, Range(8, 32)] = 32
    prefix_v6: Annotated[int, Range(8, 128)] = 64
    max_delay_s: Annotated[float, Range(0, 30, "s")] = 0.0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Mirror:
    """Copies of a rule's requests, or of a part of them, to a backend service whose answers nobody gets."""

    backend_service: Annotated[str, Ref(Kind.BACKEND_SERVICES)]
    percent: Annotated[float, Range(0, 100, "%")] = 100.0
    max_body_bytes: Annotated[int, Range(0, 1_048_576, "bytes")] = 65_536
