"""Debian's etcd on loopback, for tests: as many members as are wanted, each of which may be killed and come back."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from control.ports import free_port

READY_S = 30.0


class Members:
    """The members of one etcd, begun; data, logs and sockets stand below `root`. Its owner calls `close`."""

    def __init__(self, root: Path, count: int, *options: str, scheme: str = "http") -> None:
        self.root = root
        self.endpoints = [f"{scheme}://127.0.0.1:{free_port()}" for _ in range(count)]
        self._peers = [f"http://127.0.0.1:{free_port()}" for _ in range(count)]
        self._metrics = [f"http://127.0.0.1:{free_port()}" for _ in range(count)]
        self._options = options
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * count
        try:
            for number in range(count):
                self.start(number)
            for number in range(count):
                self.wait_ready(number)
        except BaseException:
            self.close()
            raise

    def start(self, number: int) -> None:
        """Start a member, for the first time or again."""
        argv = [
            "etcd", "--name", f"m{number}", "--data-dir", str(self.root / f"m{number}"),
            "--listen-client-urls", self.endpoints[number], "--advertise-client-urls", self.endpoints[number],
            "--listen-peer-urls", self._peers[number], "--initial-advertise-peer-urls", self._peers[number],
            "--initial-cluster", ",".join(f"m{n}={peer}" for n, peer in enumerate(self._peers)),
            "--listen-metrics-urls", self._metrics[number], "--logger", "zap", "--log-level", "warn", *self._options,
        ]  # fmt: skip
        with (self.root / f"m{number}.log").open("ab") as log:
            self.processes[number] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_ready(self, number: int) -> None:
        """Until the member takes part."""
        process, end = self.processes[number], time.monotonic() + READY_S
        assert process is not None
        while True:
            with (
                suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                urllib.request.urlopen(f"{self._metrics[number]}/health", timeout=5) as answer,
            ):
                if b'"true"' in answer.read():
                    return
            log = (self.root / f"m{number}.log").read_text()[-2000:]
            assert process.poll() is None, log
            assert time.monotonic() < end, log
            time.sleep(0.02)

    def kill(self, number: int) -> None:
        """SIGKILL, and wait for the end."""
        process = self.processes[number]
        if process is not None:
            process.kill()
            process.wait()
            self.processes[number] = None

    def close(self) -> None:
        for number in range(len(self.processes)):
            self.kill(number)
