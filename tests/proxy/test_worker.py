"""A worker's configuration in place, and its drain, with real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from control.node.tasks import Tasks
from core.config import from_dict, to_dict
from core.model import (
    AccessList,
    Acl,
    Certificate,
    Condition,
    FixedReply,
    HeaderChange,
    Instance,
    Model,
    Protocol,
    Redirect,
    Rewrite,
    Rule,
    Scheduler,
    Server,
    ServerGroup,
    Share,
    StickySession,
)
from proxy import keyless, passing, worker_channel, worker_main
from proxy.errors import ApplyError
from proxy.keyless import KeylessUnavailable
from proxy.tls import TlsServer
from proxy.worker_channel import Channel
from tests.proxy.support import (
    ANSWER,
    WEBSOCKET,
    Backend,
    Client,
    Request,
    answer_ok,
    free_port,
    model,
    open_websocket,
    proxy,
    with_listener,
    without_listener,
)
from tests.proxy.test_https import https
from tests.proxy.tls_support import LocalKeys, certificate, new_key
from tests.waiting import until


async def test_a_change_elsewhere_is_not_noticed() -> None:
    """A connection in the middle of its answer sees neither the new listener nor the new rule come and go."""
    go_on = asyncio.Event()

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await request.writer.drain()
        await go_on.wait()
        request.writer.write(b"rest")

    async with Backend(answer).running() as backend:
        base = model(free_port(), [backend.port])
        async with proxy(base) as l7:
            client = await l7.connect()
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.reader.readuntil(b"half")
            more = with_listener(base, "more", free_port())
            await l7.worker.apply(more)
            await l7.worker.apply(replace(more, rules={"r": Rule("r", "web", "app", "", "/x")}))
            await l7.worker.apply(base)
            go_on.set()
            assert await client.reader.readexactly(4) == b"rest"
            assert (await client.ask("/again"))[0] == 200
            await client.close()
    assert backend.connections == 1


async def test_websockets_do_not_notice_what_changes_around_them() -> None:
    """Listeners, rules, services and servers come and go, its own listener's port moves: the tunnel goes on."""

    async def answer(request: Request) -> None:
        request.writer.write(WEBSOCKET)
        while data := await request.reader.read(100):
            request.writer.write(data)

    async def echoes(client: Client, data: bytes) -> None:
        client.writer.write(data)
        assert await client.reader.readexactly(len(data)) == data

    async with Backend(answer).running() as backend, Backend().running() as other:
        base = model(free_port(), [backend.port])
        second = replace(base.server_groups["app"], name="b", servers=(Server("127.0.0.1", other.port),))
        service = replace(base.backend_services["app"], name="b", server_group="b")
        more = replace(
            base,
            server_groups={**base.server_groups, "b": second},
            backend_services={**base.backend_services, "b": service},
            rules={"r": Rule("r", "web", "b", "", "/b")},
        )
        async with proxy(base) as l7:
            tunnel = await open_websocket(l7.port, "/chat")
            idle = await l7.connect()
            moved = replace(base.listeners["web"], port=free_port())
            for number, changed in enumerate((
                with_listener(base, "more", free_port()),
                more,
                replace(more, server_groups={**more.server_groups, "b": replace(second, servers=())}),
                replace(base, server_groups={"app": ServerGroup("app", (Server("127.0.0.1", other.port),))}),
                base,
                replace(base, listeners={"web": moved}),
            )):  # fmt: skip
                await l7.worker.apply(changed)
                await echoes(tunnel, b"%d" % number)
            with pytest.raises(ConnectionRefusedError):
                await l7.connect()
            at_new = await open_websocket(moved.port, "/chat")
            await echoes(at_new, b"new")
            for client in (tunnel, idle, at_new):
                await client.close()
    assert len(backend.heads) == 2


async def test_listeners_come_and_go() -> None:
    async with Backend().running() as backend:
        base = model(free_port(), [backend.port])
        port = free_port()
        async with proxy(base) as l7:
            await l7.worker.apply(with_listener(base, "more", port))
            client = await l7.connect(port)
            assert (await client.ask())[0] == 200
            await l7.worker.apply(base)
            assert await client.rest() == b""  # idle connections of a removed listener close
            with pytest.raises(ConnectionRefusedError):
                await l7.connect(port)
            assert (await l7.get())[0] == 200
            await client.close()


