"""Waits for what nobody announces: a condition is looked at again and again until it holds.

A wait costs nothing where things go well, so its limit is one that a loaded machine keeps. When it is over, the test
fails with what was waited for: the words given, or else the condition's own source, and what `said` has to tell.
"""

from __future__ import annotations

import asyncio
import inspect
import textwrap
import time
from collections.abc import Callable

LIMIT_S = 60.0
LOOK_S = 0.005
SELDOM_S = 0.1  # in the end, of those that block: what they look at may be a command of its own


async def until(
    condition: Callable[[], object], what: str = "", *, limit_s: float = LIMIT_S, said: Callable[[], object] = str
) -> None:
    """Lets the event loop run until the condition holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(_in_vain(condition, what, limit_s, said))
        await asyncio.sleep(LOOK_S)


def eventually(
    condition: Callable[[], object], what: str = "", *, limit_s: float = LIMIT_S, said: Callable[[], object] = str
) -> None:
    """Blocks until the condition holds."""
    deadline, pause_s = time.monotonic() + limit_s, LOOK_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(_in_vain(condition, what, limit_s, said))
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, SELDOM_S)


def _in_vain(condition: Callable[[], object], what: str, limit_s: float, said: Callable[[], object]) -> str:
    if not what:
        try:
            what = textwrap.dedent(inspect.getsource(condition)).strip()
        except (OSError, TypeError):  # a builtin, or a method of one
            what = repr(condition)
    return "\n".join(filter(None, (f"in vain for {limit_s:g} s: {what}", str(said()))))
