"""Which faults there are, whom each can strike, how long it lasts, and in which order a campaign has them. Pure.

A campaign deals its kinds like a deck of cards: shuffled, each once, then shuffled again; so that a short one has as
many kinds as it can, and a long one has each about equally often. All choices come from the seed and the number of the
fault, none from the time: a campaign with the same seed has the same faults in the same order, however fast it goes.
One fault is dealt with before the next begins: what a fault has done could not be told from what another has.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

PAUSE_S = (3.0, 6.0)  # all is well for so long before the next one


class Act(StrEnum):
    """What is done."""

    KILL = "kill"  # SIGKILL to the main process
    KILL_WORKER = "kill a worker"
    KILL_ALL = "power off"  # of a whole node: cable, processes, what its kernel knew
    UNPLUG = "unplug"
    CUT = "cut"  # nothing from either to the other
    CUT_ONE_WAY = "cut one way"  # nothing from the first to the second
    FREEZE = "freeze"  # SIGSTOP to all processes of the host, later SIGCONT
    FREEZE_WORKER = "freeze a worker"
    FILL = "fill the disk"  # of its state directory


@dataclass(frozen=True, slots=True)
class Kind:
    """`roles`: of the hosts that it strikes, one of each; for a cut the two ends, which may have one role."""

    name: str
    act: Act
    roles: tuple[str, ...]
    lasts_s: tuple[float, float] = (0.0, 0.0)


_MOMENT, _WHILE = (1.0, 2.5), (3.0, 8.0)  # shorter, and longer, than health checks need
KINDS = (
    Kind("l4-agent-killed", Act.KILL, ("l4",)),
    Kind("l4-node-dead", Act.KILL_ALL, ("l4",), _WHILE),
    Kind("l4-unplugged", Act.UNPLUG, ("l4",), _WHILE),
    Kind("l4-frozen", Act.FREEZE, ("l4",), _WHILE),
    Kind("l4-announcer-killed", Act.KILL_WORKER, ("l4",)),
    Kind("l7-supervisor-killed", Act.KILL, ("l7",)),
    Kind("l7-worker-killed", Act.KILL_WORKER, ("l7",)),
    Kind("l7-node-dead", Act.KILL_ALL, ("l7",), _WHILE),
    Kind("l7-frozen", Act.FREEZE, ("l7",), _WHILE),
    Kind("l7-worker-frozen", Act.FREEZE_WORKER, ("l7",), _MOMENT),
    Kind("keyserver-killed", Act.KILL, ("keyserver",)),
    Kind("keyserver-worker-killed", Act.KILL_WORKER, ("keyserver",)),
    Kind("keyserver-frozen", Act.FREEZE, ("keyserver",), _WHILE),
    Kind("control-killed", Act.KILL, ("control",)),
    Kind("control-frozen", Act.FREEZE, ("control",), _WHILE),
    Kind("server-killed", Act.KILL, ("backend",)),
    Kind("server-frozen", Act.FREEZE, ("backend",), _WHILE),
    Kind("l4-l7-cut", Act.CUT, ("l4", "l7"), _WHILE),
    Kind("l4-l7-cut-one-way", Act.CUT_ONE_WAY, ("l4", "l7"), _WHILE),
    Kind("l7-keyserver-cut", Act.CUT, ("l7", "keyserver"), _WHILE),
    Kind("keyserver-l7-cut-one-way", Act.CUT_ONE_WAY, ("keyserver", "l7"), _WHILE),
    Kind("l7-server-cut", Act.CUT, ("l7", "backend"), _WHILE),
    Kind("l4-control-cut", Act.CUT, ("l4", "control"), _WHILE),
    Kind("control-l7-cut-one-way", Act.CUT_ONE_WAY, ("control", "l7"), _WHILE),
    Kind("l4-l4-cut", Act.CUT, ("l4", "l4"), _WHILE),
    Kind("l4-l4-cut-one-way", Act.CUT_ONE_WAY, ("l4", "l4"), _WHILE),
    Kind("control-disk-full", Act.FILL, ("control",), _WHILE),
    Kind("l4-disk-full", Act.FILL, ("l4",), _WHILE),
    Kind("l7-disk-full", Act.FILL, ("l7",), _WHILE),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}
ANNOUNCED = frozenset({"l4-announcer-killed"})  # where L4 nodes announce the VIPs by a daemon of their own


@dataclass(frozen=True, slots=True)
class Fault:
    """One of a campaign: `hosts` as `kind.roles`, `pick` chooses among a host's workers (a number from 0 to 1)."""

    number: int
    kind: Kind
    hosts: tuple[str, ...]
    lasts_s: float
    pause_s: float
    pick: float

    def __str__(self) -> str:
        ends = " → ".join(self.hosts) if self.kind.act is Act.CUT_ONE_WAY else " ".join(self.hosts)
        return f"{self.kind.name} {ends}" + (f" for {self.lasts_s:.1f} s" if self.lasts_s else "")


def chosen(words: Sequence[str], *, announced: bool) -> tuple[Kind, ...]:
    """The kinds whose name is one of `words` or begins with it (`l7`, `control-disk`); all of them for none. Raises
    ValueError with the word that fits nothing."""
    possible = [kind for kind in KINDS if announced or kind.name not in ANNOUNCED]
    for word in words:
        if not any(kind.name == word or kind.name.startswith(f"{word}-") for kind in possible):
            raise ValueError(f"no kind of fault begins with {word!r}; there are {', '.join(k.name for k in possible)}")
    return tuple(
        kind
        for kind in possible
        if not words or any(kind.name == word or kind.name.startswith(f"{word}-") for word in words)
    )


def faults(seed: int, kinds: Sequence[Kind], hosts: Mapping[str, Sequence[str]]) -> Iterator[Fault]:
    """Without end. `hosts`: the names of each role's."""
    dice = random.Random(seed)
    number = 0
    while True:
        deck = list(kinds)
        dice.shuffle(deck)
        for kind in deck:
            number += 1
            struck: list[str] = []
            for role in kind.roles:
                struck.append(dice.choice([host for host in hosts[role] if host not in struck]))
            lasts_s = round(dice.uniform(*kind.lasts_s), 1)
            yield Fault(number, kind, tuple(struck), lasts_s, round(dice.uniform(*PAUSE_S), 1), dice.random())
