"""TLS handshakes, full and resumed: CPU of our TLS node, its key in a key server, next to nginx with the key in memory.

    openssl s_time × 16 (second core) ──► server under test (first core) ──► key server on a unix socket (second core)

Ours is the product's `TlsServer` on uvloop with a real key server process. Each turn runs every contender for the same
time, one after another (A B A B …); a contender's figure is the median over its turns of CPU time used by the server
process divided by handshakes that the clients completed. CPU time is the process's own, from /proc/PID/schedstat, and
includes accepting and closing the connection; of a resumed one, a small request and its answer too, since tickets of
TLS 1.3 come after the handshake. nginx gives two session tickets in TLS 1.3, which is its only setting, we give one:
see docs/keyless-tls.md.

The rows with the goal count the TLS node alone, as nginx's figure does; "+keyserver" adds the CPU of the key server
process, and shows what the whole handshake costs.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench import Row, tls_flood
from core.model import Certificate
from keyserver.client import KeyClient
from proxy.tls import TlsServer
from proxy.tls_waiting import GreenletWaiting, ThreadWaiting

GOAL, RESUMED_GOAL = 1.3, 1.2
FULL = ("-new",)
RESUMED = {"tls13": ("-reuse", "-www", "/"), "tls12": ("-reuse", "-www", "/", "-tls1_2")}
CLIENTS = 16  # so that several handshakes wait at once, as on a busy node
KINDS = {"P-256": (), "RSA-2048": ("--rsa",)}
SERVER_CORE, OTHER_CORE = 0, 1


@dataclass
class Contender:
    """A server process under test. `helper` is its key server, if it has one."""

    name: str
    port: int
    pid: int
    helper: int | None = None
    alone: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)

    def measure(self, seconds: int, how: Sequence[str] = FULL) -> None:
        """One turn: appends CPU µs per handshake. `how`: the client's options."""
        before = cpu_ns(self.pid), cpu_ns(self.helper)
        done = handshakes(self.port, seconds, how)
        own, helped = cpu_ns(self.pid) - before[0], cpu_ns(self.helper) - before[1]
        self.alone.append(own / 1000 / done)
        self.together.append((own + helped) / 1000 / done)


