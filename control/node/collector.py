"""How seldom this process looks for garbage in cycles: what handles requests leaves next to none.

A configuration of 10,000 listeners, rules and servers is half a million objects of Python's, none of them garbage, and
each full collection walks over all of them: 40 ms in which nothing else happens. So they are rare, and what a process
has loaded by its start is left alone for good.
"""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (50_000, 20, 20)


def relax() -> None:
    """To be called once, when everything is imported."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
