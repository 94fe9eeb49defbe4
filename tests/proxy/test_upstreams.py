"""How servers that fail are treated, in a real worker: ejection, slow start, fallback, and what is told of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from core.ejection import Outcome
from core.model import AvailabilityGroup, Ejection, Model, Node, Role, Scheduler, Server
from proxy.service import Service
from tests.proxy.support import Backend, Proxy, Request, free_port, model, proxy, with_group, with_service
from tests.proxy.test_conn import reset
from tests.proxy.test_server import node
from tests.waiting import until


async def answer_500(request: Request) -> None:
    request.writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")


async def answer_nothing(request: Request) -> None:
    request.writer.close()


async def answer_rubbish(request: Request) -> None:
    request.writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    request.writer.close()


async def never_answer(request: Request) -> None:
    await asyncio.Event().wait()


def named(name: bytes) -> Backend:
    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))

    return Backend(answer)


def app(l7: Proxy) -> Service:
    return l7.hub.services["app"]


def numbers(l7: Proxy, port: int) -> dict[str, float]:
    return dict(app(l7).pool.news())["127.0.0.1", port]


async def statuses(l7: Proxy, count: int) -> list[int]:
    return [(await l7.get())[0] for _ in range(count)]


async def test_a_server_that_nobody_listens_on_is_ejected_and_nobody_notices() -> None:
    gone = free_port()
    async with Backend().running() as good:
        rules = Ejection(failures=2)
        async with proxy(with_service(model(free_port(), [good.port, gone]), ejection=rules)) as l7:
            assert await statuses(l7, 10) == [200] * 10
            assert numbers(l7, gone) == {
                "requests": 2, "failures": 2, "errors": 0, "ejections": 1, "active": 0, "idle": 0, "ejected": 1
            }  # fmt: skip


@pytest.mark.parametrize("answer", [answer_nothing, answer_rubbish])
async def test_a_server_whose_answers_are_none_is_ejected(answer: object) -> None:
    async with Backend().running() as good, Backend(answer).running() as bad:  # type: ignore[arg-type]
        rules = Ejection(failures=3)
        async with proxy(with_service(model(free_port(), [good.port, bad.port]), ejection=rules)) as l7:
            assert sorted(await statuses(l7, 12)) == [200] * 9 + [502] * 3


async def test_a_server_that_does_not_answer_in_time_is_ejected() -> None:
    async with Backend().running() as good, Backend(never_answer).running() as bad:
        base = model(free_port(), [good.port, bad.port], request_timeout_s=1)
        async with proxy(with_service(base, ejection=Ejection(failures=1))) as l7:
            assert sorted(await statuses(l7, 4)) == [200] * 3 + [504]


async def test_errors_eject_only_where_they_count() -> None:
    async with Backend().running() as good, Backend(answer_500).running() as bad:
        base = model(free_port(), [good.port, bad.port])
        async with proxy(with_service(base, ejection=Ejection(errors=2))) as l7:
            assert sorted(await statuses(l7, 8)) == [200] * 6 + [500] * 2
            assert numbers(l7, bad.port)["errors"] == 2
        async with proxy(with_service(base, ejection=Ejection(failures=1))) as l7:
            assert sorted(await statuses(l7, 8)) == [200] * 4 + [500] * 4


async def test_a_client_that_leaves_ejects_nobody() -> None:
    """Its impatience is not the server's failure."""
    arrived = asyncio.Event()

    async def slow(request: Request) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with Backend(slow).running() as backend:
        base = model(free_port(), [backend.port])
        rules = Ejection(failures=1, errors=1, max_percent=100)
        async with proxy(with_service(base, ejection=rules)) as l7:
            client = await l7.connect()
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await arrived.wait()
            reset(client)
            assert (await l7.record()).status == 499
            assert app(l7).pool.takes_requests


