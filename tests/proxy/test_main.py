"""The command line: usage errors are one line and exit code 2, ports in use 1; SIGTERM drains and exits 0."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.__main__ import parser
from proxy.node import endpoint
from tests.proxy.processes import command, keep, refused, running
from tests.proxy.support import Backend, Client, free_port, model
from tests.waiting import until


def test_endpoints() -> None:
    assert endpoint("10.0.0.1:80") == ("10.0.0.1", 80)
    assert endpoint(":80") == ("", 80)
    assert endpoint("[2001:db8::1]:80") == ("2001:db8::1", 80)
    for bad in ("80", "::1:80", "a:b", "a:0", "a:65536", "a:"):
        with pytest.raises(ValueError, match="is not ADDR:PORT"):
            endpoint(bad)


def test_key_servers_may_be_given_together_or_apart() -> None:
    required = ["--name", "n", "--control", "u", "--identity", "i", "--state", "s"]
    options = parser().parse_args([*required, "--keyserver", "unix:/a", "h:1", "--keyserver", "h:2"])
    assert options.keyserver == [["unix:/a", "h:1"], ["h:2"]]


def test_help_has_examples() -> None:
    done = subprocess.run([sys.executable, "-m", "proxy", "--help"], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--ready", "nonsense"), "'nonsense' is not ADDR:PORT"),
        (("--workers", "0"), "--workers: give at least 1"),
        (("--control", "http://127.0.0.1:8471"), "node API is reached by https"),
        (("--identity", "/nonexistent"), "certs issue"),
        (("--keyserver", "nowhere"), "nowhere"),
    ],
)
def test_usage_errors_are_one_line(identity: Path, more: tuple[str, ...], says: str) -> None:
    done = subprocess.run(command(identity, *more), capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("paifang-l7: ")]
    assert says in line


def test_a_ready_port_in_use_is_a_run_time_error(identity: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = subprocess.run(command(identity, ready=address), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert f"paifang-l7: cannot bind {address}: address already in use; " in done.stderr


def test_an_access_log_that_cannot_be_written_is_a_run_time_error(identity: Path) -> None:
    argv = command(identity, "--access-log", "/nonexistent/log")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "paifang-l7: /nonexistent/log: No such file or directory\n" in done.stderr


def test_workers_that_cannot_start_end_the_node(identity: Path) -> None:
    """One line and exit code 1, not workers that are started again and again."""
    (identity / "sitecustomize.py").write_text("import ssl\nssl.OPENSSL_VERSION_INFO = (1, 1, 1, 0, 0)\n")
    argv = command(identity, "--keyserver", "unix:/nonexistent", "--workers", "2")
    environment = {**os.environ, "PYTHONPATH": str(identity)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, env=environment)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("paifang-l7: ")]
    assert line.startswith("paifang-l7: keyless TLS needs OpenSSL 3, ")
    assert "Traceback" not in done.stderr
    assert "another starts" not in done.stderr


async def test_a_supervisor_killed_under_load_loses_no_request(identity: Path) -> None:
    """Its workers finish what they have and go; whoever starts the node again finds the ports free."""
    done, failures = 0, list[str]()

    async def load(port: int) -> None:
        nonlocal done
        while True:
            try:
                client = Client(*await asyncio.open_connection("127.0.0.1", port))
            except ConnectionRefusedError:
                return
            asked, close = 0, False
            try:
                while not close:
                    client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    status, head, _ = await client.whole_answer()
                    assert status == 200
                    done, asked = done + 1, asked + 1
                    close = b"\r\nConnection: close\r\n" in head
            except (OSError, asyncio.IncompleteReadError, AssertionError) as error:
                # A client that was silent for a second (the machine has other things to do) is cut off between two
                # requests, and asks again, as clients do (RFC 9112 §9.3.1). One with half an answer lost a request.
                nothing = getattr(error, "partial", b"") == b""
                if not asked or not nothing or isinstance(error, AssertionError | TimeoutError):
                    failures.append(repr(error))
            await client.close()

    async with Backend().running() as backend:
        port = free_port()
        keep(identity, model(port, [backend.port]))
        # Both workers accept by now: what waits for one that has not begun is lost with the supervisor's sockets.
        async with running(identity, port, "--workers", "2", "--drain-time", "20") as process:
            clients = [asyncio.create_task(load(port)) for _ in range(10)]
            await until(lambda: done > 200, limit_s=30)
            process.kill()
            await process.wait()
        async with asyncio.timeout(60):
            await asyncio.gather(*clients)
    assert (failures, refused(port)) == ([], True)


def test_sigterm_drains_and_exits_0(identity: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(command(identity, ready=address), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "no configuration from" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]
