"""The supervisor with real worker processes: all or nothing, crashes, health, drain under load, `/ready`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from control.node.tasks import Tasks
from core.model import (
    Certificate,
    CheckType,
    HealthCheck,
    Model,
    Protocol,
    Rule,
    Scheduler,
    Server,
    ServerGroup,
    StickySession,
)
from proxy.errors import ApplyError
from proxy.ready import ReadyProtocol
from proxy.server import Supervisor
from proxy.worker_process import Settings
from tests.proxy.support import Backend, Client, Request, answer_ok, free_port, model, with_listener, with_service
from tests.waiting import until


@asynccontextmanager
async def node(*, workers: int = 2, access_log: str = "", drain_s: float = 10.0) -> AsyncIterator[Supervisor]:
    failures: list[str] = []
    tasks = Tasks(lambda name, error: failures.append(f"{name}: {error!r}"))
    settings = Settings("l7-1", workers, access_log=access_log, drain_s=drain_s)
    supervisor = Supervisor(settings, tasks, failures.append)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.kill()
        await supervisor.drain()
        await tasks.close()
    assert not failures


async def ask(port: int, path: str = "/") -> tuple[int, bytes]:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        return await client.ask(path)
    finally:
        await client.close()


async def test_workers_share_a_port_and_count_together(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    async with Backend().running() as backend, node(access_log=str(log)) as supervisor:
        port = free_port()
        assert not supervisor.ready
        await supervisor.apply(model(port, [backend.port]), 1)
        assert supervisor.ready
        for _ in range(20):
            assert await ask(port) == (200, b"ok")
        await until(lambda: supervisor.report()["counters"].get("requests") == 20)  # type: ignore[attr-defined]
        assert supervisor.report()["workers"] == 2
        await supervisor.drain()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(lines) == 20
        assert len({line["pid"] for line in lines}) == 2
        assert len({line["request_id"] for line in lines}) == 20


async def test_a_node_that_rests_is_not_ready_and_keeps_no_connection_until_it_serves_again() -> None:
    async def kept(port: int) -> bool:
        """Whether a connection is kept alive after an answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200")
        writer.close()
        return b"connection: close" not in head

    async with Backend().running() as backend, node() as supervisor:
        base = model(port := free_port(), [backend.port])
        await supervisor.apply(base, 1)
        idle, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await idle.readuntil(b"\r\n\r\nok")
        supervisor.rest(1234.5)
        assert not supervisor.ready
        assert supervisor.report()["resting"] == 1234.5
        async with asyncio.timeout(20):
            assert await idle.read() == b""  # what is idle is ended
            while await kept(port):  # nobody who still comes is refused
                await asyncio.sleep(0.01)
        await supervisor.apply(with_listener(base, "more", more := free_port()), 2)
        assert not await kept(more)
        await until(lambda: supervisor.report()["counters"].get("connections_open") == 0)  # type: ignore[attr-defined]
        supervisor.rest(0.0)
        assert supervisor.ready
        async with asyncio.timeout(20):
            while not (await kept(port) and await kept(more)):
                await asyncio.sleep(0.01)
        writer.close()


async def test_all_or_nothing() -> None:
    async with Backend().running() as backend, node() as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        with socket.socket() as other:
            other.bind(("0.0.0.0", 0))
            other.listen()
            worse = with_listener(with_listener(base, "a", port := free_port()), "b", other.getsockname()[1])
            with pytest.raises(ApplyError, match=r"cannot bind 0.0.0.0:\d+: address already in use"):
                await supervisor.apply(worse, 2)
        assert await ask(base.listeners["web"].port) == (200, b"ok")
        with pytest.raises(ConnectionRefusedError):
            await ask(port)
        await supervisor.apply(with_listener(base, "a", port), 3)
        assert await ask(port) == (200, b"ok")


async def test_what_a_worker_refuses_is_refused_by_all() -> None:
    async with Backend().running() as backend, node() as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        https = replace(base.listeners["web"], protocol=Protocol.HTTPS, certificates=("c",))
        certificates = {"c": Certificate("c", domains=("a",))}
        worse = replace(base, listeners={"web": https}, certificates=certificates)
        with pytest.raises(ApplyError, match="no key server is given"):
            await supervisor.apply(worse, 2)
        assert await ask(https.port) == (200, b"ok")


