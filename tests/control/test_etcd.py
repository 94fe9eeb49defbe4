"""The client, against Debian's etcd."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from control.etcd import Etcd, EtcdRefusedError, Event, Tls, behind, decode, encode
from control.ports import free_port
from control.store import StoreError, StoreUnavailableError
from tests.control.conftest import Authority
from tests.control.etcd_front import Way, front
from tests.control.etcd_members import Members


@pytest.fixture
async def client(etcd: Members) -> AsyncIterator[Etcd]:
    client = Etcd(etcd.endpoints, Tls())
    yield client
    await client.close()


async def put(client: Etcd, key: str, value: bytes) -> int:
    answer = await client.call("/v3/kv/put", {"key": encode(key), "value": encode(value)})
    return int(answer["header"]["revision"])


def test_the_end_of_a_range() -> None:
    assert behind("/a/") == "/a0"
    assert behind("x") == "y"
    assert decode(encode("ä")).decode() == "ä"


async def test_ranges(client: Etcd) -> None:
    folder = f"/{secrets.token_hex(8)}/"
    revisions = {key: await put(client, folder + key, key.encode()) for key in ("a", "b", "c")}
    found, revision = await client.range(folder, behind(folder))
    assert [(each.key, each.value, each.revision) for each in found] == [
        (folder + key, key.encode(), made) for key, made in revisions.items()
    ]
    assert revision >= revisions["c"]
    found, _ = await client.range(folder, behind(folder), limit=2, descending=True)
    assert [each.value for each in found] == [b"c", b"b"]
    found, _ = await client.range(f"{folder}b")
    assert [each.value for each in found] == [b"b"]
    assert (await client.range(f"{folder}none"))[0] == ()


async def test_a_watch_tells_what_was_put_and_deleted_in_each_range(client: Etcd) -> None:
    one, two = f"/{secrets.token_hex(8)}/", f"/{secrets.token_hex(8)}/"
    first = await put(client, f"{one}a", b"1")
    await put(client, f"{one}a", b"2")
    second = await put(client, f"{two}b", b"\xff")
    answer = await client.call("/v3/kv/deleterange", {"key": encode(f"{one}a")})
    gone = int(answer["header"]["revision"])
    told: set[Event] = set()
    async with asyncio.timeout(20), client.watch([(one, behind(one)), (two, behind(two))], first + 1) as lines:
        async for events in lines:
            told |= set(events)
            if len(told) == 3:
                break
    assert told == {
        Event(f"{one}a", b"2", first + 1), Event(f"{two}b", b"\xff", second), Event(f"{one}a", None, gone)
    }  # fmt: skip


async def test_a_watch_of_what_etcd_has_forgotten_ends(client: Etcd) -> None:
    first = await put(client, "/compacted", b"1")
    last = await put(client, "/compacted", b"2")
    await client.call("/v3/kv/compaction", {"revision": str(last)})
    async with asyncio.timeout(20), client.watch([("/compacted", "/compacted0")], first) as lines:
        assert [events async for events in lines if events] == []


async def test_members_are_tried_in_turn_and_the_one_that_answers_is_kept(
    etcd: Members, caplog: pytest.LogCaptureFixture
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    client = Etcd([dead, *etcd.endpoints], Tls())
    assert client.preferred == dead
    await client.range("/x")
    assert client.preferred == etcd.endpoints[0]
    assert f"{dead} does not answer; {etcd.endpoints[0]} does" in caplog.text
    await client.close()


async def test_a_member_that_is_silent_holds_up_a_call_for_a_while_only(
    etcd: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.etcd.ATTEMPT_S", 0.1)
    async with front(etcd.endpoints[0]) as silent:
        silent.way = Way.SILENT
        client = Etcd([silent.url, *etcd.endpoints], Tls())
        await client.range("/x")
        assert client.preferred == etcd.endpoints[0]
        await client.close()


async def test_no_member_answers() -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    client = Etcd([dead], Tls())
    with pytest.raises(StoreUnavailableError, match=rf"no etcd member answers \({dead}: .*refused.*see that most"):
        await client.range("/x", within_s=0.3)
    await client.close()


async def test_where_nobody_listens_is_not_waited_for_so_long(etcd: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.etcd.DOWN_S", 0.1)
    monkeypatch.setattr("control.etcd.ATTEMPT_S", 0.1)
    dead = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    client = Etcd(dead, Tls())
    with pytest.raises(StoreUnavailableError, match=r"refused.*refused"):
        await asyncio.wait_for(client.range("/x", within_s=1000), 60)
    await client.close()
    async with front(etcd.endpoints[0]) as slow:
        slow.way = Way.SILENT
        client = Etcd([dead[0], slow.url], Tls())
        asking = asyncio.create_task(client.range("/x", within_s=1000))
        while len(slow.calls) < 5:
            await asyncio.sleep(0.01)
        slow.way = Way.THROUGH
        await asyncio.wait_for(asking, 60)
        await client.close()


async def test_what_is_no_etcd() -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(status=404, text="nothing here")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = Etcd([f"http://127.0.0.1:{runner.addresses[0][1]}"], Tls())
    with pytest.raises(StoreUnavailableError, match=r"answers 404, as no etcd does: b'nothing here'"):
        await client.range("/x", within_s=0.3)
    await client.close()
    await runner.cleanup()


async def test_what_etcd_refuses(client: Etcd) -> None:
    with pytest.raises(EtcdRefusedError, match="etcd refuses it: etcdserver: key is not provided") as caught:
        await client.call("/v3/kv/put", {"value": encode("x")})
    assert caught.value.code == 3


async def test_an_etcd_without_room_says_what_to_do(tmp_path: Path) -> None:
    members = Members(tmp_path, 1, "--quota-backend-bytes", "100000")
    client = Etcd(members.endpoints, Tls())

    async def fill() -> None:
        async with asyncio.timeout(60):
            while True:
                await put(client, "/big", b"x" * 50_000)

    try:
        with pytest.raises(StoreUnavailableError, match="space exceeded; `etcdctl defrag` and"):
            await fill()
    finally:
        await client.close()
        members.close()


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("10.0.0.1:2379", "give https://HOST:2379"),
        ("ftp://10.0.0.1", "give https://HOST:2379"),
        ("https://", "give https://HOST:2379"),
        ("https://a/b", "give https://HOST:2379"),
        ("http://10.0.0.1:2379", "plain HTTP is for loopback only, since tokens pass; give https://"),
        ("http://etcd.example:2379", "plain HTTP is for loopback only"),
    ],
)
async def test_endpoints_that_cannot_be(endpoint: str, why: str) -> None:
    with pytest.raises(StoreError, match=f"--etcd {endpoint}: {why}"):
        Etcd([endpoint], Tls())


async def test_files_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name, why in (("none.pem", "No such file"), ("ca.pem", "NO_CERTIFICATE")):
        with pytest.raises(StoreError, match=rf"etcd: .*{name}: .*{why}.*; give PEM files by --etcd-ca"):
            Etcd(["https://127.0.0.1"], Tls(tmp_path / name))


async def test_tls_and_client_certificates(tmp_path: Path, authority: Authority, foreign_authority: Authority) -> None:
    theirs, ours = authority.issue_server("etcd"), authority.issue("control", "c")
    members = Members(
        tmp_path, 1, "--client-cert-auth", "--trusted-ca-file", str(theirs / "ca.pem"),
        "--cert-file", str(theirs / "cert.pem"), "--key-file", str(theirs / "key.pem"), scheme="https",
    )  # fmt: skip
    foreign = foreign_authority.issue("control", "c")
    try:
        tls = Tls(ours / "ca.pem", ours / "cert.pem", ours / "key.pem")
        for files, why in (
            (tls, ""),
            (Tls(foreign / "ca.pem", ours / "cert.pem", ours / "key.pem"), r"certificate verify failed.*--etcd-ca"),
            (Tls(ours / "ca.pem", foreign / "cert.pem", foreign / "key.pem"), r"--etcd-cert"),
            (Tls(ours / "ca.pem"), r"--etcd-cert"),
        ):
            client = Etcd(members.endpoints, files)
            try:
                if why:
                    with pytest.raises(StoreUnavailableError, match=why):
                        await client.range("/x", within_s=0.2)
                else:
                    await client.range("/x")
                    async with asyncio.timeout(20), client.watch([("/x", "/y")], 0) as lines:
                        assert await anext(lines) == ()
            finally:
                await client.close()
    finally:
        members.close()
