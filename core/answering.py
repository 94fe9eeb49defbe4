"""What the L7 tier says to browsers in its servers' place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from core.fields import HOST_NAME, METHOD, Pattern, Range

_HOST = rf"(\*\.)?{HOST_NAME}"
CORS_ORIGIN = Pattern(
    rf"\*|https?://({_HOST}|\[[0-9a-f:.]+\])(:[1-9][0-9]{{0,4}})?",
    "an origin such as https://app.example or https://*.app.example:8443, or * alone",
)
CORS_FIELD = Pattern(r"\*|[!#$%&'+.^_`|~0-9A-Za-z-]{1,128}", "a field name of at most 128 characters, or *")


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages of other origins may send requests by a script and read the answers (CORS, the Fetch standard).

    What browsers ask before (preflights) is answered by the L7 tier. `https://*.app.example` stands for every host
    below app.example, not for that itself; `*` alone stands for any origin.
    """

    origins: tuple[Annotated[str, CORS_ORIGIN], ...]
    methods: tuple[Annotated[str, METHOD], ...] = ("GET", "HEAD", "POST")
    headers: tuple[Annotated[str, CORS_FIELD], ...] = ()
    exposed_headers: tuple[Annotated[str, CORS_FIELD], ...] = ()
    credentials: bool = False
    max_age_s: Annotated[int, Range(0, 86_400, "s")] = 600
