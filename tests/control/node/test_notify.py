import socket
from pathlib import Path

import pytest

from control.node.notify import notify


def test_the_state_arrives_as_a_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        notify("READY=1")
        sock.settimeout(1)
        assert sock.recv(100) == b"READY=1"


def test_an_abstract_address_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + str(tmp_path / "n"))
        notify("STOPPING=1")
        sock.settimeout(1)
        assert sock.recv(100) == b"STOPPING=1"


def test_without_a_listener_it_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    assert caplog.text == ""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")
    assert "cannot notify" in caplog.text


def test_that_nobody_hears_of_the_end_is_not_worth_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with caplog.at_level("DEBUG"):
        notify("STOPPING=1")
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
