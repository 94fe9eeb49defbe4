"""A redirect map of 100,000 entries: what it costs to be checked, made ready, asked and changed, and its memory.

CPU time of one core, the best of several runs; paths are random, so that the memory's caches are of no more help than
they would be.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from bench import Row, shown
from core import redirects
from core.delta import difference, patched
from core.model import Model, RedirectMap
from core.redirects import entries
from proxy.redirect_map import Table

ENTRIES = 100_000
GOAL_NS = 1000.0


def map_of(count: int) -> RedirectMap:
    """A map of so many entries, each some 100 characters."""
    draw = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz-"

    def path(number: int) -> str:
        words = ("".join(draw.choices(letters, k=draw.randint(4, 14))) for _ in range(4))
        return f"/{'/'.join(words)}-{number}"

    return RedirectMap("m", entries="\n".join(f"{path(number)} {path(number)}" for number in range(count)))


def run(quick: bool) -> list[Row]:
    """See the module."""
    return list(shown(_rows(map_of(ENTRIES), 2 if quick else 7)))


def _rows(made: RedirectMap, times: int) -> Iterator[Row]:
    yield Row("text", "MB", len(made.entries) / 1e6)
    yield Row("checked as a whole", "ms", _ms(times, lambda: list(redirects._faults(made.entries))))
    yield Row("made ready in a worker", "ms", _ms(times, lambda: Table.of(made)))
    table, held = Table.of(made), {each.source.encode(): each for each in entries(made.entries)}
    of_dict = (
        sys.getsizeof(held) + sum(map(sys.getsizeof, held)) + sum(sys.getsizeof(each.to) for each in held.values())
    )
    yield Row("memory besides the text", "MB", table.size_bytes / 1e6, "dict of bytes", of_dict / 1e6)
    found = list(held)
    random.Random(2).shuffle(found)
    missing = [each + b"x" for each in found]
    for name, keys in (("found", found), ("not found", missing)):
        yield Row(f"look-up, {name}", "ns", _ns(times, lambda key: table.find(b"h", key), keys), "1 µs", GOAL_NS, 1.0)
    lines = made.entries.split("\n")
    lines[ENTRIES // 2] = "/changed /entry"
    old, new = (
        Model(redirect_maps={"m": each}) for each in (made, RedirectMap("m", entries="\n".join([*lines, "/new /one"])))
    )
    delta = difference(old, new)
    yield Row("a change of two entries, sent", "bytes", len(json.dumps(delta)))
    yield Row("a change of two entries, found", "ms", _ms(times, lambda: difference(old, new)))
    yield Row("a change of two entries, put into effect", "ms", _ms(times, lambda: patched(old, delta)))


def _ms(times: int, work: Callable[[], object]) -> float:
    return min(_once(work) for _ in range(times)) * 1e3


def _once(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _ns(times: int, ask: Callable[[bytes], object], keys: Sequence[bytes]) -> float:
    def every() -> None:
        for key in keys:
            ask(key)

    def nothing() -> None:
        for _ in keys:
            pass

    return (min(_once(every) for _ in range(times)) - min(_once(nothing) for _ in range(times))) / len(keys) * 1e9