async def test_what_a_worker_ejects_is_told_and_what_others_eject_is_followed() -> None:
    gone, told = free_port(), list[tuple[str, tuple[str, int], float]]()
    async with Backend().running() as good:
        base = with_service(model(free_port(), [good.port, gone]), ejection=Ejection(failures=1, first_s=7))
        async with proxy(base) as l7:
            l7.hub.services["app"].on_ejected = lambda *each: told.append(each)
            l7.worker.follow_ejection("app", ("127.0.0.1", gone), 0.2)
            l7.worker.follow_ejection("elsewhere", ("127.0.0.1", gone), 99)
            l7.worker.follow_ejection("app", ("192.0.2.1", 1), 99)
            assert await statuses(l7, 4) == [200] * 4
            assert (l7.hub.counters["connect_failures"], told) == (0, [])
            while not told:  # on probation: its first failure ejects it, for twice as long
                assert (await l7.get())[0] == 200
            assert told == [("app", ("127.0.0.1", gone), 14)]
            assert l7.hub.counters["connect_failures"] == 1


async def test_an_ejected_server_comes_back_by_itself() -> None:
    fails = True

    async def answer(request: Request) -> None:
        await (answer_500(request) if fails else named(b"bad").answer(request))

    async with Backend().running() as good, Backend(answer).running() as bad:
        rules = Ejection(errors=1, first_s=1)
        async with proxy(with_service(model(free_port(), [good.port, bad.port]), ejection=rules)) as l7:
            assert sorted(await statuses(l7, 2)) == [200, 500]
            assert app(l7).pool.note(("127.0.0.1", bad.port), Outcome.ANSWERED, l7.hub.now()) == 0
            fails = False
            assert {(await l7.get())[1] for _ in range(4)} == {b"ok"}
            async with asyncio.timeout(10):
                while (await l7.get())[1] != b"bad":
                    await asyncio.sleep(0.01)
            assert set(await statuses(l7, 4)) == {200}


async def test_without_a_server_the_fallback_takes_over_and_gives_back() -> None:
    async with (
        Backend().running() as first,
        named(b"spare").running() as spare,
        proxy(falling_back([first.port], [spare.port])) as l7,
    ):
        assert await l7.get() == (200, b"ok")
        l7.worker.set_down({"app": [("127.0.0.1", first.port)]})
        assert await l7.get() == (200, b"spare")
        assert l7.hub.counters["fallback_requests"] == 1
        l7.worker.set_down({"app": [("127.0.0.1", first.port)], "spare": [("127.0.0.1", spare.port)]})
        assert (await l7.get())[0] == 503
        l7.worker.set_down({"spare": [("127.0.0.1", spare.port)]})
        assert await l7.get() == (200, b"ok")


async def test_a_request_that_no_server_accepted_goes_to_the_fallback() -> None:
    async with named(b"spare").running() as spare, proxy(falling_back([free_port()], [spare.port])) as l7:
        assert await l7.get() == (200, b"spare")


async def test_a_fallback_may_be_given_and_taken_away() -> None:
    async with named(b"spare").running() as spare:
        base = falling_back([], [spare.port])
        async with proxy(base) as l7:
            assert await l7.get() == (200, b"spare")
            await l7.worker.apply(with_service(base, fallback=""))
            assert (await l7.get())[0] == 503
            await l7.worker.apply(base)
            assert await l7.get() == (200, b"spare")


def falling_back(servers: list[int], spares: list[int]) -> Model:
    base = with_group(model(free_port(), servers), "spare", spares)
    return with_service(with_service(base, "spare", server_group="spare"), fallback="spare")


