"""Members of availability groups that register themselves: records of the space `marks`, `member/…`.

A member stays for as long as it asks for (`ttl_s`) and has to ask again before that is over. They are no part of the
configuration: no version is made for one that comes or goes. The clock is Unix time, so that every control node and a
new process see the same end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from control.store import RecordConflictError, Store, Write
from core.model import Server

SPACE = "marks"
PREFIX = "member/"
KEPT_S = 60.0  # after its end, so that its record is deleted once and not by all control nodes together
MEMBERS_LIMIT = 1024  # of one group


class FullError(Exception):
    """A group has as many members as it may."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A member of `group` until `expires`."""

    group: str
    address: str
    port: int
    expires: float
    ttl_s: int
    by: str
    weight: int = 100
    zone: str = ""
    rack: str = ""

    @property
    def key(self) -> str:
        return f"{PREFIX}{self.group}/{self.address}/{self.port}"

    @property
    def server(self) -> Server:
        return Server(self.address, self.port, self.weight, self.zone, self.rack)


async def registrations(store: Store, now: float) -> tuple[Registration, ...]:
    """Those that have not ended. Deletes what has, some time ago."""
    found: list[Registration] = []
    after = PREFIX
    while page := await store.records(SPACE, after):
        after = page[-1].key
        ours = [record for record in page if record.key.startswith(PREFIX)]
        for record in ours:
            each = Registration(**json.loads(record.value))
            if each.expires > now:
                found.append(each)
            elif each.expires + KEPT_S <= now:
                await _forget(store, Write(SPACE, record.key, None, record.revision))
        if len(ours) < len(page):
            break
    return tuple(found)


async def _forget(store: Store, write: Write) -> None:
    try:
        await store.write(write)
    except RecordConflictError:
        return  # it has come back, or another control node was faster


async def register(store: Store, member: Registration, known: Iterable[Registration]) -> None:
    """Writes a member, new or again. `known`: those that are there. Raises FullError."""
    same = [each for each in known if each.group == member.group]
    if len(same) >= MEMBERS_LIMIT and member.key not in {each.key for each in same}:
        raise FullError(f"{member.group} has {len(same)} registered members; at most {MEMBERS_LIMIT} may be")
    await store.write(Write(SPACE, member.key, json.dumps(asdict(member)).encode()))


async def leave(store: Store, key: str) -> bool:
    """Takes a member out; whether there was one."""
    if await store.record(SPACE, key) is None:
        return False
    await store.write(Write(SPACE, key, None))
    return True


def by_group(members: Iterable[Registration]) -> Mapping[str, list[list[object]]]:
    """As nodes are told: the fields of `Server`, in their order."""
    found: dict[str, list[list[object]]] = {}
    for each in members:
        found.setdefault(each.group, []).append([each.address, each.port, each.weight, each.zone, each.rack])
    return found
