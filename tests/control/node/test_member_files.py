"""Files of members on a node: replaced, broken, gone and back again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control.node import member_files
from control.node.members import Members
from control.node.tasks import Tasks
from core.model import AvailabilityGroup, Model, Server
from tests.waiting import until


def put(path: Path, text: str) -> None:
    """As whoever writes such a file should."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def of(*numbers: int) -> str:
    tables = (f'{{ address = "10.0.0.{number}", port = 80, zone = "z{number}" }}' for number in numbers)
    return f"members = [{', '.join(tables)}]"


class Watched:
    def __init__(self, model: Model, tasks: Tasks) -> None:
        self.model, self.changes = model, 0
        self.members = Members(self._changed, tasks)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def servers(self) -> list[str]:
        return [server.address for server in self.members.groups(self.model)["g"]]

    @property
    def problems(self) -> list[str]:
        return self.members.problems(self.model)


@asynccontextmanager
async def watched(path: Path, *more: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(member_files, "LOOK_S", 0.01)
    failures: list[str] = []
    tasks = Tasks(lambda name, error: failures.append(f"{name}: {error!r}"))
    found = Watched(Model(availability_groups={"g": AvailabilityGroup("g", more, file=str(path))}), tasks)
    found.members.watch(found.model)
    await found.members.first_answers(20)
    try:
        yield found
    finally:
        await tasks.close()
    assert not failures


async def test_members_follow_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "members.toml"
    put(path, of(1, 2))
    async with watched(path, Server("10.0.0.9", 80, zone="z9"), monkeypatch=monkeypatch) as found:
        assert found.servers == ["10.0.0.9", "10.0.0.1", "10.0.0.2"]
        assert found.problems == []
        put(path, of(2, 3))
        await until(lambda: found.servers == ["10.0.0.9", "10.0.0.2", "10.0.0.3"])
        found.members.watch(Model())
        assert found.members.groups(Model()) == {}


@pytest.mark.parametrize("bad", ["members = [{}]", "members", "\0", "x" * (member_files.FILE_LIMIT_BYTES + 1)])
async def test_a_bad_file_leaves_the_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    path = tmp_path / "members.toml"
    put(path, of(1, 2))
    async with watched(path, monkeypatch=monkeypatch) as found:
        put(path, bad)
        await until(lambda: found.problems != [])
        assert found.servers == ["10.0.0.1", "10.0.0.2"]
        assert found.problems[0].startswith(f"availability group g: {path}: ")
        assert found.problems[0].endswith("; its last members are kept")
        put(path, of(4, 5))
        await until(lambda: found.servers == ["10.0.0.4", "10.0.0.5"])
        assert found.problems == []
        path.unlink()
        await until(lambda: "No such file" in str(found.problems))
        assert found.servers == ["10.0.0.4", "10.0.0.5"]


async def test_a_file_that_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "members.json"
    async with watched(path, monkeypatch=monkeypatch) as found:
        assert found.servers == []
        why = "No such file or directory; it has given no members yet"
        assert found.problems == [f"availability group g: {path}: {why}"]
        put(path, '{"members": [{"address": "10.0.0.1", "port": 80, "zone": "a"}]}')
        await until(lambda: found.servers == ["10.0.0.1"])
        assert found.problems == ["availability group g: all members are in zone 'a'; losing it loses all"]


async def test_members_that_have_registered_join_and_stay_while_nothing_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "members.toml"
    put(path, of(1, 2))
    async with watched(path, monkeypatch=monkeypatch) as found:
        changes = found.changes
        registered = (Server("10.0.0.7", 80, zone="z7"),)
        found.members.take_registered({"g": registered})
        assert found.changes == changes + 1
        assert found.servers == ["10.0.0.1", "10.0.0.2"], "the group takes none"
        group = AvailabilityGroup("g", file=str(path), registered=True)
        found.model = Model(availability_groups={"g": group})
        found.members.watch(found.model)
        assert found.servers == ["10.0.0.1", "10.0.0.2", "10.0.0.7"]
        found.members.take_registered({"g": registered})
        assert found.changes == changes + 1


async def test_what_is_no_file_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "members.toml"
    os.mkfifo(path)
    async with asyncio.timeout(20), watched(path, monkeypatch=monkeypatch) as found:
        assert found.problems == [f"availability group g: {path}: is no file; it has given no members yet"]
        put(path, of(1, 2))
        await until(lambda: found.servers == ["10.0.0.1", "10.0.0.2"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("credentials.toml", 'password = "hunter2"\nmembers = "hunter2"\n'),
        ("shadow", "root:$6$hunter2:19000:0:99999:7:::\n"),
        ("token", "hunter2\n"),
        ("id.json", '{"hunter2": 1}'),
        ("list.json", '["hunter2"]'),
        ("key.json", '"hunter2"'),
    ],
    ids=range(6),
)
async def test_what_a_file_says_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """Whoever may name a file in a configuration is not to read the nodes' files by the problems that they report."""
    put(tmp_path / name, text)
    async with watched(tmp_path / name, monkeypatch=monkeypatch) as found:
        (problem,) = found.problems
        assert "hunter2" not in problem
