"""Health probes for both tiers: what `core.health` counts, asked for over the network.

One task a target: it starts at a random point of its interval, so that neither the targets of one node nor the nodes of
one cluster beat in time, and asks again every `interval_s`, or as soon as the last answer is in where that takes
longer. At most `concurrency` probes are under way; waiting for a place is not counted against a target's deadline.

A probe has one verdict, healthy or not, and one sentence why. http: the first final status line decides, the body is
never read; so it is by HTTP/2. grpc: the answer says that it is serving. udp: the socket is connected, so that an ICMP
port-unreachable comes back as an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Container, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from control.node import backend_tls, probe_h2
from control.node.introducing import introduced, of_a_check
from control.node.tasks import Tasks
from core.endpoints import UNIX, endpoint, version
from core.health import Health, State, observe
from core.model import CheckType, HealthCheck
from core.resolve import UpstreamTls

log = logging.getLogger(__name__)

CONCURRENCY = 256
GOODBYE_S = 1.0  # for a server's close_notify
HEAD_LIMIT_BYTES = 1 << 16
INTERIM_LIMIT = 8  # 1xx answers that we skip before giving up


@dataclass(frozen=True, slots=True)
class Target:
    """Something to be probed, and what it is called; `port` is where the check goes. `tls`: an http or grpc check
    speaks it. `h2`: an http check is one by HTTP/2, as those by grpc always are."""

    key: Hashable
    address: str
    port: int
    check: HealthCheck
    tls: UpstreamTls | None = None
    h2: bool = False
    introduces: int = 0  # the version of the PROXY protocol by which the connection begins; 0: by none


async def probe(target: Target) -> tuple[bool, str]:
    """Ask once; (healthy, why) within the check's timeout. Never raises but for cancellation."""
    ask = _ASK[target.check.type]
    try:
        async with asyncio.timeout(target.check.timeout_s):
            return await ask(target)
    except TimeoutError:
        if target.check.type is CheckType.UDP and _silence_is_health(target.check):
            return True, "no port-unreachable"
        return False, f"no answer within {target.check.timeout_s:g} s"
    except ssl.SSLError as error:
        return False, backend_tls.why(error)
    except OSError as error:
        return False, os.strerror(error.errno) if error.errno else str(error)