async def test_a_removed_listener_lets_its_requests_finish() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(0.3)
        request.writer.write(ANSWER)

    async with Backend(answer).running() as backend:
        base = model(free_port(), [backend.port])
        async with proxy(base) as l7:
            client = await l7.connect()
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: bool(backend.heads))
            await l7.worker.apply(without_listener(base, "web"))
            status, head, _ = await client.whole_answer()
            assert status == 200
            assert b"\r\nConnection: close\r\n" in head
            assert await client.rest() == b""
            await client.close()


async def test_a_port_that_cannot_be_had_changes_nothing() -> None:
    async with Backend().running() as backend:
        base = model(free_port(), [backend.port])
        async with proxy(base) as l7:
            with socket.socket() as other:
                other.bind(("0.0.0.0", 0))
                other.listen()
                worse = with_listener(base, "taken", other.getsockname()[1])
                worse = with_listener(worse, "free", port := free_port())
                worse = replace(worse, server_groups={"app": ServerGroup("app")})
                with pytest.raises(ApplyError, match="address already in use"):
                    await l7.worker.apply(worse)
            assert (await l7.get())[0] == 200
            with pytest.raises(ConnectionRefusedError):
                await l7.connect(port)


async def test_https_needs_a_key_server() -> None:
    base = model(free_port(), [])
    https = replace(base.listeners["web"], protocol=Protocol.HTTPS, certificates=("c",))
    wanted = replace(base, listeners={"web": https}, certificates={"c": Certificate("c", chain="PEM")})
    async with proxy(base) as l7:
        with pytest.raises(ApplyError, match="listener 'web' is https, and no key server is given"):
            await l7.worker.apply(wanted)


async def test_servers_change_in_place() -> None:
    async with Backend().running() as one, Backend().running() as two:
        base = model(free_port(), [one.port])
        async with proxy(base) as l7:
            client = await l7.connect()
            assert (await client.ask())[0] == 200
            group = ServerGroup("app", (Server("127.0.0.1", two.port),))
            await l7.worker.apply(replace(base, server_groups={"app": group}))
            assert (await client.ask())[0] == 200
            await client.close()
    assert (len(one.heads), len(two.heads)) == (1, 1)


async def test_rules_and_trust_change_in_place() -> None:
    async with Backend().running() as backend:
        base = model(free_port(), [backend.port])
        listener = replace(base.listeners["web"], backend_service="", trusted_proxies=("127.0.0.0/8",))
        narrow = replace(base, listeners={"web": listener}, rules={"r": Rule("r", "web", "app", "a", "/in")})
        async with proxy(base) as l7:
            client = await l7.connect()
            assert (await client.ask("/out"))[0] == 200
            await l7.worker.apply(narrow)
            assert (await client.ask("/out"))[0] == 404
            assert (await client.ask("/in/side"))[0] == 200
            fresh = await l7.connect()
            await fresh.ask("/in", b"X-Forwarded-For: 203.0.113.9\r\n")
            assert b"\r\nX-Forwarded-For: 203.0.113.9, 127.0.0.1\r\n" in backend.heads[-1]
            await client.close()
            await fresh.close()


async def test_rules_with_conditions_change_under_a_connection() -> None:
    """The same connection is forwarded, sent elsewhere and answered here, as the rules come and go."""
    async with Backend().running() as backend, Backend().running() as other:
        base = model(free_port(), [backend.port])
        base = replace(
            base,
            server_groups={**base.server_groups, "beta": ServerGroup("beta", (Server("127.0.0.1", other.port),))},
            backend_services={
                **base.backend_services,
                "beta": replace(base.backend_services["app"], name="beta", server_group="beta"),
            },
        )
        beta = Rule("beta", "web", "beta", headers=(Condition("X-Beta", ("y*",)),), priority=1)
        moved = Rule("moved", "web", url="/old", redirect=Redirect(301, path="/new${rest}"))
        closed = Rule("closed", "web", domain="a", priority=9, fixed_reply=FixedReply(503, body="later"))
        async with proxy(base) as l7:
            client = await l7.connect()
            assert (await client.ask("/old/x", b"X-Beta: yes\r\n"))[0] == 200
            assert (len(backend.heads), len(other.heads)) == (1, 0)
            await l7.worker.apply(replace(base, rules={"beta": beta, "moved": moved}))
            assert (await client.ask("/old/x", b"X-Beta: yes\r\n"))[0] == 200
            assert (len(backend.heads), len(other.heads)) == (1, 1)
            client.writer.write(b"GET /old/x HTTP/1.1\r\nHost: a\r\n\r\n")
            status, head, _ = await client.whole_answer()
            assert (status, b"\r\nLocation: http://a/new/x\r\n" in head) == (301, True)
            await l7.worker.apply(replace(base, rules={"closed": closed, "beta": beta}))
            assert await client.ask("/old/x") == (503, b"later")
            assert (await client.ask("/old/x", b"X-Beta: yes\r\n"))[0] == 200
            await l7.worker.apply(base)
            assert (await client.ask("/old/x", b"X-Beta: yes\r\n"))[0] == 200
            assert (len(backend.heads), len(other.heads)) == (2, 2)
            await client.close()
            assert [record.status for record in l7.records] == [200, 200, 301, 503, 200, 200]
            assert {record.error_code for record in l7.records} == {""}


