from __future__ import annotations

from l4fast.vip_states import VipState, VipStates


def test_a_state_since_when_and_how_often_it_has_changed() -> None:
    states = VipStates()
    states.keep(["192.0.2.1", "192.0.2.2"], 100.0)
    assert states.note("192.0.2.1", VipState.BACKUP, 101.0)
    assert states.note("192.0.2.1", VipState.MASTER, 102.0)
    assert not states.note("192.0.2.1", VipState.MASTER, 103.0)
    assert states.report() == [
        {"address": "192.0.2.1", "state": "master", "held": True, "since": 102.0, "transitions": 2},
        {"address": "192.0.2.2", "state": "starting", "held": False, "since": 100.0, "transitions": 0},
    ]


def test_what_stays_keeps_its_state() -> None:
    states = VipStates()
    states.keep(["192.0.2.1", "192.0.2.2"], 100.0)
    states.note("192.0.2.1", VipState.MASTER, 102.0)
    states.keep(["192.0.2.3", "192.0.2.1"], 200.0)
    assert states.addresses() == ("192.0.2.3", "192.0.2.1")
    assert (states.of("192.0.2.1"), states.since("192.0.2.1")) == (VipState.MASTER, 102.0)
    assert states.of("192.0.2.2") is None
    assert not states.note("192.0.2.2", VipState.MASTER, 201.0)


def test_only_masters_and_the_announced_are_held() -> None:
    held = set()
    for state in VipState:
        states = VipStates()
        states.keep(["192.0.2.1"], 0.0)
        states.note("192.0.2.1", state, 1.0)
        if states.report()[0]["held"]:
            held.add(state)
    assert held == {VipState.MASTER, VipState.ANNOUNCED}
