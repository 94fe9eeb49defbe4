"""The client's end of the numbered flows, one process with one epoll; it runs in the client's network namespace.

    python -m bench.failover.client     reads {"services": [[name, protocol, address, port], …], "tcp_every_s": …,
                                        "udp_every_s": …}, then commands, a line of JSON each, and answers each by one:
    ["open", TCP, UDP]      so many connections and flows of datagrams shall live, spread over the services;
                            answered once all are open by the ends of those that live: [[name, own address, port], …]
    ["newcomers", PER_S]    from now on so many short connections a second begin, each tried twice
    ["begin"]               a window begins
    ["report", LIMIT_S]     waits until each connection was answered anew or LIMIT_S have passed (who was not counts as
                            stalled and is given up) and the last newcomer is done, if no more come; and says what has
                            happened in the window until the command came

Flows go on all the while, evenly spread over time; a connection's first messages come one after the other. Later ones
do not wait for answers: what a dead node has swallowed is found out by what follows.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from bench.failover.numbered import Connection, Datagrams, Newcomers, Report, Spread, Wheel, WrongError
from bench.failover.sockets import BUFFER_BYTES, IP_BIND_ADDRESS_NO_PORT, SO_RCVBUFFORCE, raise_limit, sent_again

OPENED_PER_S = 1000
OPEN_S = 20.0  # beyond what the rate allows
FIRST = 3  # messages that go out at once: L4 nodes tell each other of a session at its third packet
BURST = 32  # turns in a row: a veth's ring holds 256 frames
READ_BYTES = 1 << 16
NEWCOMER_S = 3.0  # a lost SYN comes again after 1 s (RFC 6298)
EXCHANGES = 4  # of a newcomer
GRACE_S = 0.5  # what has not come back by then does not come


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    protocol: str
    address: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    def connect(self) -> socket.socket:
        """A socket on its way."""
        tcp = self.protocol == "tcp"
        sock = socket.socket(self.family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        sock.setblocking(False)
        if tcp:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        sock.connect_ex((self.address, self.port))
        return sock


@dataclass(slots=True)
class Flow:
    service: Service
    sock: socket.socket
    what: Connection | Datagrams


@dataclass(slots=True)
class Newcomer:
    service: Service
    sock: socket.socket
    what: Connection
    until: float
    first: bool  # try


@dataclass(slots=True)
class Pending:
    """A command that is answered later."""

    name: str
    since: float
    until: float
    answered: dict[int, int]  # of each connection, when the command came


class Client:
    def __init__(self, services: list[Service], tcp_every_s: float, udp_every_s: float) -> None:
        self._services = services
        self._poll = select.epoll()
        self._opening: dict[int, Flow] = {}
        self._flows: dict[int, Flow] = {}
        self._newcomers: dict[int, Newcomer] = {}
        self._wheels = {"tcp": Wheel[int](tcp_every_s, BURST), "udp": Wheel[int](udp_every_s, BURST)}
        self._begun = time.monotonic()
        self._sent_again_before: dict[int, int] = {}
        self._lost: Counter[str] = Counter()
        self._newcomers_were = Counter[str]()
        self._arrivals: Wheel[int] | None = None
        self._serial = 0
        self._wanted: deque[Service] = deque()
        self._openings = Wheel[int](1 / OPENED_PER_S, 4)
        self._openings.members = [0]
        self._pending: Pending | None = None
        self._looked = 0.0

    # Commands

    def run(self) -> None:
        """Until standard input ends."""
        stdin = sys.stdin.fileno()
        self._poll.register(stdin, select.EPOLLIN)
        rest = b""
        while True:
            now = time.monotonic()
            for fd, events in self._poll.poll(self._patience(now)):
                if fd == stdin:
                    data = os.read(stdin, READ_BYTES)
                    if not data:
                        return
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self._command(*json.loads(line))
                else:
                    self._ready(fd, events, time.monotonic())
            self._turn(time.monotonic())

    def _command(self, name: str, *arguments: float) -> None:
        now = time.monotonic()
        if name == "open":
            for protocol, count in zip(("tcp", "udp"), arguments, strict=True):
                of = [service for service in self._services if service.protocol == protocol]
                have = sum(flow.service.protocol == protocol for flow in self._flows.values())
                self._wanted.extend(of[(have + n) % len(of)] for n in range(int(count) - have))
                for _ in range(have - int(count)):
                    self._close(self._wheels[protocol].members[-1])
            self._pending = Pending(name, now, now + OPEN_S + len(self._wanted) / OPENED_PER_S, {})
        elif name == "newcomers":
            self._arrivals = Wheel[int](1 / arguments[0], 4) if arguments[0] else None
            if self._arrivals:
                self._arrivals.members = [0]
                self._arrivals.due_at = now
            say("ok")
        elif name == "begin":
            self._begun = now
            self._lost.clear()
            self._newcomers_were.clear()
            self._sent_again_before = self._sent_again()
            for flow in self._flows.values():
                flow.what.begin()
            say("ok")
        elif name == "report":
            self._pending = Pending(name, now, now + arguments[0], {
                fd: flow.what.sent for fd, flow in self._flows.items() if isinstance(flow.what, Connection)
            })  # fmt: skip
        else:
            raise SystemExit(f"no command {name}")

    def _patience(self, now: float) -> float:
        due = min(wheel.due_at for wheel in self._wheels.values())
        if self._wanted or self._arrivals:
            due = min(due, now + 0.002)
        return max(0.0, min(due - now, 0.05))

    # Time

    def _turn(self, now: float) -> None:
        for wheel in self._wheels.values():
            for fd in wheel.turns(now):
                self._send(fd, now)
        if self._wanted:
            for _ in self._openings.turns(now):
                if self._wanted:
                    self._open(self._wanted.popleft())
        if self._arrivals:
            for _ in self._arrivals.turns(now):
                services = [service for service in self._services if service.protocol == "tcp"]
                self._serial += 1
                self._arrive(services[self._serial % len(services)], now, first=True)
        if now - self._looked > 0.05:
            self._looked = now
            self._late(now)
            self._answer(now)

    def _late(self, now: float) -> None:
        for fd in [fd for fd, each in self._newcomers.items() if now > each.until]:
            self._gone(fd, now)

    def _answer(self, now: float) -> None:
        """The command that waits, if its time has come."""
        pending = self._pending
        if pending is None:
            return
        if pending.name == "open":
            if (self._wanted or self._opening) and now < pending.until:
                return
            for fd in list(self._opening):
                self._lose(fd, "not opened")
            assert not self._wanted, "the rate of opening is not kept by far"
            say([[f.service.name, *f.sock.getsockname()[:2]] for f in self._flows.values()])
        else:
            waiting = list(self._unanswered(pending))
            if now < pending.since + GRACE_S or (waiting and now < pending.until):
                return
            if self._newcomers and not self._arrivals:
                return
            for fd in waiting:
                self._lose(fd, "stalled")
            say(asdict(self._report(pending.since)))
        self._pending = None

    def _unanswered(self, pending: Pending) -> Iterator[int]:
        for fd, sent in pending.answered.items():
            flow = self._flows.get(fd)
            if flow and isinstance(flow.what, Connection) and flow.what.answered() <= sent:
                yield fd

    def _sent_again(self) -> dict[int, int]:
        """Segments, by the number of the connection."""
        return {
            flow.what.flow: sent_again(flow.sock)
            for flow in self._flows.values() if isinstance(flow.what, Connection)
        }  # fmt: skip

    def _report(self, until: float) -> Report:
        connections = [flow.what for flow in self._flows.values() if isinstance(flow.what, Connection)]
        flows = [flow.what for flow in self._flows.values() if isinstance(flow.what, Datagrams)]
        counts = [flow.count(until) for flow in flows]
        return Report(
            seconds=until - self._begun,
            connections=len(connections),
            lost=dict(self._lost),
            messages=sum(each.messages for each in connections),
            waits=Spread.of([each.longest_s for each in connections]),
            flows=len(flows),
            moved=sum(flow.moved for flow in flows),
            datagrams=sum(sent for sent, _, _ in counts),
            datagrams_lost=sum(lost for _, lost, _ in counts),
            gaps=Spread.of([gap for _, _, gap in counts]),
            newcomers=Newcomers(**self._newcomers_were),
            sent_again=sum(count - self._sent_again_before.get(flow, 0) for flow, count in self._sent_again().items()),
        )

    # Flows

    def _open(self, service: Service) -> None:
        self._serial += 1
        sock = service.connect()
        tcp = service.protocol == "tcp"
        flow = Flow(service, sock, Connection(self._serial) if tcp else Datagrams(self._serial))
        if tcp:
            self._opening[sock.fileno()] = flow
            self._poll.register(sock.fileno(), select.EPOLLOUT)
        else:
            self._poll.register(sock.fileno(), select.EPOLLIN)
            self._run(flow)

    def _run(self, flow: Flow) -> None:
        self._flows[flow.sock.fileno()] = flow
        self._wheels[flow.service.protocol].members.append(flow.sock.fileno())

    def _send(self, fd: int, now: float) -> None:
        flow = self._flows[fd]
        try:
            if data := flow.what.send(now):
                flow.sock.send(data)
        except OSError as error:
            if flow.service.protocol == "tcp":
                self._lose(fd, _why(error))

    def _ready(self, fd: int, events: int, now: float) -> None:
        if fd in self._flows:
            self._receive(fd, self._flows[fd], now)
        elif fd in self._opening:
            flow = self._opening[fd]
            if flow.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._lose(fd, "not opened")
                return
            del self._opening[fd]
            self._poll.modify(fd, select.EPOLLIN)
            self._run(flow)
            self._send(fd, now)
        elif fd in self._newcomers:
            self._meet(fd, self._newcomers[fd], events, now)

    def _receive(self, fd: int, flow: Flow, now: float) -> None:
        try:
            data = flow.sock.recv(READ_BYTES)
            if isinstance(flow.what, Datagrams):
                flow.what.receive(data)
            elif data:
                flow.what.receive(data, now)
                if flow.what.answered() == flow.what.sent < FIRST:
                    self._send(fd, now)
            else:
                self._lose(fd, "closed")
        except BlockingIOError:  # the event was another's, which had this descriptor before
            pass
        except WrongError as error:
            print(f"{flow.service.name}: {error}", file=sys.stderr, flush=True)
            self._lose(fd, "wrong")
        except OSError as error:
            if flow.service.protocol == "tcp":
                self._lose(fd, _why(error))

    def _lose(self, fd: int, why: str) -> None:
        flow = self._opening.pop(fd, None) or self._flows[fd]
        ours = flow.sock.getsockname()
        if fd in self._flows:
            self._close(fd)
        else:
            self._poll.unregister(fd)
            flow.sock.close()
        self._lost[f"{flow.service.name}: {why}"] += 1
        if isinstance(flow.what, Connection):
            told = f"{flow.what.answered()} of {flow.what.sent} messages answered"
            print(f"{time.monotonic():.3f} {flow.service.name} {ours[1]}: {why}; {told}", file=sys.stderr, flush=True)

    def _close(self, fd: int) -> None:
        flow = self._flows.pop(fd)
        self._wheels[flow.service.protocol].members.remove(fd)
        self._poll.unregister(fd)
        flow.sock.close()

    # Newcomers

    def _arrive(self, service: Service, now: float, *, first: bool) -> None:
        sock = service.connect()
        self._newcomers[sock.fileno()] = Newcomer(service, sock, Connection(0), now + NEWCOMER_S, first)
        self._poll.register(sock.fileno(), select.EPOLLOUT)

    def _meet(self, fd: int, newcomer: Newcomer, events: int, now: float) -> None:
        try:
            if events & select.EPOLLOUT:
                self._poll.modify(fd, select.EPOLLIN)
            else:
                data = newcomer.sock.recv(READ_BYTES)
                if not data:
                    raise ConnectionError
                newcomer.what.receive(data, now)
            if newcomer.what.answered() == EXCHANGES:
                self._drop(fd)
                self._newcomers_were["well" if newcomer.first else "again"] += 1
            elif newcomer.what.answered() == newcomer.what.sent:
                newcomer.sock.send(newcomer.what.send(now))
        except BlockingIOError:
            pass
        except (OSError, WrongError):
            self._gone(fd, now)

    def _gone(self, fd: int, now: float) -> None:
        newcomer = self._newcomers[fd]
        self._drop(fd)
        if newcomer.first:
            self._arrive(newcomer.service, now, first=False)
        else:
            self._newcomers_were["failed"] += 1

    def _drop(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._newcomers.pop(fd).sock.close()


def _why(error: OSError) -> str:
    return "reset" if isinstance(error, ConnectionError) else (error.strerror or "error")


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    raise_limit()
    given = json.loads(sys.stdin.readline())
    client = Client([Service(*each) for each in given["services"]], given["tcp_every_s"], given["udp_every_s"])
    say("ready")
    client.run()


if __name__ == "__main__":
    main()