async def test_a_split_with_a_rewrite() -> None:
    async with Backend().running() as one, Backend().running() as two:
        base = model(free_port(), [one.port])
        rule = Rule(
            "r", "web", url="/api", split=(Share("app", 75), Share("next", 25)), rewrite=Rewrite(path="${rest}"),
            request_headers=(HeaderChange("X-Prefix", value="/api"),),
        )  # fmt: skip
        base = replace(
            base,
            server_groups={**base.server_groups, "next": ServerGroup("next", (Server("127.0.0.1", two.port),))},
            backend_services={
                **base.backend_services,
                "next": replace(base.backend_services["app"], name="next", server_group="next"),
            },
            rules={"r": rule},
        )
        async with proxy(base) as l7:
            client = await l7.connect()
            for number in range(8):
                assert (await client.ask(f"/api/{number}"))[0] == 200
            await client.close()
            assert (await l7.record(8)).path == "/api/7"
    assert (len(one.heads), len(two.heads)) == (6, 2)
    for head in one.heads + two.heads:
        assert re.match(rb"GET /\d HTTP", head)
        assert b"\r\nX-Prefix: /api\r\n" in head


async def test_stickiness_comes_and_goes_with_the_configuration() -> None:
    """Under one connection; a server of weight 0 keeps its client, one that is gone does not."""
    async with Backend().running() as one, Backend().running() as two:
        plain = model(free_port(), [one.port, two.port])
        service = replace(plain.backend_services["app"], sticky_session=StickySession())
        base = replace(plain, backend_services={"app": service})
        async with proxy(plain) as l7:
            client = await l7.connect()

            async def ask(cookie: bytes = b"") -> bytes:
                client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % (cookie and b"Cookie: %b\r\n" % cookie))
                _, answer, _ = await client.whole_answer()
                found = re.search(rb"\r\nSet-Cookie: (SERVERID=[^;]+); Path=/; Max-Age=3600; HttpOnly\r\n", answer)
                return found[1] if found else b""

            assert await ask() == b""
            await l7.worker.apply(base)
            cookie = await ask()
            before = len(one.heads), len(two.heads)
            for _ in range(4):
                assert await ask(cookie) == b""
            asked = len(one.heads) - before[0], len(two.heads) - before[1]
            assert sorted(asked) == [0, 4]
            stays = one if asked[0] else two
            servers = [Server("127.0.0.1", each.port, 0 if each is stays else 100) for each in (one, two)]
            await l7.worker.apply(replace(base, server_groups={"app": ServerGroup("app", tuple(servers))}))
            count = len(stays.heads)
            assert [await ask(cookie), bool(await ask())] == [b"", True]
            assert len(stays.heads) == count + 1
            left = tuple(each for each in servers if each.weight)
            await l7.worker.apply(replace(base, server_groups={"app": ServerGroup("app", left)}))
            assert await ask(cookie)
            await l7.worker.apply(plain)
            assert await ask() == b""
            await client.close()