async def test_a_worker_that_dies_is_started_again() -> None:
    async with Backend().running() as backend, node() as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        killed = supervisor.pids[0]
        os.kill(killed, signal.SIGKILL)
        await until(lambda: killed not in supervisor.pids and not Path(f"/proc/{killed}").exists())
        assert supervisor.ready
        for _ in range(5):
            assert await ask(base.listeners["web"].port) == (200, b"ok")  # the other one takes them
        await until(lambda: len(supervisor.pids) == 2)
        assert supervisor.report()["worker_restarts"] == 1
        os.kill(next(pid for pid in supervisor.pids if pid != killed), signal.SIGKILL)
        for _ in range(20):
            with suppress(OSError):
                await ask(base.listeners["web"].port)
        await until(lambda: len(supervisor.pids) == 2)
        for _ in range(10):
            assert await ask(base.listeners["web"].port) == (200, b"ok")  # the new ones have the configuration


async def answer_slowly_who_asked(request: Request) -> None:
    """The body is the request's id, whose first 20 digits are a worker's own."""
    identifier = re.search(rb"\r\nX-Request-Id: (\w+)\r\n", request.head)
    assert identifier
    await asyncio.sleep(0.005)
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n" + identifier[1])


async def test_a_worker_killed_under_load_loses_what_it_had_in_flight_and_no_more() -> None:
    served: Counter[bytes] = Counter()
    lost: list[bytes] = []
    stop = asyncio.Event()

    async def load(port: int) -> None:
        """Asks on one connection, and on another one when that is lost; notes whose it was."""
        while not stop.is_set():
            client, worker = None, b""
            try:
                client = Client(*await asyncio.open_connection("127.0.0.1", port))
                while not stop.is_set():
                    status, identifier = await client.ask()
                    assert status == 200
                    worker = identifier[:20]
                    served[worker] += 1
            except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError):
                lost.append(worker)
            if client is not None:
                await client.close()

    async with Backend(answer_slowly_who_asked).running() as backend, node() as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        clients = [asyncio.create_task(load(base.listeners["web"].port)) for _ in range(24)]
        await until(lambda: len(served) == 2 and min(served.values()) > 100)
        os.kill(supervisor.pids[0], signal.SIGKILL)
        await until(lambda: len(supervisor.pids) == 1)
        before = served.copy()
        await until(lambda: len(supervisor.pids) == 2 and (served - before).total() > 200)
        assert supervisor.report()["worker_restarts"] == 1
        clients += [asyncio.create_task(load(base.listeners["web"].port)) for _ in range(24)]
        await until(lambda: len(served) == 3)  # the successor has its share of new connections
        stop.set()
        await asyncio.gather(*clients)
    queued = lost.count(b"")  # came back while the kernel was still closing the sockets of the dead
    assert 0 < len(lost) - queued < 24
    assert queued <= len(lost) - queued
    (killed,) = set(lost) - {b""}
    assert served[killed] == before[killed]


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_the_queue_of_a_dead_worker_is_not_lost(workers: int) -> None:
    """Connections that waited for it to accept them are served: by the worker next to it, or by its successor."""
    async with Backend().running() as backend, node(workers=workers) as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        for pid in supervisor.pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = []
        for _ in range(24):
            client = Client(*await asyncio.open_connection("127.0.0.1", base.listeners["web"].port))
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            waiting.append(client)
        killed, *others = supervisor.pids
        os.kill(killed, signal.SIGKILL)
        for pid in others:
            os.kill(pid, signal.SIGCONT)
        for client in waiting:
            assert await client.answer() == (200, b"ok")
            await client.close()
        await until(lambda: len(supervisor.pids) == workers)
        for _ in range(24):
            assert await ask(base.listeners["web"].port) == (200, b"ok")


async def test_a_minded_seat_takes_changes_part() -> None:
    """While a worker is away, its seat follows the configuration, and its successor has it back."""
    async with Backend().running() as backend, node() as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        for version in range(2, 5):
            os.kill(supervisor.pids[0], signal.SIGKILL)
            await until(lambda: len(supervisor.pids) == 1)
            port = free_port()
            await supervisor.apply(with_listener(base, "more", port), version)
            for _ in range(24):
                assert await ask(port) == (200, b"ok")
            await until(lambda: len(supervisor.pids) == 2)
            for _ in range(24):
                assert await ask(port) == (200, b"ok")
                assert await ask(base.listeners["web"].port) == (200, b"ok")


