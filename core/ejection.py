"""Passive checks: which servers are left out because the requests that they got have failed.

A streak of failures ejects a server for a time that doubles with each further ejection. It comes back on probation: one
streak short of nothing, so that its first failure ejects it again, and its first success ends the matter. A server that
has stayed in for as long as it was last out begins anew.

    state     outcome            new state
    in        succeeded          in, streak 0
    in        failed             in, streak + 1; the last of the streak: out until now + time, if there is room
    out       any                out (requests that were on their way tell nothing new)
    in        another's word     out, as that one has it (`follow`), if there is room
    out       its time is over   on probation: in, streak one short
    any       a check succeeded  in, streak 0, nothing remembered

Two streaks run side by side: connections that fail, and answers of status 5xx. Either ends by its own opposite only
where that is certain: an answer of 5xx proves that connections work.

Room is the caller's: at most `Ejection.max_percent` of the servers are out, those included that active checks have
found unhealthy. When there is none, the server stays in, its streak complete: the next failure tries again.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from core.model import Ejection

Key = TypeVar("Key", bound=Hashable)
NEVER = float("inf")


class Outcome(Enum):
    """How a request went: answered; answered with a status of 5xx; no connection, or none that lasted to the answer."""

    ANSWERED = "answered"
    ERROR = "error"
    FAILED = "failed"


@dataclass(slots=True)
class _Record:
    failures: int = 0
    errors: int = 0
    times: int = 0  # ejections in a row
    out_s: float = 0.0  # how long the last one was
    until: float = 0.0  # its end


class Ejector(Generic[Key]):
    """The servers of one backend service that have failed lately. `rules` None: none is ever ejected."""

    def __init__(self) -> None:
        self.rules: Ejection | None = None
        self.ejected: dict[Key, float] = {}  # until when
        self._records: dict[Key, _Record] = {}

    def update(self, rules: Ejection | None, servers: Collection[Key]) -> None:
        """Takes new rules and forgets servers that are gone; without rules, all."""
        self.rules = rules
        kept = servers if rules is not None else ()
        self._records = {key: record for key, record in self._records.items() if key in kept}
        self.ejected = {key: until for key, until in self.ejected.items() if key in kept}

    @property
    def attentive(self) -> bool:
        """Whether it matters that a request was answered: some server has a streak."""
        return bool(self._records)

    def observe(self, key: Key, outcome: Outcome, now: float, *, room: bool) -> float:
        """One more request has ended. Returns for how many seconds that ejects the server; 0: it does not."""
        rules = self.rules
        if rules is None or key in self.ejected:
            return 0.0
        if outcome is Outcome.ANSWERED:
            self._succeeded(key, now)
            return 0.0
        record = self._records.setdefault(key, _Record())
        if outcome is Outcome.ERROR:
            record.errors += 1
            record.failures = 0
        else:
            record.failures += 1
        over = 0 < rules.failures <= record.failures or 0 < rules.errors <= record.errors
        return self._eject(key, record, rules, now) if over and room else 0.0

    def _succeeded(self, key: Key, now: float) -> None:
        record = self._records.get(key)
        if record is None:
            return
        record.failures = record.errors = 0
        if now >= record.until + record.out_s:
            del self._records[key]

    def _eject(self, key: Key, record: _Record, rules: Ejection, now: float) -> float:
        record.times = record.times + 1 if now < record.until + record.out_s else 1
        record.out_s = min(rules.first_s * 2.0 ** min(record.times - 1, 32), rules.longest_s)
        record.until = self.ejected[key] = now + record.out_s
        return record.out_s

    def follow(self, key: Key, out_s: float, now: float, *, room: bool) -> bool:
        """Another who asks the same server has ejected it for so long. False: it is out, or there is no room."""
        if self.rules is None or key in self.ejected or not room:
            return False
        record = self._records.setdefault(key, _Record())
        record.times = record.times + 1 if now < record.until + record.out_s else 1
        record.out_s = out_s
        record.until = self.ejected[key] = now + out_s
        return True

    def next_return(self) -> float:
        """When the next server comes back; infinity while none is out."""
        return min(self.ejected.values(), default=NEVER)

    def returning(self, now: float) -> list[Key]:
        """The servers whose time is over, which are in again from now on."""
        back = [key for key, until in self.ejected.items() if until <= now]
        for key in back:
            del self.ejected[key]
            if self.rules is not None:
                record = self._records[key]
                record.failures, record.errors = max(self.rules.failures - 1, 0), max(self.rules.errors - 1, 0)
        return back

    def forgive(self, key: Key) -> bool:
        """An active check has found the server healthy again. True: it was out, and is in from now on."""
        self._records.pop(key, None)
        return self.ejected.pop(key, None) is not None
