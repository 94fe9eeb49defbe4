"""Which of two entries of one flow holds: the rule of bpf/merge.h as a pure function, for the tests that hold the
program to it and for those that need tables without a kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from l4fast.sessions import STATES

ESTABLISHED, UNPROVEN, FIN_WAIT, CLOSED, UDP, ANSWER = range(len(STATES))
LIFE = {UNPROVEN: 0, ESTABLISHED: 1, UDP: 1, ANSWER: 1, FIN_WAIT: 2, CLOSED: 3}
HAS_ENDED = 2
SYNC_PACKETS = 3
WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class Entry:
    """What merging looks at. `way`: server, mode and source."""

    way: int
    last_s: int
    state: int = ESTABLISHED
    packets: int = 3
    learnt: bool = False


def merged(here: Entry | None, told: Entry) -> Entry | None:
    """What is in the table when a peer's record has been merged."""
    if told.state not in LIFE or (told.state == UNPROVEN and told.packets < SYNC_PACKETS):
        return here
    if here is None:
        return replace(told, learnt=True)
    if told.last_s < here.last_s:
        return here
    later = told.last_s > here.last_s
    if told.way != here.way:
        goes_on = LIFE[told.state] < HAS_ENDED <= LIFE[here.state]
        return replace(told, learnt=True) if later or goes_on else here
    more = 0 < (told.packets - here.packets) % WRAP < WRAP // 2
    if later or more:
        return replace(told, learnt=here.learnt)
    return replace(here, state=told.state) if LIFE[told.state] > LIFE[here.state] else here
