"""Compiled sources: what stands in their instructions until they are loaded, and where they are kept meanwhile."""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from pathlib import Path

import pytest

from l4fast import bytecode
from l4fast.bytecode import Bytecode, MapSpec, kept, placed, placeholder

SPEC = MapSpec(1, 4, 8, 3, 0, "", '"int"', '"unsigned long long"')


def load_64(register: int, kind: int, number: int) -> bytes:
    return struct.pack("=BBhIBBhI", 0x18, register | kind << 4, 0, number & 0xFFFFFFFF, 0, 0, 0, number >> 32)


EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)
ADD = struct.pack("=BBhi", 0x07, 0x11, 0, 7)  # not a load, whatever its number


def test_maps_and_constants_are_filled_in() -> None:
    """And nothing else: not a number that looks like a place, nor another load's."""
    code = ADD + load_64(1, 1, 0) + load_64(2, 1, 1) + load_64(3, 0, placeholder("SEED")) + load_64(4, 0, 1) + EXIT
    of = Bytecode({"a": SPEC, "b": SPEC}, {"run": code})
    assert of.linked("run", [70, 71], {"SEED": 0x7FFF_FFFF_8000_0001}) == (
        ADD + load_64(1, 1, 70) + load_64(2, 1, 71) + load_64(3, 0, 0x7FFF_FFFF_8000_0001) + load_64(4, 0, 1) + EXIT
    )


def test_descriptors_become_places() -> None:
    code = load_64(1, 1, 9) + load_64(2, 0, 9) + EXIT
    assert placed(code, {9: 4}.__getitem__) == load_64(1, 1, 4) + load_64(2, 0, 9) + EXIT


def test_placeholders_differ_and_are_positive() -> None:
    assert placeholder("A") != placeholder("B")
    assert 1 << 32 < placeholder("A") < 1 << 63


MADE = Bytecode({"a": SPEC}, {"run": EXIT})


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "made/cache"
    monkeypatch.setenv("CACHE_DIRECTORY", str(path))
    return path


def never() -> Bytecode:
    raise AssertionError("it was kept")


def test_what_was_made_is_kept_for_root_alone(directory: Path) -> None:
    assert kept("one", lambda: MADE) == MADE
    assert kept("one", never) == MADE
    assert [oct(path.stat().st_mode)[-3:] for path in (directory, *directory.glob("*.json"))] == ["700", "600"]


def test_who_waits_for_another_does_not_make_it_too(directory: Path) -> None:
    """Whoever comes second finds it made when its turn has come."""
    begun, times = threading.Event(), []

    def slowly() -> Bytecode:
        begun.set()
        times.append(1)
        time.sleep(0.2)
        return MADE

    first = threading.Thread(target=kept, args=("one", slowly))
    first.start()
    assert begun.wait(5)
    assert kept("one", slowly) == MADE
    first.join()
    assert len(times) == 1


def test_another_key_is_another_thing(directory: Path) -> None:
    other = Bytecode({}, {"run": ADD + EXIT})
    kept("one", lambda: MADE)
    assert kept("two", lambda: other) == other
    assert kept("one", never) == MADE


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"maps": {}}', b'{"maps": {}, "functions": {"run": "?"}}',
                                  b'{"maps": {"a": {"type": 1}}, "functions": {}}'])  # fmt: skip
def test_a_damaged_file_is_made_again(directory: Path, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    kept("one", lambda: MADE)
    (directory / "bpf-one.json").write_bytes(text)
    assert kept("one", lambda: MADE) == MADE
    assert "compiling again" in caplog.text
    assert kept("one", never) == MADE


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
def test_a_directory_that_others_may_write_to_is_not_used(
    directory: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    kept("one", lambda: MADE)
    directory.chmod(mode)
    other = Bytecode({}, {"run": ADD + EXIT})
    assert kept("one", lambda: other) == other
    assert "chmod go-w" in caplog.text


def test_a_file_that_others_may_write_to_is_not_used(directory: Path) -> None:
    kept("one", lambda: MADE)
    (directory / "bpf-one.json").chmod(0o622)
    other = Bytecode({}, {"run": ADD + EXIT})
    assert kept("one", lambda: other) == other


@pytest.mark.root
def test_another_users_file_is_not_used(directory: Path) -> None:
    kept("one", lambda: MADE)
    os.chown(directory / "bpf-one.json", 65534, 65534)
    other = Bytecode({}, {"run": ADD + EXIT})
    assert kept("one", lambda: other) == other


def test_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    kept("one", lambda: MADE)
    (directory / "bpf-one.json").rename(tmp_path / "elsewhere")
    (directory / "bpf-one.json").symlink_to(tmp_path / "elsewhere")
    other = Bytecode({}, {"run": ADD + EXIT})
    assert kept("one", lambda: other) == other


def test_where_nothing_can_be_kept_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "file/cache"))
    with caplog.at_level(logging.WARNING):
        assert kept("one", lambda: MADE) == MADE
    assert "each start takes seconds" in caplog.text


def test_the_oldest_are_forgotten(directory: Path) -> None:
    for number in range(bytecode.KEPT_FILES + 2):
        kept(str(number), lambda: MADE)
        os.utime(directory / f"bpf-{number}.json", (number, number))
    kept("newest", lambda: MADE)
    names = {path.name for path in directory.glob("*.json")}
    assert len(names) == bytecode.KEPT_FILES == len(list(directory.glob("*.lock")))
    assert {"bpf-newest.json", f"bpf-{bytecode.KEPT_FILES + 1}.json"} <= names
    assert "bpf-0.json" not in names
