"""Units as systemd reads them; changes; bills; growth: the judges of a fault campaign."""

from __future__ import annotations

import pytest

from bench.faults import units
from bench.faults.bills import bills, metered
from bench.faults.changes import GROUPS, Tried, group, number_of
from bench.faults.cut import program
from bench.faults.events import Event, Record, Traffic
from bench.faults.promises import Struck
from bench.faults.watch import Sample, uses
from deploy.lab.topology import mac_of

MIXED = "[Service]\nRestart=always\nRestartSec=2\nTimeoutStopSec=60\nKillMode=mixed\n"


def test_what_a_unit_says() -> None:
    assert units.parse(MIXED) == units.Unit(2.0, "mixed", 60.0)
    assert units.parse("Restart=always\n# KillMode=mixed\n") == units.Unit(0.1, "control-group", 90.0)
    with pytest.raises(ValueError, match="without Restart=always"):
        units.parse("[Service]\nRestartSec=1\n")
    with pytest.raises(ValueError, match="KillMode=none"):
        units.parse("Restart=always\nKillMode=none\n")


def test_all_of_ours_come_back_after_a_second() -> None:
    assert {role: units.of(role).restart_s for role in units.NAMES} == dict.fromkeys(units.NAMES, 1.0)
    assert units.of("backend") == units.Unit()


def test_who_lives_on_when_its_parent_was_killed() -> None:
    """An L4 agent leaves whoever announces the VIPs, an L7 supervisor workers that finish what is under way."""
    modes = {role: units.of(role).kill_mode for role in units.NAMES}
    assert modes == {"l4": "process", "l7": "process", "keyserver": "control-group", "control": "control-group"}


def test_a_change_can_be_told_by_what_stands_there() -> None:
    names = set()
    for number in range(3 * GROUPS):
        name, content = group(number)
        names.add(name)
        assert number_of(content) == number
    assert len(names) == GROUPS


LOST = {
    "as acknowledged": ({"a": [1, 3]}, {"a": 3}, {"a": 3}, []),
    "a later one, whose answer was lost": ({"a": [1, 3, 5]}, {"a": 3}, {"a": 5}, []),
    "an older one": ({"a": [1, 3]}, {"a": 3}, {"a": 1}, ["a: change 3 was acknowledged, and 1 stands there"]),
    "one that nobody made": ({"a": [1, 3]}, {"a": 3}, {"a": 4}, ["a: change 3 was acknowledged, and 4 stands there"]),
    "gone": ({"a": [1]}, {"a": 1}, {}, ["a: change 1 was acknowledged, and the group is gone"]),
    "never acknowledged": ({"a": [1]}, {}, {}, []),
    "never put": ({}, {}, {"a": 1}, ["a was never put"]),
}


@pytest.mark.parametrize(("tried", "acknowledged", "found", "said"), LOST.values(), ids=LOST)
def test_changes_that_are_lost(
    tried: dict[str, list[int]], acknowledged: dict[str, int], found: dict[str, int], said: list[str]
) -> None:
    assert list(Tried(tried, acknowledged).lost(found)) == said


def request(ended: float, why: str = "", traffic: Traffic = Traffic.HTTP) -> Event:
    return Event(traffic, "", ended - 0.1, ended, why)


def test_bills() -> None:
    record = Record([request(1), request(9.9), request(20), request(20, "reset"),
                     request(5, traffic=Traffic.DOWNLOAD), request(5, traffic=Traffic.TLS_NEW)])  # fmt: skip
    faults = [
        Struck(1, "l7-worker-killed", "", 10.0, 10.1, 11.0, 12.0),
        Struck(2, "l4-node-dead", "", 30.0, 30.1, 31.0, 32.0),
    ]
    sums = {"http": {"requests_2xx": 3, "requests_other": 1, "bytes_in": 99}, "https": {"requests_2xx": 2},
            "tcp-nat": {"connections": 2}}  # fmt: skip
    found = {
        bill.listener: bill
        for bill in bills(record, faults, sums, {"tcp-nat": [1, 2, 25], "http": [1]}, {"tcp-nat": 4})
    }
    http, https, tcp = found["http"], found["https"], found["tcp-nat"]
    assert (http.metered, http.least, http.most, http.right) == (4, 3, 5, True), "one may have died with its worker"
    assert (https.least, https.most, https.right) == (1, 1, False), "one was counted twice"
    assert (tcp.least, tcp.most, tcp.right) == (2, 4, True), "a node that loses its power forgets ten seconds"
    assert str(https).endswith("2 requests metered, right is 1  WRONG")


def test_rows_of_metering_are_added_up() -> None:
    rows = [{"time": "t", "listener": "a", "requests_2xx": 2}, {"time": "u", "listener": "a", "requests_2xx": 3}]
    assert metered(rows) == {"a": {"requests_2xx": 5}}


def samples(rss: list[float], files: list[int]) -> list[Sample]:
    return [
        Sample(float(at), "p", 1 + at // 5, mib, count) for at, (mib, count) in enumerate(zip(rss, files, strict=True))
    ]


GROWTH = {
    "even": ([50.0] * 30, [20] * 30, False),
    "a beginning is no growth": ([10.0] * 10 + [200.0] * 20, [20] * 30, False),
    "a peak is none": ([50.0] * 25 + [900.0] + [50.0] * 4, [20] * 30, False),
    "memory": ([50.0 + 5 * at for at in range(30)], [20] * 30, True),
    "descriptors": ([50.0] * 30, [20 + 8 * at for at in range(30)], True),
}


@pytest.mark.parametrize(("rss", "files", "grows"), GROWTH.values(), ids=GROWTH)
def test_growth(rss: list[float], files: list[int], grows: bool) -> None:
    (use,) = uses(samples(rss, files))
    assert use.grows is grows
    assert use.lives == 6
    assert use.rss_mib[2] == max(rss)


def test_who_was_not_there_in_the_end_is_not_judged() -> None:
    assert uses([*samples([50.0] * 10, [1] * 10), Sample(100.0, "q", 9, 1.0, 1)]) == []
    assert uses([]) == []


def test_the_filter_of_a_cut_drops_one_sender() -> None:

    one, other = program(mac_of("10.81.0.11")), program(mac_of("10.81.0.21"))
    assert len(one) == 7 * 8
    assert one != other
    assert bytes([10, 81, 0, 11])[::-1] in one, "the constant that the source is compared with"
