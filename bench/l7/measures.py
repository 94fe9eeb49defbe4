"""What is measured: CPU time a request and a gigabyte, memory a connection.

CPU time is what the scheduler charged to the proxy's processes (/proc/PID/task/*/schedstat) over a run of `wrk`: the
load generator and the back end share the machine's cores, so requests a second would say more about them.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.l7.proxies import Contender

_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used, user and system, all threads."""
    spent = 0
    for pid in pids:
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            spent += int(stat.read_text().split()[0])
    return spent / 1e9


def resident_kib(pids: Iterable[int]) -> int:
    return sum(
        int(match[1])
        for pid in pids
        if (match := re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()))
    )


def load(
    contender: Contender, seconds: int, connections: int, *, path: str = "/", script: str = "", tls: bool = False
) -> tuple[int, int]:
    """Runs wrk; returns requests done and bytes read. Raises RuntimeError on errors: a figure with errors is none."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", *(["-s", script] if script else [])]
    url = f"https://127.0.0.1:{contender.tls_port}" if tls else f"http://127.0.0.1:{contender.port}"
    done = subprocess.run([*argv, url + path], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in done or "Socket errors" in done:
        raise RuntimeError(f"{contender.name}: {done}")
    match = re.search(r"(\d+) requests in [\d.]+\w+, ([\d.]+)(\w?)B read", done)
    assert match is not None, done
    return int(match[1]), int(float(match[2]) * _BYTES[match[3]])


def per_request_us(contender: Contender, seconds: int, script: str, *, tls: bool = False) -> float:
    before = cpu_s(contender.pids)
    requests, _ = load(contender, seconds, 64, script=script, tls=tls)
    return (cpu_s(contender.pids) - before) / requests * 1e6


def served(backend: int) -> int:
    """Requests that the back end has had. wrk does not count those that are on their way at its end."""
    with socket.create_connection(("127.0.0.1", backend), 10) as sock:
        sock.sendall(b"GET /served HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        told = b"".join(iter(lambda: sock.recv(4096), b""))
    match = re.search(rb"requests\s+\d+ \d+ (\d+)", told)
    assert match is not None, told
    return int(match[1])


def per_served_us(contender: Contender, backend: int, seconds: int, script: str, *, connections: int) -> float:
    before, had = cpu_s(contender.pids), served(backend)
    load(contender, seconds, connections, script=script)
    return (cpu_s(contender.pids) - before) / (served(backend) - had) * 1e6


def per_gigabyte_ms(contender: Contender, seconds: int, *, tls: bool = False) -> float:
    before = cpu_s(contender.pids)
    _, size = load(contender, seconds, 4, path="/big", tls=tls)
    return (cpu_s(contender.pids) - before) / size * 1e9 * 1e3


def per_second(contender: Contender, seconds: int, script: str) -> float:
    """Requests a second, as many as go: of wrk, proxy and back end, what is slowest decides."""
    requests, _ = load(contender, seconds, 64, script=script)
    return requests / seconds


def idle_kib(contender: Contender, connections: int, *, tls: bool = False, first: int = 500) -> float:
    """Memory per idle keep-alive connection that has carried one request: the slope beyond the `first` ones."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = contender.tls_port if tls else contender.port
    with contextlib.ExitStack() as stack:
        for number in range(first + connections):
            if number == first:
                before = resident_kib(contender.pids)
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            if tls:
                sock = stack.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            sock.recv(4096)
        return (resident_kib(contender.pids) - before) / connections


def slow_reader_kib(contender: Contender, connections: int) -> float:
    """Memory per connection whose client asked for 10 MB and reads nothing."""
    before = resident_kib(contender.pids)
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", contender.port)))
            sock.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(1)
        return (resident_kib(contender.pids) - before) / connections


def interleaved(
    contenders: Iterable[Contender], rounds: int, measure: Callable[[Contender], float]
) -> dict[str, float]:
    """The median of `rounds` measurements of each, taken in turns."""
    contenders = list(contenders)
    figures: dict[str, list[float]] = {each.name: [] for each in contenders}
    for _ in range(rounds):
        for each in contenders:
            figures[each.name].append(measure(each))
    return {name: statistics.median(values) for name, values in figures.items()}