class HealthMonitor:
    """Keeps the health of a changing set of targets. `on_change(key, healthy, why)` is called at each change only."""

    def __init__(
        self,
        on_change: Callable[[Hashable, bool, str], None],
        tasks: Tasks,
        *,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self._on_change = on_change
        self._tasks = tasks
        self._slots = asyncio.Semaphore(concurrency)
        self._watched: dict[Hashable, tuple[Target, asyncio.Task[None]]] = {}
        self._states: dict[Hashable, Health] = {}
        self._reasons: dict[Hashable, str] = {}

    def watch(self, targets: Iterable[Target], down: Container[Hashable] = ()) -> None:
        """Probe exactly these from now on. Who keeps its address keeps its state; who is new counts as healthy, unless
        its key is `down`."""
        wanted = {target.key: target for target in targets}
        for key in self._watched.keys() - wanted.keys():
            self._drop(key)
        for key, target in wanted.items():
            before = self._watched.get(key)
            if before is not None and before[0] == target:
                continue
            if before is not None:
                before[1].cancel()
                if (before[0].address, before[0].port) != (target.address, target.port):
                    self._drop(key)
            begins = State.UNHEALTHY if key in down else State.HEALTHY
            self._states.setdefault(key, Health(begins, since=time.monotonic()))
            self._reasons.setdefault(key, "not probed yet")
            task = self._tasks.spawn(self._probe_forever(target), f"probe {endpoint(target.address, target.port)}")
            self._watched[key] = (target, task)

    def healthy(self, key: Hashable) -> bool:
        """Whether the target counts as healthy; one that is not watched does."""
        state = self._states.get(key)
        return state is None or state.healthy

    def states(self) -> dict[Hashable, tuple[bool, str]]:
        """(healthy, why) of every target watched."""
        return {key: (state.healthy, self._reasons[key]) for key, state in self._states.items()}

    def _drop(self, key: Hashable) -> None:
        _, task = self._watched.pop(key)
        task.cancel()
        del self._states[key], self._reasons[key]

    async def _probe_forever(self, target: Target) -> None:
        interval_s = target.check.interval_s
        await asyncio.sleep(random.uniform(0, interval_s))  # noqa: S311 - not a secret
        while True:
            async with self._slots:
                started = time.monotonic()
                healthy, why = await probe(target)
            self._observe(target, healthy, why)
            await asyncio.sleep(max(0.0, started + interval_s - time.monotonic()))

    def _observe(self, target: Target, result: bool, why: str) -> None:
        check, before = target.check, self._states[target.key]
        state, change = observe(before, result, time.monotonic(), rise=check.rise, fall=check.fall)
        self._states[target.key] = state
        self._reasons[target.key] = why
        if change is not None:
            where = endpoint(target.address, target.port)
            log.info("%s is %s: %s", where, "up" if state.healthy else "down", why)
            self._on_change(target.key, state.healthy, why)


async def _connect(target: Target, tls: UpstreamTls | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    options: dict[str, Any] = {"limit": HEAD_LIMIT_BYTES}
    address, port, version = target.address, target.port, target.introduces
    path = address.removeprefix(UNIX) if address.startswith(UNIX) else ""
    if tls is not None:
        options |= {"ssl": backend_tls.context(tls), "server_hostname": tls.name or ("" if path else address)}
        options |= {"ssl_shutdown_timeout": GOODBYE_S}
    if version:
        options["sock"] = await introduced(address, port, lambda sock: of_a_check(sock, version))
        return await (asyncio.open_unix_connection if path else asyncio.open_connection)(**options)
    if path:
        return await asyncio.open_unix_connection(path, **options)
    return await asyncio.open_connection(address, port, **options)


async def _probe_tcp(target: Target) -> tuple[bool, str]:
    _, writer = await _connect(target, None)
    await _close(writer)
    return True, "connected"


async def _probe_http(target: Target) -> tuple[bool, str]:
    check, host = target.check, _host(target)
    if target.h2:
        headers = probe_h2.request(check.method.value.upper(), _scheme(target), host, check.uri)
        answer = await _ask_h2(target, headers)
        return answer if isinstance(answer, tuple) else (matches(answer.status, check.codes), f"status {answer.status}")
    request = f"{check.method.value.upper()} {check.uri} HTTP/1.1\r\nHost: {host}\r\n"
    request += "User-Agent: paifang-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    reader, writer = await _connect(target, target.tls)
    try:
        writer.write(request.encode("latin-1"))
        for _ in range(INTERIM_LIMIT):
            head = await reader.readuntil(b"\r\n\r\n")
            status = _status_of(head)
            if not 100 <= status < 200 or status == 101:
                return matches(status, check.codes), f"status {status}"
        return False, "only interim answers"
    except asyncio.IncompleteReadError:
        return False, "the connection was closed before the answer"
    except (asyncio.LimitOverrunError, ValueError):
        return False, "the answer is not HTTP/1.1"
    finally:
        await _close(writer)


async def _probe_grpc(target: Target) -> tuple[bool, str]:
    headers, body = probe_h2.check(_scheme(target), _host(target), target.check.service)
    answer = await _ask_h2(target, headers, body, whole=True)
    return answer if isinstance(answer, tuple) else probe_h2.verdict(answer)


async def _ask_h2(
    target: Target, headers: probe_h2.Headers, body: bytes = b"", *, whole: bool = False
) -> probe_h2.Answer | tuple[bool, str]:
    """The answer to a request by HTTP/2, or the verdict where there is none."""
    reader, writer = await _connect(target, target.tls)
    try:
        tls = writer.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            return False, "the server does not agree to h2 by ALPN"
        answer = await probe_h2.ask(reader, writer, headers, body, whole=whole)
        return (False, answer) if isinstance(answer, str) else answer
    finally:
        await _close(writer)


def _host(target: Target) -> str:
    if target.check.domain:
        return target.check.domain
    return "localhost" if target.address.startswith(UNIX) else endpoint(target.address, target.port)


def _scheme(target: Target) -> str:
    return "http" if target.tls is None else "https"


async def _probe_udp(target: Target) -> tuple[bool, str]:
    check, loop = target.check, asyncio.get_running_loop()
    expected = check.expect.encode()
    family = socket.AF_INET6 if version(target.address) == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((target.address, target.port))
        sock.send(check.request.encode())
        while True:
            answer = await loop.sock_recv(sock, 65535)
            if expected in answer:
                return True, "answered"


_ASK = {
    CheckType.TCP: _probe_tcp, CheckType.HTTP: _probe_http, CheckType.UDP: _probe_udp, CheckType.GRPC: _probe_grpc,
}  # fmt: skip


def matches(status: int, codes: str) -> bool:
    """Whether a status is among codes such as "200,202-207,4xx" (`core.model.CODES`)."""
    for code in codes.split(","):
        if code.endswith("xx"):
            low, high = int(code[0]) * 100, int(code[0]) * 100 + 99
        else:
            first, _, last = code.partition("-")
            low, high = int(first), int(last or first)
        if low <= status <= high:
            return True
    return False


def _status_of(head: bytes) -> int:
    """The status of "HTTP/1.x NNN reason"; ValueError for anything else."""
    version, _, rest = head.partition(b" ")
    digits = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(digits) != 3 or not digits.isdigit():
        raise ValueError("not a status line")
    return int(digits)


def _silence_is_health(check: HealthCheck) -> bool:
    return not check.request and not check.expect


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