async def test_numbers_of_what_is_gone_are_not_kept() -> None:
    async with Backend().running() as backend, Backend().running() as other, node(workers=1) as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(with_listener(base, "more", port := free_port()), 1)
        (worker,) = supervisor._workers.values()
        assert await ask(port) == (200, b"ok")
        await until(
            lambda: "more" in worker.meters["listeners"] and ("app", "127.0.0.1", backend.port) in worker.servers
        )
        await supervisor.apply(model(base.listeners["web"].port, [other.port]), 2)
        assert "more" not in worker.meters["listeners"]
        assert ("app", "127.0.0.1", backend.port) not in worker.servers
        assert await ask(base.listeners["web"].port) == (200, b"ok")
        await until(lambda: ("app", "127.0.0.1", other.port) in worker.servers)


async def test_a_worker_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that it does not answer to is refused; its successor has the old one."""
    async with Backend().running() as backend, node() as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        monkeypatch.setattr("proxy.worker_process.APPLY_TIMEOUT_S", 0.5)
        hung = supervisor.pids[0]
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(ApplyError, match=f"worker {hung} did not answer"):
            await supervisor.apply(with_listener(base, "more", port := free_port()), 2)
        monkeypatch.undo()
        await until(lambda: hung not in supervisor.pids and len(supervisor.pids) == 2)
        for _ in range(10):
            assert await ask(base.listeners["web"].port) == (200, b"ok")
        with pytest.raises(ConnectionRefusedError):
            await ask(port)


async def test_workers_that_cannot_start_are_given_up() -> None:
    reasons: list[str] = []
    tasks = Tasks()
    settings = Settings("l7-1", 2, identity="/nonexistent", keyservers=("unix:/nonexistent",))
    supervisor = Supervisor(settings, tasks, reasons.append)
    supervisor.start()
    await until(lambda: len(reasons) == 2)
    assert "/nonexistent" in reasons[0]
    await tasks.close()


async def test_a_worker_that_cannot_start_later_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as when the access log's directory is away for a while: the node has served, and goes on."""
    log = tmp_path / "log" / "access.log"
    log.parent.mkdir()
    async with Backend().running() as backend, node(access_log=str(log)) as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        log.parent.rename(tmp_path / "away")
        os.kill(supervisor.pids[0], signal.SIGKILL)
        await until(lambda: "access.log'; another starts in" in caplog.text)
        assert await ask(base.listeners["web"].port) == (200, b"ok")
        (tmp_path / "away").rename(log.parent)
        await until(lambda: len(supervisor.pids) == 2)


def with_key_server(tmp_path: Path, workers: int) -> tuple[Model, Settings, list[str | Path]]:
    """A model with an HTTPS listener, settings of a node for it, and the arguments of its key server."""
    ca, keys, chain, sock = (tmp_path / name for name in ("ca", "keys", "chain.pem", "sock"))
    for arguments in (
        ["certs", "init", ca],
        ["certs", "issue", ca, "--role", "l7", "--name", "l7-1", "--out", tmp_path / "id"],
        ["keyserver", "issue", "--keys", keys, "--ca", ca, "--name", "c", "--domain", "web.test", "--chain-out", chain],
    ):
        subprocess.run([sys.executable, "-m", *arguments], check=True, capture_output=True)
    base = with_service(model(free_port(), [free_port()]), health_check=None)
    listener = replace(base.listeners["web"], protocol=Protocol.HTTPS, certificates=("c",))
    certificates = {"c": Certificate("c", chain=chain.read_text())}
    settings = Settings("l7-1", workers, identity=str(tmp_path / "id"), keyservers=(f"unix:{sock}",))
    https = replace(base, listeners={"web": listener}, certificates=certificates)
    argv = ["-m", "keyserver", "--keys", keys, "--socket", sock, "--audit-log", tmp_path / "audit.log"]
    return https, settings, [*argv, "--metrics", "off"]


async def test_problems_that_workers_report_later_are_passed_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that starts before its key server serves certificates unchecked, and has them checked later."""
    caplog.set_level("INFO")
    https, settings, argv = with_key_server(tmp_path, workers=1)
    tasks, failures = Tasks(), list[str]()
    supervisor = Supervisor(settings, tasks, failures.append)
    supervisor.start()
    await supervisor.apply(https, 1)
    (problem,) = supervisor.report()["problems"]  # type: ignore[misc]
    assert problem.endswith("it is served unchecked")
    assert f"configuration 1: {problem}" in caplog.text
    with subprocess.Popen([sys.executable, *argv], stderr=subprocess.DEVNULL) as keyserver:
        try:
            await until(lambda: supervisor.report()["problems"] == [], limit_s=20)
        finally:
            keyserver.terminate()
    assert f"no longer: {problem}" in caplog.text
    await supervisor.drain()
    await tasks.close()
    assert not failures


def resume(port: int, times: int) -> list[bool]:
    """Whether each connection after the first resumed the session of the one before."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    session, resumed = None, list[bool]()
    for _ in range(times + 1):
        raw = socket.create_connection(("127.0.0.1", port), 10)
        with context.wrap_socket(raw, server_hostname="web.test", session=session) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n")
            while tls.recv(65536):
                pass
            session = tls.session
            resumed.append(bool(tls.session_reused))
    return resumed[1:]


