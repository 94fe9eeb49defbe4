"""Who sends most requests to a worker, and which servers get them, while somebody asks. Pure.

Nothing is counted otherwise. Of the fast lane's exchanges, which come in batches, one in SAMPLE is looked at and counts
for all of them; of a batch that is short, each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from core.talkers import TOLD_MOST, Watch, together
from proxy.access_log import Record, Visit

SAMPLE: Final = 8  # 70 ns a request
SHORT: Final = 32
READY_S: Final = 1.0  # before that there is little to tell
RATES: Final = ("requests_per_s", "bytes_in_per_s", "bytes_out_per_s")
KINDS: Final = {"client": 3, "server": 3}  # requests, bytes in, bytes out


class Talkers:
    """Those of a worker."""

    def __init__(self) -> None:
        self.watch = Watch(KINDS)
        self._turn = 0

    @property
    def on(self) -> bool:
        return self.watch.on

    def record(self, record: Record) -> None:
        amounts = 1, record.bytes_in, record.bytes_out
        self.watch.now["client"].add(record.client, amounts)
        if record.upstream:
            self.watch.now["server"].add(record.upstream, amounts)

    def visits(self, visits: Sequence[Visit]) -> None:
        clients, servers = self.watch.now["client"], self.watch.now["server"]
        each = SAMPLE if len(visits) >= SHORT else 1
        self._turn = (self._turn + 1) % SAMPLE
        for visit in visits[self._turn % each :: each]:
            amounts = each, visit[6] * each, visit[7] * each
            clients.add(visit[1].client, amounts)
            servers.add(visit[9], amounts)

    def told(self, by: str, now: float) -> list[Any]:
        """For the supervisor: (seconds, rows) as a list of one."""
        if by not in KINDS:
            return []
        if not self.watch.on:
            self.watch.ask(now)
            return [[0.0, []]]
        self.watch.ask(now)
        return [self.watch.top(by, TOLD_MOST, now)]


async def asked(workers: Callable[..., Awaitable[list[Any]]], by: str) -> dict[str, object]:
    """All workers' together; `workers` asks them. Raises ValueError."""
    if by not in KINDS:
        raise ValueError(f"by is one of {', '.join(KINDS)}")
    told = await workers("talkers", by=by)
    rows = together([[(name, tuple(amounts)) for name, amounts in each] for _, each in told], TOLD_MOST)
    seconds = max((seconds for seconds, _ in told), default=0.0)
    shown = [
        {by: name, **{key: round(each, 3) for key, each in zip(RATES, amounts, strict=True)}} for name, amounts in rows
    ]
    return {"ready": seconds >= READY_S, "window_s": round(seconds, 3), "talkers": shown}
