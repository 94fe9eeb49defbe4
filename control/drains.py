"""Which nodes drain by an operator's word: records of the space `marks`, `drain/ROLE/NAME`.

They are no part of the configuration: whoever applies a file, or goes back to an old version, ends no drain. It lasts
until it is taken back, also when node and control plane are started anew. (Servers drain by a weight of 0.)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from control.store import Store, Write

SPACE = "marks"
PREFIX = "drain/"


@dataclass(frozen=True, slots=True)
class Drain:
    """A node that is to take nothing new; since when in Unix time, and by whom."""

    role: str
    name: str
    since: float
    by: str

    @property
    def key(self) -> str:
        return f"{PREFIX}{self.role}/{self.name}"


async def drains(store: Store) -> tuple[Drain, ...]:
    """All."""
    found: list[Drain] = []
    after = PREFIX
    while page := await store.records(SPACE, after):
        after = page[-1].key
        ours = [record for record in page if record.key.startswith(PREFIX)]
        found += [Drain(**json.loads(record.value)) for record in ours]
        if len(ours) < len(page):
            break
    return tuple(found)


async def begin(store: Store, drain: Drain) -> Drain:
    """What drains already does so since then."""
    before = await store.record(SPACE, drain.key)
    if before is not None:
        return Drain(**json.loads(before.value))
    await store.write(Write(SPACE, drain.key, json.dumps(asdict(drain)).encode()))
    return drain


async def end(store: Store, drain: Drain) -> None:
    """Take it back."""
    await store.write(Write(SPACE, drain.key, None))
