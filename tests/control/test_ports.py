import socket
from pathlib import Path

import pytest

from control import ports


def test_a_port_is_free_and_none_of_the_kernels_own() -> None:
    port = ports.free_port()
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert ports.LOWEST <= port < low
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = ports.free_port(), ports.free_port()
    choices = [taken, taken, free]
    monkeypatch.setattr(ports.random, "randint", lambda low, high: choices.pop(0))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", taken))
        assert ports.free_port() == free


def test_where_connections_may_have_every_port_the_kernel_chooses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "range").write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_EPHEMERAL", tmp_path / "range")
    assert ports.free_port() > 0
