"""The L7 proxy next to nginx and HAProxy: CPU per request and per gigabyte, memory per connection.

CPU time is what the scheduler charged to the proxy's process (/proc/PID/task/*/schedstat), over a run of `wrk`: the
load generator and the back end share the machine's cores, so requests a second would say more about them. Proxies take
turns (A B A B …) and the median counts. Ours and nginx log every request to a file, HAProxy none; all add
X-Forwarded-For and keep connections alive on both sides; the back end is one nginx. Heads vary in path, cookie and user
agent, from one seed for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench import Row
from control.node.tasks import Tasks
from core.model import (
    BackendProtocol,
    BackendService,
    Certificate,
    Instance,
    Listener,
    Model,
    Protocol,
    Server,
    ServerGroup,
)
from proxy.server import Supervisor
from proxy.worker_process import Settings

CONNECTIONS = 64
BIG_BYTES = 10 << 20

BACKEND = """
worker_processes 1; daemon off; pid {dir}/backend.pid; error_log {dir}/backend.err;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; sendfile on;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ default_type text/plain; return 200 "hello, world\\n"; }}
    location /big {{ alias {dir}/big; }}
  }}
}}
"""
NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
events {{ worker_connections 16384; }}
http {{
  log_format json escape=json '{{"time":"$time_iso8601","client":"$remote_addr","method":"$request_method",'
    '"host":"$host","path":"$request_uri","status":$status,"bytes_out":$bytes_sent,"duration":$request_time,'
    '"upstream":"$upstream_addr","upstream_time":"$upstream_response_time","request_id":"$request_id"}}';
  access_log {dir}/nginx.log json buffer=64k flush=1s;
  keepalive_requests 100000000;
  upstream app {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls_port} ssl backlog=4096;
    ssl_certificate {dir}/chain.pem; ssl_certificate_key {dir}/keys/web.key; ssl_protocols TLSv1.3;
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Request-Id $request_id; proxy_max_temp_file_size 0;
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  http-reuse always
frontend web
  bind 127.0.0.1:{port}
  option forwardfor
  default_backend app
backend app
  server one 127.0.0.1:{backend}
"""
HEADS = """
math.randomseed(7)
local agents = {{"Mozilla/5.0 (X11; Linux x86_64)", "curl/8.5.0", "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5)"}}
local requests = {{}}
for i = 1, 5000 do
  local id = math.random(1, 1000000)
  requests[i] = wrk.format("GET", "/items/" .. id .. "?page=" .. math.random(1, 50), {{
    ["Cookie"] = "session=" .. string.format("%08x%08x", id, math.random(1, 1000000000)),
    ["User-Agent"] = agents[math.random(1, 3)] .. " b/" .. math.random(1, 200),
    ["Accept"] = "text/html,application/xhtml+xml", ["Accept-Encoding"] = "gzip, deflate", ["Host"] = "www.example.com",
  }})
end
local n = 0
request = function() n = n % 5000 + 1 return requests[n] end
""".replace("{{", "{").replace("}}", "}")


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy under test: the ports to ask and the processes whose CPU time counts."""

    name: str
    port: int
    pids: tuple[int, ...]
    tls_port: int = 0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


def children(pid: int) -> tuple[int, ...]:
    return tuple(int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def cpu_s(pids: tuple[int, ...]) -> float:
    """CPU seconds that these processes have used, user and system, all threads."""
    spent = 0
    for pid in pids:
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            spent += int(stat.read_text().split()[0])
    return spent / 1e9


def resident_kib(pids: tuple[int, ...]) -> int:
    return sum(
        int(match[1])
        for pid in pids
        if (match := re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()))
    )


@contextlib.contextmanager
def process(argv: list[str], port: int) -> Iterator[int]:
    """A server process that listens on `port`; its pid."""
    started = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield started.pid
    finally:
        started.terminate()
        started.wait(10)


@contextlib.contextmanager
def configured(directory: Path, name: str, text: str, argv: list[str], **values: object) -> Iterator[Contender]:
    """A server run from a configuration file, whose worker is its only child (nginx) or itself (HAProxy)."""
    port, tls_port = free_port(), free_port()
    path = directory / f"{name}.conf"
    path.write_text(text.format(dir=directory, port=port, tls_port=tls_port, **values))
    with process([*argv, str(path)], port) as pid:
        yield Contender(name, port, children(pid) or (pid,), tls_port)


@contextlib.contextmanager
def key_server(directory: Path) -> Iterator[str]:
    """A key server with one P-256 key, its chain in `chain.pem`; its endpoint."""
    python = [sys.executable, "-m"]
    for arguments in (
        ["certs", "init", f"{directory}/ca"],
        ["certs", "issue", f"{directory}/ca", "--role", "l7", "--name", "l7", "--out", f"{directory}/id"],
        [
            "keyserver",
            "issue",
            "--keys",
            f"{directory}/keys",
            "--ca",
            f"{directory}/ca",
            "--name",
            "web",
            "--domain",
            "localhost",
            "--chain-out",
            f"{directory}/chain.pem",
        ],
    ):
        subprocess.run([*python, *arguments], check=True, capture_output=True)
    path = directory / "keys.sock"
    argv = [*python, "keyserver", "--keys", f"{directory}/keys", "--socket", str(path), "--audit-log", "/dev/null"]
    started = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not path.exists():
            if started.poll() is not None:
                raise RuntimeError("the key server does not start")
            time.sleep(0.02)
        yield f"unix:{path}"
    finally:
        started.terminate()
        started.wait(10)


def model(port: int, tls_port: int, backend: int, chain: str) -> Model:
    plain = Listener("web", "main", Protocol.HTTP, port, "app", idle_timeout_s=60)
    return Model(
        certificates={"web": Certificate("web", chain=chain)},
        server_groups={"app": ServerGroup("app", (Server("127.0.0.1", backend),))},
        backend_services={"app": BackendService("app", BackendProtocol.HTTP, "app", health_check=None)},
        instances={"main": Instance("main")},
        listeners={
            "web": plain,
            "tls": replace(plain, name="tls", protocol=Protocol.HTTPS, port=tls_port, certificates=("web",)),
        },
    )


@contextlib.asynccontextmanager
async def paifang(directory: Path, backend: int, keys: str) -> AsyncIterator[Contender]:
    """One worker, as in production: with its supervisor, its access log and a key server."""
    tasks, port, tls_port = Tasks(), free_port(), free_port()
    log, chain = str(directory / "paifang.log"), (directory / "chain.pem").read_text()
    settings = Settings("l7", 1, f"{directory}/id", (keys,), log, drain_s=1.0)
    supervisor = Supervisor(settings, tasks, lambda why: print(f"paifang: {why}", file=sys.stderr))
    supervisor.start()
    try:
        await supervisor.apply(model(port, tls_port, backend, chain), 1)
        yield Contender("paifang", port, tuple(supervisor.pids), tls_port)
    finally:
        await supervisor.drain()
        await tasks.close()


def load(
    contender: Contender, seconds: int, connections: int, *, path: str = "/", script: str = "", tls: bool = False
) -> tuple[int, int]:
    """Runs wrk; returns requests done and bytes read. Raises RuntimeError on errors: a figure with errors is none."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *(["-s", script] if script else [])]
    url = f"https://127.0.0.1:{contender.tls_port}" if tls else f"http://127.0.0.1:{contender.port}"
    done = subprocess.run([*argv, url + path], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in done or "Socket errors" in done:
        raise RuntimeError(f"{contender.name}: {done}")
    match = re.search(r"(\d+) requests in [\d.]+\w+, ([\d.]+)(\w?)B read", done)
    assert match is not None, done
    return int(match[1]), int(float(match[2]) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[match[3]])


def per_request_us(contender: Contender, seconds: int, script: str, tls: bool = False) -> float:
    before = cpu_s(contender.pids)
    requests, _ = load(contender, seconds, CONNECTIONS, script=script, tls=tls)
    return (cpu_s(contender.pids) - before) / requests * 1e6


def per_gigabyte_ms(contender: Contender, seconds: int, tls: bool = False) -> float:
    before = cpu_s(contender.pids)
    _, size = load(contender, seconds, 4, path="/big", tls=tls)
    return (cpu_s(contender.pids) - before) / size * 1e9 * 1e3


def idle_kib(contender: Contender, connections: int) -> float:
    """Memory per idle keep-alive connection that has carried one request: the slope beyond the first thousand."""
    first = 1000
    with contextlib.ExitStack() as stack:
        for number in range(first + connections):
            if number == first:
                before = resident_kib(contender.pids)
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", contender.port)))
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
        time.sleep(2)
        return (resident_kib(contender.pids) - before) / connections


def interleaved(contenders: list[Contender], rounds: int, measure: object, *arguments: object) -> dict[str, float]:
    """The median of `rounds` measurements of each, taken in turns."""
    assert callable(measure)
    figures: dict[str, list[float]] = {each.name: [] for each in contenders}
    for _ in range(rounds):
        for each in contenders:
            figures[each.name].append(measure(each, *arguments))
    return {name: statistics.median(values) for name, values in figures.items()}


def _directory() -> Path:
    """Configurations, logs and what is served; the back end's own user has to read it."""
    directory = Path(tempfile.mkdtemp(prefix="paifang-bench-"))
    directory.chmod(0o755)
    (directory / "heads.lua").write_text(HEADS)
    (directory / "big").write_bytes(os.urandom(BIG_BYTES))
    return directory


async def measure(quick: bool) -> list[Row]:
    """All rows. The proxies run one after the other under load, never at once."""
    seconds, rounds = (1, 3) if quick else (4, 7)
    directory = _directory()
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    haproxy = shutil.which("haproxy") or "/usr/sbin/haproxy"
    try:
        with contextlib.ExitStack() as stack:
            keys = stack.enter_context(key_server(directory))
            backend = stack.enter_context(configured(directory, "backend", BACKEND, [nginx, "-c"]))
            peer = stack.enter_context(configured(directory, "nginx", NGINX, [nginx, "-c"], backend=backend.port))
            other = stack.enter_context(
                configured(directory, "haproxy", HAPROXY, [haproxy, "-f"], backend=backend.port)
            )
            async with paifang(directory, backend.port, keys) as ours:
                return await asyncio.to_thread(
                    _rows, [ours, peer, other], seconds, rounds, str(directory / "heads.lua")
                )
    finally:
        shutil.rmtree(directory)


def _rows(contenders: list[Contender], seconds: int, rounds: int, script: str) -> list[Row]:
    ours, peer, _ = contenders
    load(ours, 1, CONNECTIONS, script=script)  # memory that is taken once is not a connection's
    load(peer, 1, CONNECTIONS, script=script)
    idle = {each.name: idle_kib(each, 4000) for each in (ours, peer)}
    stuck = slow_reader_kib(ours, 100)
    small = interleaved(contenders, rounds, per_request_us, seconds, script)
    big = interleaved(contenders, rounds, per_gigabyte_ms, seconds)
    small_tls = interleaved([ours, peer], rounds, per_request_us, seconds, script, True)
    big_tls = interleaved([ours, peer], rounds, per_gigabyte_ms, seconds, True)
    best = min(("nginx", "haproxy"), key=lambda name: big[name])
    return [
        Row("HTTP keep-alive, small body", "µs CPU", small["paifang"], "nginx", small["nginx"], 1.0),
        Row("the same, next to HAProxy", "µs CPU", small["paifang"], "haproxy", small["haproxy"]),
        Row("HTTP, 10 MB bodies", "ms CPU/GB", big["paifang"], best, big[best], 1.0),
        Row("HTTPS keep-alive, small body", "µs CPU", small_tls["paifang"], "nginx", small_tls["nginx"], 1.0),
        Row("HTTPS, 10 MB bodies", "ms CPU/GB", big_tls["paifang"], "nginx", big_tls["nginx"], 0.85),
        Row("idle keep-alive connection", "KiB", idle["paifang"], "bound", 8.0, 1.0),
        Row("the same, nginx", "KiB", idle["nginx"]),
        Row("client that reads nothing", "KiB", stuck, "bound", 256.0, 1.0),
    ]


def run(quick: bool) -> list[Row]:
    """For `python -m bench l7`."""
    return asyncio.run(measure(quick))