async def test_workers_resume_each_others_sessions(tmp_path: Path) -> None:
    https, settings, argv = with_key_server(tmp_path, workers=2)
    tasks, failures = Tasks(), list[str]()
    with subprocess.Popen([sys.executable, *argv], stderr=subprocess.DEVNULL) as keyserver:
        try:
            supervisor = Supervisor(settings, tasks, failures.append)
            supervisor.start()
            await supervisor.apply(https, 1)
            audit = tmp_path / "audit.log"
            await until(lambda: audit.exists() and audit.read_text().count("ticket_secrets") == 2, limit_s=20)
            assert await asyncio.to_thread(resume, https.listeners["web"].port, 16) == [True] * 16
            signatures = [line for line in audit.read_text().splitlines() if '"result"' in line]
            assert len(signatures) == 1
            await supervisor.drain()
        finally:
            keyserver.terminate()
    await tasks.close()
    assert not failures


def both_run_without(supervisor: Supervisor, dead: int) -> bool:
    return len(supervisor.pids) == 2 and dead not in supervisor.pids


async def test_a_client_stays_with_its_server_whoever_of_us_takes_the_request() -> None:
    """Two workers, one of which dies; and a node that comes later and has been given the same secret."""
    async with Backend().running() as one, Backend().running() as two:
        base = model(free_port(), [one.port, two.port])
        service = replace(base.backend_services["app"], sticky_session=StickySession())
        base = replace(base, backend_services={"app": service})

        async def goes_back(cookie: bytes, asked: int = 12) -> bool:
            before = len(one.heads), len(two.heads)
            for _ in range(asked):  # each on a connection of its own, so that both workers have some
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: %b\r\n\r\n" % cookie)
                assert b"Set-Cookie" not in await reader.read()
                writer.close()
            return sorted((len(one.heads) - before[0], len(two.heads) - before[1])) == [0, asked]

        port = base.listeners["web"].port
        cookie = b""
        for secret in (b"s" * 32, b"s" * 32):
            async with node() as supervisor:
                supervisor.take_cookie_secret(secret)
                await supervisor.apply(base, 1)
                if not cookie:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    (cookie,) = re.findall(rb"Set-Cookie: (SERVERID=[^;]+);", await reader.read())
                    writer.close()
                assert await goes_back(cookie)
                dying = supervisor.pids[0]
                os.kill(dying, signal.SIGKILL)
                await until(partial(both_run_without, supervisor, dying))
                assert await goes_back(cookie)


