"""BIRD's handling where it does not answer; `test_bgp_netns.py` has the real one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from l4fast.bgp import Answers, Neighbour
from l4fast.bird import CONFIGURATION, Bird
from l4fast.shares import Share
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings
from l4fast.vip_states import VipState

SETTINGS = VipSettings("bgp", local_as=65001, neighbours=(Neighbour("10.0.0.1", 65000),), router_id="10.0.0.11")
A, B = Share("192.0.2.1", 0, 2), Share("192.0.2.2", 1, 2)


class Mute(Bird):
    """One that runs, takes every file, and answers when it is told to."""

    def __init__(self, directory: Path, password: str = "") -> None:
        super().__init__("/bin/true", directory, SETTINGS, "l4-1", password)
        self.asked: list[str] = []
        self.speaks = True
        self.code = 3

    def runs(self) -> bool:
        return True

    async def _try(self, path: Path) -> None:
        pass

    async def _ask(self, command: str) -> Answers:
        self.asked.append(command)
        if not self.speaks:
            raise VipError("BIRD does not answer")
        answers = Answers()
        answers.code = self.code
        answers.lines = ["router1    BGP        ---        up     11:31:26.935  Established   "]
        return answers


async def test_what_bird_has_not_read_is_put_to_it_again(tmp_path: Path) -> None:
    bird = Mute(tmp_path)
    await bird.put([A], frozenset())
    await bird.put([A], frozenset())
    assert bird.asked == ["configure"]
    bird.speaks = False
    with pytest.raises(VipError):
        await bird.put([A, B], frozenset())
    assert bird.states.addresses() == ("192.0.2.1",)
    bird.speaks = True
    await bird.put([A, B], frozenset())
    assert bird.asked == ["configure"] * 3
    assert bird.states.addresses() == ("192.0.2.1", "192.0.2.2")


async def test_an_answer_that_is_an_error(tmp_path: Path) -> None:
    bird = Mute(tmp_path)
    bird.code = 8002
    with pytest.raises(VipError, match="BIRD refuses its configuration"):
        await bird.put([A], frozenset())
    assert bird.states.addresses() == ()


async def test_a_bird_that_has_just_begun_need_not_answer_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bird, now = Mute(tmp_path), 100.0
    monkeypatch.setattr("l4fast.bird.time.monotonic", lambda: now)
    await bird.put([A], frozenset())
    await bird.poll()
    assert bird.states.of("192.0.2.1") is VipState.ANNOUNCED
    bird.speaks = False
    now += 3
    await bird.poll()
    assert bird.states.of("192.0.2.1") is VipState.ANNOUNCED
    now += 0.1
    with pytest.raises(VipError):
        await bird.poll()
    assert bird.states.of("192.0.2.1") is VipState.UNHEARD


async def test_secrets_are_its_owners_alone(tmp_path: Path) -> None:
    await Mute(tmp_path, "s3cret").put([A], frozenset())
    path = tmp_path / CONFIGURATION
    assert 'password "s3cret"' in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_vips_of_a_version_that_no_router_hears_of_are_a_problem(tmp_path: Path) -> None:
    bird = Mute(tmp_path)
    await bird.put([A, Share("2001:db8::1", 0, 2)], frozenset())
    assert bird.problems() == [
        "no router hears of the IPv6 VIPs: give one by its IPv6 address with --bgp-neighbour"
    ]  # fmt: skip


async def test_a_session_that_does_not_come_up_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bird, now = Mute(tmp_path), 100.0
    monkeypatch.setattr("l4fast.bird.time.time", lambda: now)
    bird._sessions = {"router1": ("Active Socket: Connection refused", 95.0)}
    assert bird.problems() == []
    now = 106.0
    assert bird.problems() == ["no BGP session with 10.0.0.1 (AS 65000): Active Socket: Connection refused"]
    assert bird.peers() == [
        {"address": "10.0.0.1", "as": 65000, "state": "Active Socket: Connection refused", "up": False, "since": 95.0,
         "bfd": ""}
    ]  # fmt: skip