async def test_a_rule_schedules_and_keeps_clients_in_its_own_way() -> None:
    """By the same service, whose own requests take turns as before; and it may come and go."""
    async with Backend().running() as one, Backend().running() as two:
        base = model(free_port(), [one.port, two.port], scheduler=Scheduler.RR)
        rules = {
            "hashed": Rule("hashed", "web", "app", url="/hashed", scheduler=Scheduler.SH),
            "kept": Rule("kept", "web", "app", url="/kept", sticky_session=StickySession()),
        }
        async with proxy(replace(base, rules=rules)) as l7:
            client = await l7.connect()

            async def shares(path: str) -> list[int]:
                before = len(one.heads), len(two.heads)
                for _ in range(4):
                    assert (await client.ask(path))[0] == 200
                return sorted((len(one.heads) - before[0], len(two.heads) - before[1]))

            assert [await shares("/"), await shares("/hashed"), await shares("/kept")] == [[2, 2], [0, 4], [2, 2]]
            client.writer.write(b"GET /kept HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"Set-Cookie: SERVERID=" in (await client.whole_answer())[1]
            assert set(l7.hub.services) == {"app", "app@hashed", "app@kept"}
            assert set(l7.hub.stickies) == {"app@kept"}
            await l7.worker.apply(base)
            assert [await shares("/"), await shares("/hashed")] == [[2, 2], [2, 2]]
            assert (set(l7.hub.services), set(l7.hub.stickies)) == ({"app"}, set())
            await client.close()


async def test_rules_are_arranged_anew_only_when_they_change() -> None:
    base = model(free_port(), [], rules=[Rule("r", "web", "app", "a", "/in")])
    async with proxy(base) as l7:
        (site,) = l7.worker._all_sites()
        router = site.router
        await l7.worker.apply(from_dict(to_dict(base)))
        assert site.router is router
        await l7.worker.apply(replace(base, rules={}))
        assert site.router is not router


async def test_clients_vips_and_servers_of_ipv6() -> None:
    """Beside those of IPv4: an IPv6 client may be served by an IPv4 server and the other way round."""
    async with Backend(host="::1").running() as backend:
        base = model(free_port(), [])
        base = replace(
            base,
            server_groups={"app": ServerGroup("app", (Server("::1", backend.port),))},
            instances={"main": Instance("main", vips=("127.0.0.1", "::1"))},
            access_lists={"us": AccessList("us", ("127.0.0.1", "::1"))},
            listeners={
                "web": replace(
                    base.listeners["web"], acl=Acl.WHITE, access_list="us", trusted_proxies=("::1", "10.0.0.0/8")
                )
            },
        )
        async with proxy(base) as l7:
            for number, (host, said) in enumerate((("::1", b"203.0.113.9, ::1"), ("127.0.0.1", b"127.0.0.1")), 1):
                client = await l7.connect(host=host)
                assert (await client.ask("/", b"X-Forwarded-For: 203.0.113.9\r\n"))[0] == 200
                assert b"\r\nX-Forwarded-For: %b\r\n" % said in backend.heads[-1]
                assert (await l7.record(number)).upstream == f"[::1]:{backend.port}"
                await client.close()
            nobody = replace(base, access_lists={"us": AccessList("us", ("127.0.0.1",))})
            await l7.worker.apply(nobody)
            client = await l7.connect(host="::1")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.ask()
            await client.close()
            assert (await l7.get())[0] == 200


async def test_without_vips_clients_come_by_ipv6_too() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        assert not l7.worker.has_vips
        client = await l7.connect(host="::1")
        assert (await client.ask())[0] == 200
        assert b"\r\nX-Forwarded-For: ::1\r\n" in backend.heads[-1]
        await client.close()


async def test_draining_finishes_what_is_in_flight() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(0.3)
        await answer_ok(request)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        clients = [await l7.connect() for _ in range(5)]
        idle = await l7.connect()
        for client in clients:
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(backend.heads) == 5)
        draining = asyncio.create_task(l7.worker.drain(10, 0))
        for client in clients:
            status, head, body = await client.whole_answer()
            assert (status, body) == (200, b"ok")
            assert b"\r\nConnection: close\r\n" in head
        assert (await idle.ask())[0] == 200  # its request may have been on its way
        await draining
        with pytest.raises(ConnectionRefusedError):
            await l7.connect()
        for client in (*clients, idle):
            await client.close()


async def test_an_answer_that_had_begun_costs_its_client_no_request() -> None:
    """Its head said that the connection stays: the next request may be on its way, and is answered."""
    more = asyncio.Event()

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await more.wait()
        request.writer.write(b"k")

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"Connection: close" not in head
        draining = asyncio.create_task(l7.worker.drain(10, 0))
        await until(lambda: all(site.closing for site in l7.worker._all_sites()))
        more.set()
        assert await client.reader.readexactly(2) == b"ok"
        status, head, body = await _ask(client)
        assert (status, body) == (200, b"ok")
        assert b"\r\nConnection: close\r\n" in head
        assert await client.rest() == b""
        await draining
        await client.close()