async def test_the_node_tells_of_servers_and_of_services_without_any() -> None:
    gone = free_port()
    async with Backend().running() as good, named(b"spare").running() as spare, node(workers=4) as supervisor:
        base = falling_back([good.port, gone], [spare.port])
        rules = Ejection(failures=1)
        await supervisor.apply(with_service(base, ejection=rules, health_check=None), 1)

        def row(port: int) -> dict[str, float]:
            upstreams = supervisor.report()["upstreams"]
            return next(each for each in upstreams if each["server"] == f"127.0.0.1:{port}")  # type: ignore[attr-defined]

        async def ask() -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", base.listeners["web"].port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return int(answer.split(b" ")[1])

        while not row(gone)["ejected"]:
            assert await ask() == 200
        await until(lambda: row(gone)["ejected"] == 4)  # what one worker finds out holds for all
        assert 1 <= row(gone)["ejections"] < 4
        assert row(good.port)["requests"] >= 2
        assert supervisor.report()["problems"] == []
        rules = Ejection(failures=1, max_percent=100)
        alone = with_group(with_service(base, ejection=rules, health_check=None), "app", [gone])
        await supervisor.apply(alone, 2)

        def told(text: str) -> bool:
            return f"backend service app: no server takes requests; {text}" in supervisor.report()["problems"]  # type: ignore[operator]

        await until(lambda: told("they go to spare"))
        await supervisor.apply(with_service(alone, fallback=""), 3)
        await until(lambda: told("they get 503"))
        assert await ask() == 503


# -- retries


async def test_retries_have_a_budget() -> None:
    """Without ejection, each second request would need one; a fifth of the requests may, and the few in any case."""
    gone = free_port()
    async with Backend().running() as good:
        base = with_service(model(free_port(), [good.port, gone]), ejection=None, retry_min_per_s=0)
        async with proxy(base) as l7:
            assert (await statuses(l7, 4)).count(502) == 2  # not earned yet
            got = await statuses(l7, 96)
            # 50 are for the server that is gone; 20 of 100 may be sent again, and the next turn is the good one's.
            assert 15 <= l7.hub.counters["retries"] <= 21
            assert got.count(502) == l7.hub.counters["retries_denied"] - 2
            denied = next(record for record in l7.records if record.status == 502)
            assert denied.error_code == "connect_failed"


async def test_the_few_retries_in_any_case() -> None:
    gone = free_port()
    async with Backend().running() as good:
        base = with_service(model(free_port(), [good.port, gone]), ejection=None, retry_percent=0, retry_min_per_s=1)
        async with proxy(base) as l7:
            begun = l7.hub.now()
            await statuses(l7, 40)
            assert 10 <= l7.hub.counters["retries"] <= 11 + l7.hub.now() - begun


async def test_a_stale_connection_is_not_retried_beyond_the_budget() -> None:
    async def answer_once(request: Request) -> None:
        """Keeps the connection, and closes it when the next request comes."""
        if requests := seen.get(request.connection):
            assert requests == 1
            request.writer.close()
        else:
            request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        seen[request.connection] = seen.get(request.connection, 0) + 1

    seen: dict[int, int] = {}
    async with Backend(answer_once).running() as backend:
        base = with_service(model(free_port(), [backend.port]), ejection=None, retry_percent=0, retry_min_per_s=0)
        async with proxy(base) as l7:
            assert (await l7.get())[0] == 200
            assert (await l7.get())[0] == 502
            assert (await l7.record(2)).error_code == "upstream_closed"
        async with proxy(with_service(base, retry_min_per_s=1)) as l7:
            assert (await l7.get())[0] == 200
            assert (await l7.get())[0] == 200
            assert l7.hub.counters["retries"] == 1


# -- schedulers that look at requests and answers


@pytest.mark.parametrize("hash_key", ["path", "header:X-User", "cookie:id"])
async def test_requests_of_one_key_have_one_server(hash_key: str) -> None:
    async with named(b"a").running() as a, named(b"b").running() as b, named(b"c").running() as c:
        base = model(free_port(), [a.port, b.port, c.port], scheduler=Scheduler.CH)
        async with proxy(with_service(base, hash_key=hash_key)) as l7:
            client = await l7.connect()
            found: list[bytes] = []
            for number in [*range(20), *range(20)]:
                fields = b"X-User: u%d\r\nCookie: a=b; id=%d\r\n" % (number, number)
                found.append((await client.ask(f"/{number}?{len(found)}", fields))[1])
            assert found[:20] == found[20:]
            assert set(found) == {b"a", b"b", b"c"}
            plain = {(await client.ask("/same"))[1] for _ in range(5)}
            assert len(plain) == 1  # by the client's address, or the same path
            await client.close()


