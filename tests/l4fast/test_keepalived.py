"""keepalived's handling where it says odd things or nothing; `test_vrrp_netns.py` has the real one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from l4fast import keepalived
from l4fast.keepalived import CHILD_PID, CONFIGURATION, FIFO, PID, RIVAL_S, STARTED_S, Keepalived, take_off_leftovers
from l4fast.shares import Share
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings
from l4fast.vip_states import VipState

A, B = Share("192.0.2.1", 0, 2), Share("192.0.2.2", 1, 2)


class Mute(Keepalived):
    """One that runs, as this process, and takes every file."""

    def __init__(self, directory: Path, ids: tuple[int, int] = (1, 255)) -> None:
        super().__init__("/bin/true", directory, VipSettings("vrrp", ids=ids), "l4-1", ["eth0"])
        self.directory = directory
        (directory / CHILD_PID).write_text(f"{os.getpid()}\n")
        self.writer = os.open(directory / FIFO, os.O_WRONLY | os.O_NONBLOCK)

    def runs(self) -> bool:
        return True

    async def _try(self, path: Path) -> None:
        pass

    async def told(self, *lines: str) -> None:
        os.write(self.writer, "".join(f"INSTANCE {line}\n" for line in lines).encode())
        await self.poll()

    def close(self) -> None:
        os.close(self.writer)
        super().close()


@pytest.fixture
def mute(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Mute(tmp_path)
    made.states.keep(["192.0.2.1"], 0.0)
    made.states.note("192.0.2.1", VipState.BACKUP, 0.0)
    yield made
    made.close()


async def test_what_keepalived_has_not_read_is_put_to_it_again(mute: Mute, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VipError, match="keepalived does not run"):
        await mute.put([A], frozenset())
    signals = []
    monkeypatch.setattr(keepalived.os, "kill", lambda pid, number: signals.append((pid, number)))
    (mute.directory / PID).write_text("77\n")
    await mute.put([A], frozenset())
    await mute.put([A], frozenset())
    assert [each for each in signals if each[1]] == [(77, signal.SIGHUP)]
    await mute.put([A, B], frozenset())
    assert [each for each in signals if each[1]] == [(77, signal.SIGHUP)] * 2


async def test_too_many_addresses_for_the_ids(tmp_path: Path) -> None:
    mute = Mute(tmp_path, ids=(51, 51))
    try:
        with pytest.raises(VipError, match="too few for the IPv4 addresses; widen --vrrp-ids, or use --vip bgp"):
            await mute.put([A, B], frozenset())
        assert not (tmp_path / CONFIGURATION).exists()
    finally:
        mute.close()


async def test_another_master_is_a_problem_for_a_while(mute: Mute, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(keepalived.time, "time", lambda: now)
    await mute.told('"192.0.2.1" MASTER 250')
    rival = '"192.0.2.1" MASTER_RX_LOWER_PRI 250'
    await mute.told(rival, rival)
    assert mute.problems() == []  # an election
    for _ in range(100):  # ten a second
        now += 0.1
        await mute.told(rival)
    (problem,) = mute.problems()
    assert problem.startswith("two machines have the VIP 192.0.2.1")
    now += RIVAL_S
    assert mute.problems() == []
    await mute.told(rival)
    assert mute.problems() == []  # one more election


async def test_a_keepalived_that_says_nothing_is_a_problem(mute: Mute, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(keepalived.time, "time", lambda: now)
    mute.states.keep(["192.0.2.2"], now)
    now += STARTED_S
    assert mute.problems() == []
    now += 0.1
    assert ["says nothing of the VIP 192.0.2.2" in text for text in mute.problems()] == [True]


async def test_a_keepalived_that_has_gone_has_nothing(mute: Mute, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(keepalived.time, "time", lambda: now)
    await mute.told('"192.0.2.1" MASTER 250')
    (mute.directory / CHILD_PID).unlink()
    await mute.poll()
    now += STARTED_S
    await mute.poll()
    assert mute.states.of("192.0.2.1") is VipState.MASTER  # it may come back
    now += 0.1
    await mute.poll()
    assert mute.states.of("192.0.2.1") is VipState.FAULT
    assert mute.problems() == [
        f"keepalived does not run, and no VIP is held; {mute.directory}/log says why"
    ]  # fmt: skip
    (mute.directory / CHILD_PID).write_text(f"{os.getpid()}\n")
    await mute.told('"192.0.2.1" BACKUP 250')
    assert (mute.problems(), mute.states.of("192.0.2.1")) == ([], VipState.BACKUP)


def test_nothing_is_left_where_nothing_was(tmp_path: Path) -> None:
    assert take_off_leftovers(tmp_path) == []
