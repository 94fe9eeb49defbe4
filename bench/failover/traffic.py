"""Numbered flows between the client and the servers of a lab, by two processes of their own, and what they say."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.failover.numbered import Newcomers, Report, Spread
from deploy.lab.namespaces import enter

ANSWER_S = 60.0  # of a process
STALLED_S = 15.0
End = tuple[str, str, int]  # service, the client's address and port


class TrafficError(Exception):
    """A process of the traffic has ended or does not answer."""


class _Process:
    def __init__(self, name: str, netns: str | None) -> None:
        words = [*(enter(netns) if netns else ()), sys.executable, "-m", f"bench.failover.{name}"]
        self._name = name
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what: object) -> object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Timer(ANSWER_S, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late.cancel()
        if not line:
            raise TrafficError(f"the {self._name} has ended or does not answer {what}")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        with self._process:
            pass


class Traffic:
    """Made by `traffic`."""

    def __init__(self, client: _Process, server: _Process) -> None:
        self._client = client
        self._server = server
        self._sent_again_before = 0

    def open(self, connections: int, flows: int) -> list[End]:
        """Opens as many as are missing; returns the ends of all that live."""
        ends = self._client.ask(["open", connections, flows])
        assert isinstance(ends, list)
        return [(service, address, port) for service, address, port in ends]

    def newcomers(self, per_s: float) -> None:
        """From now on so many short connections a second begin; 0: none."""
        self._client.ask(["newcomers", per_s])

    def begin(self) -> None:
        """A window begins."""
        self._sent_again_before = self._look()[1]
        self._client.ask(["begin"])

    def report(self, limit_s: float = STALLED_S) -> Report:
        """What has happened in the window, once each connection was answered anew; who is not within the limit has
        stalled. What the servers have found wrong counts among what is lost."""
        found = self._client.ask(["report", limit_s])
        assert isinstance(found, dict)
        report = Report(**found | {
            "waits": Spread(**found["waits"]), "gaps": Spread(**found["gaps"]),
            "newcomers": Newcomers(**found["newcomers"]),
        })  # fmt: skip
        wrong, sent_again = self._look()
        again = report.sent_again + sent_again - self._sent_again_before
        return replace(report, lost=report.lost | wrong, sent_again=again)

    def _look(self) -> tuple[dict[str, int], int]:
        """What the servers have found wrong since the last look, and how many segments they have ever sent again."""
        found = self._server.ask([])
        assert isinstance(found, list)
        return {f"at a server: {why}": count for why, count in found[0].items()}, found[1]


@contextlib.contextmanager
def traffic(
    client: str, services: Sequence[tuple[str, str, str, int]],
    servers: Sequence[tuple[str, Sequence[str], Sequence[int], Sequence[int]]], *, tcp_every_s: float,
    udp_every_s: float,
) -> Iterator[Traffic]:  # fmt: skip
    """`client`: its namespace; `services`: name, protocol, address, port; `servers`: namespace, addresses, TCP ports,
    UDP ports. A message or datagram goes out so often on each flow."""
    with contextlib.ExitStack() as stack:
        server = _Process("server", None)
        stack.callback(server.end)
        server.ask(servers)
        asking = _Process("client", client)
        stack.callback(asking.end)
        asking.ask({"services": services, "tcp_every_s": tcp_every_s, "udp_every_s": udp_every_s})
        yield Traffic(asking, server)