def cpu_ns(pid: int | None) -> int:
    """CPU time of all threads of a process, nanoseconds."""
    if pid is None:
        return 0
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def handshakes(port: int, seconds: int, how: Sequence[str]) -> int:
    """Handshakes that `CLIENTS` clients complete in a time, all of them resumed where they are to be."""
    command = ["taskset", "-c", str(OTHER_CORE), "openssl", "s_time", "-connect", f"127.0.0.1:{port}", *how]
    clients = [
        subprocess.Popen([*command, "-time", str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(CLIENTS)
    ]
    total = 0
    for client in clients:
        out, _ = client.communicate(timeout=seconds + 30)
        found = re.search(r"(\d+) connections in \d+ real seconds", out)
        if found is None:
            raise RuntimeError(f"openssl s_time failed: {out[-300:]}")
        if how is not FULL and "*" in out:
            raise RuntimeError("a session was not resumed")
        total += int(found[1])
    return total


@contextmanager
def process(argv: list[str], core: int, log: Path) -> Iterator[int]:
    """A child on one core, ended by SIGTERM."""
    with log.open("wb") as output:
        child = subprocess.Popen(["taskset", "-c", str(core), *argv], stdout=output, stderr=output)
    try:
        yield child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(path: Path, what: str, log: Path) -> None:
    for _ in range(200):
        if path.exists():
            return
        subprocess.run(["sleep", "0.05"], check=True)
    raise RuntimeError(f"{what} does not start: {log.read_text()[-500:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nginx_config(directory: Path, port: int, chain: Path, key: Path) -> Path:
    config = directory / f"nginx-{port}.conf"
    config.write_text(f"""
daemon off; worker_processes 1; master_process off; error_log stderr error; pid {directory}/nginx-{port}.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {chain}; ssl_certificate_key {key};
        location / {{ return 200 "hello\\n"; }}
    }}
}}
""")
    return config


def contenders(stack: ExitStack, directory: Path, kind: str, options: tuple[str, ...]) -> list[Contender]:
    """nginx and both ways of ours, running, with keys of one kind."""
    keys, chain = directory / f"{kind}-keys", directory / f"{kind}.pem"
    subprocess.run(
        [sys.executable, "-m", "certs", "init", str(directory / "ca")], check=kind == "P-256", capture_output=True
    )
    issue = ["issue", "--keys", str(keys), "--ca", str(directory / "ca"), "--name", "web", "--domain", "web.test"]
    subprocess.run(
        [sys.executable, "-m", "keyserver", *issue, "--chain-out", str(chain), *options],
        check=True,
        capture_output=True,
    )
    (key,) = keys.glob("*.pem") if list(keys.glob("*.pem")) else keys.iterdir()
    log = directory / "log"
    port = free_port()
    config = nginx_config(directory, port, chain, key)
    nginx = stack.enter_context(process(["nginx", "-c", str(config), "-e", "stderr"], SERVER_CORE, log))
    wait_for(directory / f"nginx-{port}.pid", "nginx", log)
    found = [Contender("nginx", port, nginx)]
    for way in ("greenlet", "threads"):
        name = f"{kind}-{way}"
        sock, ready = directory / f"{name}.sock", directory / f"{name}.ready"
        signer_log, node_log = directory / f"{name}-keys.log", directory / f"{name}.log"
        signer = stack.enter_context(
            process(
                [sys.executable, "-m", "keyserver", "--keys", str(keys), "--socket", str(sock)], OTHER_CORE, signer_log
            )
        )
        wait_for(sock, "key server", signer_log)
        port = free_port()
        arguments = ["--serve", str(port), "--way", way, "--keyserver", f"unix:{sock}", "--chain", str(chain)]
        node = stack.enter_context(
            process([sys.executable, "-m", "bench.tls", *arguments, "--ready", str(ready)], SERVER_CORE, node_log)
        )
        wait_for(ready, "TLS node", node_log)
        found.append(Contender(way, port, node, signer))
    return found


def run(quick: bool) -> list[Row]:
    """Rows for both kinds of key: greenlets and threads, the TLS node alone and with its key server."""
    turns, seconds = (3, 1) if quick else (7, 3)
    rows = []
    for kind, options in KINDS.items():
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-tls-")))
            nginx, *ours = contenders(stack, directory, kind, options)
            for _ in range(turns):
                for each in (nginx, *ours):
                    each.measure(seconds)
            against = statistics.median(nginx.alone)
            for each in ours:
                name = f"tls13-full-{kind.lower()}-{each.name}"
                goal = GOAL if each.name == "greenlet" else None
                alone, together = statistics.median(each.alone), statistics.median(each.together)
                rows.append(Row(name, "cpu µs/handshake", alone, "nginx, local key", against, goal))
                rows.append(Row(f"{name}+keyserver", "cpu µs/handshake", together, "nginx, local key", against))
            if kind == "P-256":
                rows += resumed(nginx, ours[0], turns, seconds)
                rows += tls_flood.rows(ours[0].port, 2 if quick else turns, 2 * seconds)
    return rows


def resumed(nginx: Contender, ours: Contender, turns: int, seconds: int) -> Iterator[Row]:
    """By tickets, whose keys ours has from the key server."""
    for version, how in RESUMED.items():
        for each in (nginx, ours):
            each.alone.clear()
        for _ in range(turns):
            nginx.measure(seconds, how)
            ours.measure(seconds, how)
        alone, against = (statistics.median(each.alone) for each in (ours, nginx))
        yield Row(f"{version}-resumed", "cpu µs/handshake and request", alone, "nginx", against, RESUMED_GOAL)


class Hello(asyncio.Protocol):
    """What nginx is configured to say."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
        if b" HTTP/1.0\r\n" in data:
            self.transport.close()


async def serve(options: argparse.Namespace) -> None:
    """The TLS node under test, until SIGTERM."""
    keys = KeyClient([options.keyserver])
    await keys.start()
    tls = TlsServer(keys, waiting=GreenletWaiting() if options.way == "greenlet" else ThreadWaiting())
    problems = await tls.configure({"web": [Certificate("web", chain=options.chain.read_text())]})
    if problems:
        raise SystemExit("\n".join(problems))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: tls.protocol("web", Hello()), "127.0.0.1", options.serve, backlog=1024)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    options.ready.touch()
    await stopped.wait()
    server.close()
    await tls.close()
    await keys.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tls", description="The TLS node that the benchmark loads.")
    parser.add_argument("--serve", type=int, required=True, metavar="PORT")
    parser.add_argument("--way", choices=("greenlet", "threads"), default="greenlet")
    parser.add_argument("--keyserver", required=True)
    parser.add_argument("--chain", type=Path, required=True)
    parser.add_argument("--ready", type=Path, required=True)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
