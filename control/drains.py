"""What drains by an operator's word: nodes, and servers of a group; records of the space `marks`, `drain/…`.

They are no part of the configuration: whoever applies a file, or goes back to an old version, ends no drain. A drain
that has been asked for lasts until it is taken back, also when node and control plane are started anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from control.store import Store, Write

SPACE = "marks"
PREFIX = "drain/"


@dataclass(frozen=True, slots=True)
class Drain:
    """A node (`role`, `name`) or a server (`group`, `address`, `port`); since when in Unix time."""

    since: float
    by: str
    timeout_s: float = 0.0  # 0: no time was given
    role: str = ""
    name: str = ""
    group: str = ""
    address: str = ""
    port: int = 0

    @property
    def key(self) -> str:
        if self.group:
            return f"{PREFIX}server/{self.group}/{self.address}/{self.port}"
        return f"{PREFIX}node/{self.role}/{self.name}"


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


async def begin(store: Store, drain: Drain) -> None:
    """What drains already goes on since then, with the new time."""
    before = await store.record(SPACE, drain.key)
    since = drain.since if before is None else json.loads(before.value)["since"]
    await store.write(Write(SPACE, drain.key, json.dumps({**asdict(drain), "since": since}).encode()))


async def end(store: Store, drain: Drain) -> bool:
    """Take it back; whether there was one."""
    if await store.record(SPACE, drain.key) is None:
        return False
    await store.write(Write(SPACE, drain.key, None))
    return True