async def test_the_faster_server_gets_the_requests() -> None:
    async def slow(request: Request) -> None:
        await asyncio.sleep(0.3)
        await named(b"slow").answer(request)

    async with named(b"fast").running() as fast, Backend(slow).running() as late:
        base = model(free_port(), [fast.port, late.port], scheduler=Scheduler.P2C)
        async with proxy(base) as l7:
            assert [(await l7.get())[1] for _ in range(30)].count(b"slow") == 1
            assert numbers(l7, late.port)["latency_ms"] >= 100


async def test_a_server_that_fails_at_once_is_not_the_fastest() -> None:
    async def slow(request: Request) -> None:
        await asyncio.sleep(0.02)
        await named(b"slow").answer(request)

    async with Backend(answer_500).running() as bad, Backend(slow).running() as good:
        base = model(free_port(), [bad.port, good.port], scheduler=Scheduler.P2C)
        async with proxy(base) as l7:
            assert (await statuses(l7, 30)).count(500) == 1


# -- zones


async def test_a_node_prefers_the_servers_of_its_zone() -> None:
    async with named(b"near").running() as near, named(b"far").running() as far:
        members = (Server("127.0.0.1", near.port, zone="a"), Server("127.0.0.1", far.port, zone="b"))
        nodes = {
            "l7-1": Node("l7-1", Role.L7, "10.0.0.1", zone="a"),
            "l7-2": Node("l7-2", Role.L7, "10.0.0.2", zone="b"),
        }
        base = with_service(model(free_port(), []), server_group="", availability_group="app")
        base = replace(base, availability_groups={"app": AvailabilityGroup("app", members)}, nodes=nodes)
        async with proxy(base) as l7:
            assert {(await l7.get())[1] for _ in range(10)} == {b"near"}
            l7.worker.set_down({"app": [("127.0.0.1", near.port)]})
            assert {(await l7.get())[1] for _ in range(4)} == {b"far"}
            l7.worker.set_down({})
            assert {(await l7.get())[1] for _ in range(10)} == {b"near"}
            await l7.worker.apply(replace(base, nodes={}))
            assert {(await l7.get())[1] for _ in range(4)} == {b"near", b"far"}


@pytest.mark.parametrize("of", ["", "a", "b"], ids=["no-zone", "the-lost-one", "another"])
async def test_losing_a_zone_costs_only_its_members(of: str) -> None:
    """No request fails, and those that are left have equal parts of what their zones get."""
    async with AsyncExitStack() as stack:
        names = [f"{zone}{number}" for zone in "abc" for number in (1, 2)]
        backends = {name: await stack.enter_async_context(named(name.encode()).running()) for name in names}
        members = tuple(Server("127.0.0.1", each.port, zone=name[0]) for name, each in backends.items())
        zones = {"l7-1": of, "l7-2": "b", "l7-3": "c"} if of else {}
        nodes = {
            name: Node(name, Role.L7, f"10.0.0.{at}", zone=zone) for at, (name, zone) in enumerate(zones.items(), 1)
        }
        base = with_service(model(free_port(), [], scheduler=Scheduler.WRR), server_group="", availability_group="app")
        base = replace(base, availability_groups={"app": AvailabilityGroup("app", members)}, nodes=nodes)
        async with proxy(base) as l7:
            l7.worker.set_down({"app": [("127.0.0.1", backends[name].port) for name in ("a1", "a2")]})
            answers = [await l7.get() for _ in range(60)]
            assert {status for status, _ in answers} == {200}
            load = Counter(body.decode() for _, body in answers)
            assert not load.keys() & {"a1", "a2"}
            for zone in {name[0] for name in load}:
                assert abs(load[f"{zone}1"] - load[f"{zone}2"]) <= 2
            if of != "b":  # a node of zone b sends what it can to its own
                assert all(abs(load[name] - 15) <= 2 for name in ("b1", "b2", "c1", "c2"))
            l7.worker.set_down({})
            assert {(await l7.get())[0] for _ in range(4)} == {200}