async def test_closing_a_socket_serves_its_accept_queue() -> None:
    """Connections that wait to be accepted when the socket closes are not reset."""
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        waiting = []
        for _ in range(5):  # blocking: the loop has no turn in which to accept them
            sock = socket.create_connection(("127.0.0.1", l7.port))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            waiting.append(sock)
        await l7.worker.openings.close(0.01)
        for sock in waiting:
            reader, writer = await asyncio.open_connection(sock=sock)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()
            await writer.wait_closed()


async def test_the_drain_time_ends() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(30)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(backend.heads))
        await l7.worker.drain(0.2, 0)
        assert (await client.answer())[0] == 503
        assert (await l7.record()).error_code == "drain_time_over"
        await client.close()


async def test_a_lame_duck_still_accepts() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        draining = asyncio.create_task(l7.worker.drain(10, 0.3))
        await asyncio.sleep(0.05)
        client = await l7.connect()
        status, head, _ = await _ask(client)
        assert status == 200
        assert b"\r\nConnection: close\r\n" in head
        await draining
        await client.close()


async def _ask(client: object) -> tuple[int, bytes, bytes]:
    client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # type: ignore[attr-defined]
    return await client.whole_answer()  # type: ignore[attr-defined,no-any-return]


async def test_an_empty_configuration() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        await l7.worker.apply(Model())
        with pytest.raises(ConnectionRefusedError):
            await l7.connect()


# -- the channel to the supervisor


async def test_problems_that_go_away_by_themselves_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a new certificate reaches the key server later than the certificate reaches the node."""
    monkeypatch.setattr(worker_channel, "RECHECK_S", 0.02)
    key = new_key("P-256")
    keys = LocalKeys([key], problems=["no key is held for it"])
    tls = TlsServer(keys)
    async with proxy(model(free_port(), []), tls) as l7:
        ours, theirs = socket.socketpair()
        background = Tasks()
        channel = asyncio.create_task(Channel(l7.worker, l7.hub, tls).run(theirs, background, 1.0))
        reader, writer = await asyncio.open_connection(sock=ours)

        async def hear(word: str) -> dict[str, object]:
            async with asyncio.timeout(10):
                while word not in (message := json.loads(await reader.readline())):
                    pass
            return message

        document = to_dict(https(free_port(), 1, certificate(key, ["web.test"])))
        writer.write(json.dumps({"config": document, "version": 7}).encode() + b"\n")
        why = "certificate 'web': no key is held for it; it is not served"
        nothing = "listener 'web': no certificate can be served"
        assert await hear("problems") == {"applied": 7, "problems": [why, nothing]}
        keys.fails = True
        (other,) = (await hear("problems"))["problems"]  # type: ignore[misc]
        assert other.endswith("it is served unchecked")
        keys.fails, keys.problems = False, ()
        assert await hear("problems") == {"problems": []}
        writer.write(b'{"drain": 0, "lame_duck": 0}\n')
        await channel
        await background.close()
        writer.close()
        await writer.wait_closed()
    await tls.close()


@pytest.mark.parametrize("cause", ["keyless", "identity", "access log"])
async def test_a_worker_that_cannot_start_says_why(cause: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unavailable() -> None:
        raise KeylessUnavailable("this Python has no OpenSSL 3")

    monkeypatch.setattr(keyless, "load", unavailable)
    ours, theirs = socket.socketpair()
    passed, passed_to = passing.pair()
    options = Namespace(
        channel=theirs.detach(), sockets=passed_to.detach(), name="l7-1", turn=0, drain=1.0,
        identity=tmp_path, keyserver=["unix:/nonexistent"],
        access_log="/nonexistent/log" if cause == "access log" else "",
        log_format="json", log_field=[], log_share=1.0,
    )  # fmt: skip
    if cause == "keyless":
        monkeypatch.setattr(worker_main.Identity, "load", lambda directory: None)
    assert await worker_main.serve(options) == 1
    with ours, passed:
        said = json.loads(ours.recv(4096))["cannot"]
    assert {"keyless": "no OpenSSL 3", "identity": str(tmp_path), "access log": "/nonexistent/log"}[cause] in said
