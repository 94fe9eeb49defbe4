"""When what is told to whom, with a list in place of keepalived and BIRD."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from l4fast import announcing, keepalived
from l4fast.announcing import Announcing, prepare
from l4fast.holding import Readiness
from l4fast.interfaces import carries
from l4fast.shares import Share
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings
from l4fast.vip_states import VipState
from tests.l4fast.fake_vips import FakeProgram

READY = Readiness(ready=True, probed=True, complete=True)
A, B = Share("192.0.2.1", 0, 2), Share("192.0.2.2", 1, 2)


class Rig:
    def __init__(self, method: str = "vrrp", interfaces: tuple[str, ...] = ()) -> None:
        self.now = 0.0
        self.program = FakeProgram(method)
        self.announcing = Announcing(self.program, interfaces, clock=lambda: self.now)

    async def turn(self, readiness: Readiness = READY, later_s: float = 0.25) -> list[str]:
        """What is called meanwhile."""
        before = len(self.program.calls)
        self.now += later_s
        await self.announcing._turn(self.program, readiness)
        return self.program.calls[before:]


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_a_node_that_is_not_ready_announces_nothing(rig: Rig) -> None:
    rig.announcing.want([A, B], frozenset())
    assert await rig.turn(Readiness(False, True, True)) == []
    assert await rig.turn(Readiness(True, True, False)) == []
    assert rig.announcing.report()["waits_for"] == "the peers' sessions"
    assert rig.announcing.report()["stage"] == "waiting"
    assert await rig.turn() == ["put 192.0.2.1 192.0.2.2"]
    assert rig.announcing.report()["stage"] == "holding"
    assert await rig.turn() == []


async def test_the_lease_is_renewed_whatever_happens(rig: Rig) -> None:
    await rig.turn(Readiness(False, False, False))
    rig.program.refuse = "no"
    rig.announcing.want([A], frozenset())
    await rig.turn()
    rig.announcing._holding.release()
    await rig.turn()
    assert rig.program.renewed == 3


async def test_a_full_disk_is_a_problem_and_not_the_agents_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.program, "renew", full)
    rig.announcing.want([A], frozenset())
    assert await rig.turn() == []
    assert "No space left on device" in rig.announcing.problems()[0]


async def test_what_changes_is_announced_and_what_does_not_is_left_alone(rig: Rig) -> None:
    rig.announcing.want([A], frozenset())
    assert await rig.turn() == ["put 192.0.2.1"]
    rig.announcing.want([A], frozenset())
    assert await rig.turn() == []
    rig.announcing.want([A, B], frozenset())
    assert await rig.turn(Readiness(True, False, True)) == []
    assert await rig.turn() == ["put 192.0.2.1 192.0.2.2"]
    rig.announcing.want([], frozenset())
    assert await rig.turn() == ["put "]


async def test_a_node_that_drains_announces_nothing_until_it_serves_again(rig: Rig) -> None:
    rig.announcing.want([A], frozenset())
    assert await rig.turn() == ["put 192.0.2.1"]
    rig.announcing.rest(True)
    assert await rig.turn() == ["put "]
    rig.announcing.want([A, B], frozenset())
    assert await rig.turn() == []
    rig.announcing.rest(False)
    assert await rig.turn() == ["put 192.0.2.1 192.0.2.2"]


async def test_what_is_refused_is_a_problem_and_tried_again(rig: Rig) -> None:
    rig.program.refuse = "keepalived refuses its configuration"
    rig.announcing.want([A], frozenset())
    assert await rig.turn() == ["put 192.0.2.1"]
    assert rig.announcing.problems() == ["keepalived refuses its configuration"]
    assert await rig.turn() == []
    rig.program.refuse = ""
    assert await rig.turn(later_s=announcing.RETRY_S) == ["put 192.0.2.1"]
    assert rig.announcing.problems() == []


async def test_a_program_that_has_ended_is_started_again(rig: Rig) -> None:
    rig.announcing.want([A], frozenset())
    await rig.turn()
    rig.program.alive = False
    assert await rig.turn(later_s=1.0) == ["put 192.0.2.1"]


async def test_an_interface_that_is_down_gives_the_vips_up_and_its_return_takes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    up = {"eth0": True, "eth1": True}
    monkeypatch.setattr(announcing, "carries", up.get)
    rig = Rig("bgp", ("eth0", "eth1"))
    rig.announcing.want([A], frozenset())
    assert await rig.turn() == ["put 192.0.2.1"]
    up["eth1"] = False
    assert await rig.turn(Readiness(True, False, False)) == ["put "]
    assert rig.announcing.problems() == ["the interface eth1 is down: the VIPs are given up"]
    up["eth1"] = True
    assert await rig.turn() == ["put 192.0.2.1"]
    assert rig.announcing.problems() == []


async def test_on_the_way_out_vips_go_first_and_the_program_once_it_is_quiet(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.announcing.want([A], frozenset())
    await rig.turn()
    keeping = asyncio.create_task(rig.announcing.keep(lambda: READY))
    counts = iter([1, 2, 3])
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(rig.program.calls[-1])
        rig.now += seconds
        await real_sleep(0)

    real_sleep = asyncio.sleep
    monkeypatch.setattr(announcing.asyncio, "sleep", sleep)
    last = 0

    def counters() -> dict[str, int]:
        nonlocal last
        last = next(counts, last)
        return {"tx_session": last, "tx_reply": slept.__len__()}  # answers go on coming

    began = rig.now
    await rig.announcing.release(counters)
    assert rig.program.calls[-3:] == ["withdraw", "end", "close"]
    assert "withdraw" in slept
    assert announcing.QUIET_S < rig.now - began < announcing.LINGER_S
    await keeping
    assert rig.announcing.report()["stage"] == "static"
    await rig.announcing.release(counters)


async def test_clients_who_never_cease_are_waited_for_so_long(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.announcing.want([A], frozenset())
    await rig.turn()
    packets = 0

    async def sleep(seconds: float) -> None:
        rig.now += seconds

    def counters() -> dict[str, int]:
        nonlocal packets
        packets += 1
        return {"tx_syn": packets}

    monkeypatch.setattr(announcing.asyncio, "sleep", sleep)
    began = rig.now
    await rig.announcing.release(counters)
    assert rig.now - began == pytest.approx(announcing.LINGER_S, abs=0.1)


async def test_static_vips_are_nobodys_business() -> None:
    static = Announcing(None, clock=lambda: 0.0)
    static.want([A], frozenset())
    await static.keep(lambda: READY)
    await static.release(dict)
    assert static.report() == {
        "method": "static", "stage": "static", "waits_for": "", "addresses": [], "peers": []
    }  # fmt: skip
    assert (static.problems(), static.own(), static.excused(), static.local) == ([], frozenset(), frozenset(), False)


async def test_whose_addresses_the_vips_are(rig: Rig) -> None:
    rig.announcing.want([A, B], frozenset())
    assert rig.announcing.own() == {"192.0.2.1", "192.0.2.2"}
    await rig.turn()
    rig.program.states.note("192.0.2.2", VipState.BACKUP, 0.0)
    assert rig.announcing.excused() == {"192.0.2.1"}
    by_bgp = Rig("bgp")
    by_bgp.announcing.want([A], frozenset())
    assert (by_bgp.announcing.own(), by_bgp.announcing.excused()) == (frozenset(), frozenset())


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l4fast.vip_settings.shutil.which", lambda program, **_: f"/usr/sbin/{program}")


@pytest.mark.usefixtures("installed")
def test_the_directory_is_the_nodes_own(tmp_path: Path) -> None:
    program = prepare(VipSettings("vrrp"), tmp_path, "l4-1", ["eth0"])
    assert program is not None
    program.close()
    for path, mode in ((tmp_path / "vip", 0o700), (tmp_path / "vip/notify", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert prepare(VipSettings(), tmp_path, "l4-1", ["eth0"]) is None


@pytest.mark.usefixtures("installed")
def test_what_a_killed_keepalived_has_left_is_taken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = []
    monkeypatch.setattr(keepalived.links, "remove_address", lambda device, address: removed.append((device, address)))
    (tmp_path / "vip").mkdir()
    (tmp_path / "vip" / keepalived.CONFIGURATION).write_text("    virtual_ipaddress {\n        192.0.2.1/32 dev eth0\n")
    prepare(VipSettings(), tmp_path, "l4-1", ["eth0"])
    assert removed == [("eth0", "192.0.2.1")]


@pytest.mark.usefixtures("installed")
def test_a_state_directory_that_takes_no_directory(tmp_path: Path) -> None:
    (tmp_path / "vip").write_text("")
    with pytest.raises(VipError, match="give --state a directory"):
        prepare(VipSettings("vrrp"), tmp_path, "l4-1", ["eth0"])


def test_a_link_that_is_not_there_carries_nothing() -> None:
    assert carries("lo")
    assert not carries("pftnone")


async def test_an_agent_that_goes_on_waits_for_its_configuration_and_for_nothing_else() -> None:
    program = FakeProgram()
    program.alive = True
    rig = Rig()
    rig.program = program
    rig.announcing = Announcing(program, clock=lambda: rig.now)
    assert await rig.turn(Readiness(False, True, False)) == []
    assert rig.announcing.report()["stage"] == "holding"
    rig.announcing.want([A], frozenset())
    assert await rig.turn(Readiness(False, True, False)) == []
    assert await rig.turn(Readiness(True, True, False)) == ["put 192.0.2.1"]
    assert await rig.turn() == []


async def test_an_agent_that_goes_on_and_has_no_vips_any_more_gives_them_up() -> None:
    program = FakeProgram()
    program.alive = True
    rig = Rig()
    rig.announcing = Announcing(program, clock=lambda: rig.now)
    rig.program = program
    assert await rig.turn() == ["put "]