async def test_a_server_that_fails_its_checks_gets_no_request() -> None:
    async def unwell(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 503 Unwell\r\nContent-Length: 0\r\n\r\n")

    async with Backend().running() as good, Backend(unwell).running() as bad, node(workers=1) as supervisor:
        base = model(free_port(), [good.port, bad.port])
        check = HealthCheck(CheckType.HTTP, interval_s=1, timeout_s=1, rise=2, fall=2, uri="/health")
        service = replace(base.backend_services["app"], health_check=check)
        await supervisor.apply(replace(base, backend_services={"app": service}), 1)

        def verdicts() -> dict[str, bool]:
            return {each["server"]: each["healthy"] for each in supervisor.report()["health"]}  # type: ignore[index,attr-defined]

        await until(lambda: not verdicts()[f"127.0.0.1:{bad.port}"])
        assert verdicts()[f"127.0.0.1:{good.port}"]
        assert [(await ask(base.listeners["web"].port))[0] for _ in range(6)] == [200] * 6


async def test_a_rule_may_have_a_check_of_its_own_and_else_has_its_services() -> None:
    async def unwell(request: Request) -> None:
        text = b"HTTP/1.1 503 Unwell" if request.path == "/health" else b"HTTP/1.1 200 OK"
        request.writer.write(text + b"\r\nContent-Length: 3\r\n\r\nbad")

    async with Backend().running() as good, Backend(unwell).running() as bad, node(workers=1) as supervisor:
        base = model(free_port(), [good.port, bad.port])
        check = HealthCheck(CheckType.HTTP, interval_s=1, timeout_s=1, rise=2, fall=2, uri="/health")
        service = replace(base.backend_services["app"], health_check=check)
        rules = {
            "shared": Rule(
                "shared", "web", "app", url="/shared", scheduler=Scheduler.RR, sticky_session=StickySession()
            ),
            "own": Rule("own", "web", "app", url="/own", health_check=HealthCheck(CheckType.TCP)),
        }
        await supervisor.apply(replace(base, backend_services={"app": service}, rules=rules), 1)

        def verdicts() -> dict[tuple[str, str], bool]:
            rows = supervisor.report()["health"]
            return {(row["service"], row["server"]): row["healthy"] for row in rows}  # type: ignore[attr-defined]

        port, ill = base.listeners["web"].port, f"127.0.0.1:{bad.port}"
        await until(lambda: not verdicts()["app", ill])
        assert {name for name, _ in verdicts()} == {"app", "app@own"}  # nobody is asked twice the same
        assert verdicts()["app@own", ill]
        assert {await ask(port, "/shared") for _ in range(6)} == {(200, b"ok")}
        assert {await ask(port, "/own") for _ in range(6)} == {(200, b"ok"), (200, b"bad")}


async def test_a_rolling_drain_under_load_loses_no_request() -> None:
    """Clients that honour `Connection: close` and connect anew elsewhere see no error while a node drains."""

    async def answer(request: Request) -> None:
        await asyncio.sleep(0.01)
        await answer_ok(request)

    done = failed = refused = 0
    stop = asyncio.Event()

    async def load(port: int) -> None:
        nonlocal done, failed, refused
        while not stop.is_set():
            try:
                client = Client(*await asyncio.open_connection("127.0.0.1", port))
            except ConnectionRefusedError:  # the node is gone: L4 would have stopped sending before
                refused += 1
                return
            try:
                while not stop.is_set():
                    client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    status, head, _ = await client.whole_answer()
                    assert status == 200
                    done += 1
                    if b"Connection: close" in head:
                        break
            except (OSError, asyncio.IncompleteReadError, AssertionError):
                failed += 1
            await client.close()

    async with Backend(answer).running() as backend, node() as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        clients = [asyncio.create_task(load(base.listeners["web"].port)) for _ in range(20)]
        await until(lambda: done > 200)
        await supervisor.drain()
        stop.set()
        await asyncio.gather(*clients)
    assert (failed, refused) == (0, 20)


async def test_configuration_changes_under_load_lose_no_request() -> None:
    done = 0
    stop = asyncio.Event()

    async def load(port: int) -> None:
        nonlocal done
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        while not stop.is_set():
            assert await client.ask() == (200, b"ok")
            done += 1
        await client.close()

    async with Backend().running() as backend, Backend().running() as other, node() as supervisor:
        base = model(free_port(), [backend.port])
        await supervisor.apply(base, 1)
        clients = [asyncio.create_task(load(base.listeners["web"].port)) for _ in range(10)]
        for version in range(2, 12):
            servers = (Server("127.0.0.1", backend.port), Server("127.0.0.1", other.port))[: 1 + version % 2]
            changed = replace(base, server_groups={"app": ServerGroup("app", servers)})
            await supervisor.apply(with_listener(changed, f"l{version}", free_port()), version)
        stop.set()
        await asyncio.gather(*clients)
    assert done > 50


async def test_ready() -> None:
    loop = asyncio.get_running_loop()
    async with Backend().running() as backend, node(workers=1) as supervisor:
        server = await loop.create_server(lambda: ReadyProtocol(lambda: supervisor.ready), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert (await ask(port, "/ready"))[0] == 503
        await supervisor.apply(model(free_port(), [backend.port]), 1)
        assert await ask(port, "/ready") == (200, b"ready\n")
        assert (await ask(port, "/else"))[0] == 404
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        client.writer.write(b"nonsense\r\n\r\n")
        assert (await client.answer())[0] == 400
        await client.close()
        await supervisor.drain()
        assert (await ask(port, "/ready"))[0] == 503
        server.close()
        await server.wait_closed()


async def test_without_a_supervisor_the_workers_end() -> None:
    """SIGKILL leaves nobody behind: the channel closes, and a worker drains and goes."""
    async with node(workers=1, drain_s=1.0) as supervisor:
        await supervisor.apply(Model(), 1)
        (worker,) = supervisor._workers.values()
        worker._writer.close()
        assert await asyncio.wait_for(worker.process.wait(), 5) == 0
