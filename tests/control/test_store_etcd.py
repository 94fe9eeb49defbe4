"""What etcd adds: several control nodes, large versions in parts, members that come and go."""

import asyncio
import base64
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from control import etcd as etcd_client
from control import etcd_session, store_etcd
from control.etcd import EtcdRefusedError, Tls, behind, encode
from control.etcd_mirror import MIRRORED
from control.service import ControlPlane
from control.store import NoSuchVersionError, StoreError, StoreUnavailableError, VersionConflictError, Write
from control.store_etcd import EtcdStore
from core.config import from_dict
from core.model import Model
from tests.control.etcd_front import Front, Way, front
from tests.control.etcd_members import Members

CHAIN_LIMIT = 1 << 17
Opener = Callable[..., Awaitable[EtcdStore]]


def model(*names: str) -> Model:
    return from_dict({"instances": [{"name": name} for name in names]})


def large(seed: int, size_bytes: int = 2 << 20) -> Model:
    """A model that deflate makes little smaller."""
    text = base64.b64encode(random.Random(seed).randbytes(size_bytes)).decode()
    cuts = range(0, len(text), CHAIN_LIMIT)
    return from_dict({"certificates": [{"name": f"c{at}", "chain": text[at : at + CHAIN_LIMIT]} for at in cuts]})


@pytest.fixture
def prefix() -> str:
    return f"/{secrets.token_hex(8)}/"


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Callable[[int], Members]]:
    """Begins an etcd of the test's own, which ends after its stores."""
    made: list[Members] = []

    def begin(count: int) -> Members:
        made.append(Members(tmp_path, count))
        return made[-1]

    yield begin
    for members in made:
        members.close()


@pytest.fixture
async def opened(prefix: str) -> AsyncIterator[Opener]:
    """Opens stores below the test's prefix, and closes them at its end."""
    stores: list[EtcdStore] = []

    async def opener(*endpoints: str) -> EtcdStore:
        stores.append(await EtcdStore.open(endpoints, prefix, Tls()))
        return stores[-1]

    yield opener
    for store in stores:
        await store.close()


@pytest.fixture
async def network(etcd: Members) -> AsyncIterator[Front]:
    async with front(etcd.endpoints[0]) as network:
        yield network


async def keys(store: EtcdStore, folder: str) -> list[str]:
    found, _ = await store._etcd.range(store._prefix + folder, behind(store._prefix + folder))
    return [each.key.removeprefix(store._prefix) for each in found]


# --- several control nodes


async def test_another_control_nodes_change_is_announced_and_conflicts(etcd: Members, opened: Opener) -> None:
    one, two = await opened(*etcd.endpoints), await opened(*etcd.endpoints)
    waiting = asyncio.create_task(two.changed(0))
    assert await one.put(model("a"), "ann", "", 0) == 1
    await asyncio.wait_for(waiting, 20)
    assert (await two.get())[1] == model("a")
    with pytest.raises(VersionConflictError) as caught:
        await two.put(model("b"), "bob", "", 0)
    assert caught.value.current == 1
    results = await asyncio.gather(
        *(store.put(model(f"{number}"), "x", "", 1) for number, store in enumerate((one, two) * 4)),
        return_exceptions=True,
    )
    assert [each for each in results if not isinstance(each, VersionConflictError)] == [2]
    for store in (one, two):
        await asyncio.wait_for(store.changed(1), 20)


async def test_versions_of_two_who_always_write_have_no_gaps(etcd: Members, opened: Opener) -> None:
    stores = await opened(*etcd.endpoints), await opened(*etcd.endpoints)

    async def write(store: EtcdStore, name: str) -> list[int]:
        return [await store.put(model(f"{name}{number}"), name, f"{number}", None) for number in range(10)]

    made = await asyncio.gather(*(write(store, name) for store, name in zip(stores, "ab", strict=True)))
    assert sorted(made[0] + made[1]) == list(range(1, 21))
    history = await stores[0].history(100)
    assert [entry.version for entry in history] == list(range(20, 0, -1))
    for versions, name in zip(made, "ab", strict=True):
        assert versions == [entry.version for entry in reversed(history) if entry.author == name]


async def test_two_control_planes(etcd: Members, opened: Opener) -> None:
    one, two = [await ControlPlane.load(await opened(*etcd.endpoints)) for _ in range(2)]
    assert one.cookie_secret == two.cookie_secret
    following = [asyncio.create_task(plane.follow()) for plane in (one, two)]
    await one.change(lambda _: model("a"), author="ann", comment="", expected=0)
    current = await two.newer_than(0, 20)
    assert current is not None
    assert current.model == model("a")
    for task in following:
        task.cancel()


async def nothing_told(network: Front) -> None:
    """Until the watch's word has been kept back; there is none where it begins anew just then."""
    deadline = time.monotonic() + 3
    while not network.kept_back and time.monotonic() < deadline:
        await asyncio.sleep(0.01)


async def test_what_the_watch_does_not_tell_is_found(
    etcd: Members, network: Front, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_etcd, "LOOK_EVERY_S", 0.05)
    one, two = await opened(*etcd.endpoints), await opened(network.url)
    while network.watches < 1 + len(MIRRORED):
        await asyncio.sleep(0.01)
    network.way = Way.ANSWER_LOST  # nothing comes through the watch, and calls fail for now
    await one.put(model("a"), "ann", "", 0)
    await one.write(Write("tokens", "t", b"1"))
    await nothing_told(network)
    network.way = Way.THROUGH
    await asyncio.wait_for(two.changed(0), 20)
    async with asyncio.timeout(20):
        while two._mirror.record("tokens", "t") is None:
            await asyncio.sleep(0.02)
    await one.put(model("b"), "ann", "", 1)
    await asyncio.wait_for(two.changed(1), 20)


async def test_a_watch_of_which_a_part_has_not_begun_is_begun_again(
    etcd: Members, network: Front, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd's gateway loses the last request of a watch now and then: nobody would hear of tokens that are revoked."""
    monkeypatch.setattr(etcd_client, "BEGIN_S", 0.3)
    network.lost_parts = 2  # the one that may be lost, and that of the tokens
    one, two = await opened(*etcd.endpoints), await opened(network.url)
    async with asyncio.timeout(20):
        while network.watches < len(MIRRORED) + 1 + len(MIRRORED):
            await asyncio.sleep(0.01)
        await one.write(Write("tokens", "t", b"1"))
        while two._mirror.record("tokens", "t") is None:
            await asyncio.sleep(0.02)


async def test_who_was_asleep_while_etcd_forgot_catches_up(etcd: Members, network: Front, opened: Opener) -> None:
    one, two = await opened(*etcd.endpoints), await opened(network.url)
    while network.watches < 1 + len(MIRRORED):
        await asyncio.sleep(0.01)
    network.way = Way.REQUEST_LOST
    for number in range(3):
        await one.put(model(f"{number}"), "ann", "", number)
    _, revision = await one._range(f"{one._prefix}current")
    await one._compact_to(revision)
    await nothing_told(network)
    network.way = Way.THROUGH
    async with asyncio.timeout(20):
        for version in range(3):
            await two.changed(version)


# --- versions in parts


async def test_a_large_version_in_parts(etcd: Members, opened: Opener) -> None:
    one, two = await opened(*etcd.endpoints), await opened(*etcd.endpoints)
    assert await one.put(large(1), "ann", "", 0) == 1
    assert (await two.get())[1] == large(1)
    assert len(await keys(one, "parts/")) == 3
    answer = await one._etcd.call(
        "/v3/kv/range", {"key": encode(one._prefix), "range_end": encode(behind(one._prefix))}
    )
    leased = [kept["key"] for kept in answer["kvs"] if kept.get("lease")]
    assert {base64.b64decode(key).decode().split("/")[2] for key in leased} <= {"writers", "leaders"}
    assert await one.put(large(1), "bob", "", 1) == 1, "no change makes no version"


async def test_old_versions_go_with_their_parts(etcd: Members, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_etcd, "HISTORY_LIMIT", 2)
    monkeypatch.setattr(store_etcd, "PART_BYTES", 100)
    store = await opened(*etcd.endpoints)
    for seed in range(4):
        await store.put(large(seed, 300), "ann", "", seed)
    assert [key[:25] for key in await keys(store, "versions/")] == [f"versions/{version:016d}" for version in (3, 4)]
    assert {int(key.split("/")[1]) for key in await keys(store, "parts/")} == {3, 4}
    assert (await store.get(3))[1] == large(2, 300)
    with pytest.raises(NoSuchVersionError, match="there is no version 2; 3 to 4 are kept"):
        await store.get(2)


@pytest.mark.parametrize("dies", [True, False], ids=["writer dies", "lease ends"])
async def test_a_version_appears_whole_or_not_at_all(
    dies: bool, etcd: Members, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_etcd, "PART_BYTES", 100)
    store, leases = await opened(*etcd.endpoints), list[str]()
    park, call = store._park, store._etcd.call

    async def watched_call(path: str, body: dict[str, object], *rest: float) -> etcd_client.Document:
        answer = await call(path, body, *rest)
        if path == "/v3/lease/grant":
            leases.append(answer["ID"])
        return answer

    async def half(parts_keys: list[str], parts: list[bytes]) -> list[etcd_client.Document]:
        made = await park(parts_keys, parts)
        if dies:
            raise asyncio.CancelledError
        await call("/v3/lease/revoke", {"ID": leases[-1]})
        return made

    monkeypatch.setattr(store._etcd, "call", watched_call)
    monkeypatch.setattr(store, "_park", half)
    with pytest.raises(asyncio.CancelledError if dies else EtcdRefusedError):
        await store.put(large(1, 300), "ann", "", 0)
    assert (await store.get())[0].version == 0
    assert await store.history(10) == ()
    if dies:
        assert len(await keys(store, "parts/")) > 1
        await call("/v3/lease/revoke", {"ID": leases[-1]})  # as etcd does after a minute
    assert await keys(store, "parts/") == []
    monkeypatch.setattr(store, "_park", park)
    assert await store.put(large(1, 300), "ann", "", 0) == 1
    assert (await store.get())[1] == large(1, 300)


async def test_parts_that_are_missing_are_told_of(etcd: Members, opened: Opener) -> None:
    store = await opened(*etcd.endpoints)
    await store.put(model("a"), "ann", "", 0)
    (part,) = await keys(store, "parts/")
    await store._etcd.call("/v3/kv/deleterange", {"key": encode(store._prefix + part)})
    with pytest.raises(StoreError, match="parts of version 1 are missing; bring etcd back from a snapshot"):
        await store.get()


async def test_etcd_forgets_old_revisions(etcd: Members, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_etcd, "COMPACT_EVERY_S", 0.05)
    monkeypatch.setattr(etcd_session, "ASK_AGAIN_S", 0.02)
    stores = [await opened(*etcd.endpoints) for _ in range(2)]
    revision = await stores[0].write(Write("marks", "a", b"1"))
    later = await stores[0].write(Write("marks", "a", b"2"))
    assert later > revision
    old = {"key": encode(f"{stores[0]._prefix}records/marks/a"), "revision": str(revision)}

    async def until_forgotten() -> None:
        while True:
            await stores[0]._etcd.call("/v3/kv/range", old)
            await asyncio.sleep(0.02)

    with pytest.raises(EtcdRefusedError, match="required revision has been compacted"):
        await asyncio.wait_for(until_forgotten(), 20)
    assert (await stores[1].records("marks"))[0].value == b"2"


# --- members that come and go


async def test_while_etcd_is_away_who_is_known_stays_known(
    begun: Callable[[int], Members], opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_session, "RENEW_EVERY_S", 0.05)
    monkeypatch.setattr(etcd_session, "RENEW_CALL_S", 0.2)
    monkeypatch.setattr(etcd_session, "AWAY_CALL_S", 0.2)
    members = begun(1)
    store, other = await opened(*members.endpoints), await opened(*members.endpoints)
    for key in ("a", "b", "c", "gone"):
        await other.write(Write("tokens", key, key.encode()), Write("marks", key, b""))
    await other.write(Write("tokens", "gone", None), Write("tokens", "b", b"new"))
    await other.put(model("a"), "ann", "", 0)
    before = await store.records("tokens")
    assert [record.value for record in before] == [b"a", b"new", b"c"]
    await asyncio.wait_for(store.changed(0), 20)
    async with asyncio.timeout(20):
        while store._mirror.records("tokens", "", 9) != before:
            await asyncio.sleep(0.01)
    members.kill(0)
    async with asyncio.timeout(20):
        while not store._session.away:
            await asyncio.sleep(0.02)
    assert await store.records("tokens") == before
    assert await store.records("tokens", "a", 1) == before[1:2]
    assert await store.record("tokens", "b") == before[1]
    assert await store.record("tokens", "gone") is None
    for asking in (store.records("marks"), store.record("marks", "a"), store.history(3), store.get()):
        with pytest.raises(StoreUnavailableError, match=r"no etcd member answers .*; see that most"):
            await asking
    with pytest.raises(StoreUnavailableError, match="may have been written; look before you repeat it"):
        await store.write(Write("marks", "a", b"1"))
    with pytest.raises(StoreUnavailableError, match="no etcd member answers"):
        await store.put(model("b"), "ann", "", 1)
    members.start(0)
    async with asyncio.timeout(40):
        while store._session.away:
            await asyncio.sleep(0.02)
    assert await store.put(model("b"), "ann", "", 1) == 2
    await asyncio.wait_for(other.changed(1), 20)


async def test_without_etcd_there_is_no_beginning(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_session, "BEGIN_S", 0.2)
    with pytest.raises(StoreUnavailableError, match="no etcd member answers"):
        await EtcdStore.open(["http://127.0.0.1:1"], prefix, Tls())
    with pytest.raises(StoreError, match="--etcd-prefix paifang: give one such as /paifang/"):
        await EtcdStore.open(["http://127.0.0.1:1"], "paifang", Tls())


async def test_of_three_members_one_is_killed_while_all_is_written(
    begun: Callable[[int], Members], opened: Opener
) -> None:
    """Nothing that was answered is lost, nothing is made twice, and writing goes on."""
    members = begun(3)
    first, second, third = members.endpoints
    stores = [await opened(first, second, third), await opened(second, third, first)]
    await asyncio.wait_for(_write_while_one_is_killed(members, stores), 90)


async def _write_while_one_is_killed(members: Members, stores: list[EtcdStore]) -> None:
    answered: list[tuple[int, str]] = []
    counted = {f"{number}": 0 for number in range(len(stores))}

    async def change(store: EtcdStore, name: str) -> None:
        number = 0
        while len(answered) < 60:
            number += 1
            version = await store.put(model(f"{name}{number}"), name, f"{number}", None)
            answered.append((version, f"{name}{number}"))
            revision = getattr(await store.record("marks", name), "revision", 0)
            await store.write(Write("marks", name, b"%d" % number, revision))
            counted[name] = number

    async def kill() -> None:
        for at, act in ((15, lambda: members.kill(0)), (35, lambda: members.start(0)), (45, lambda: members.kill(1))):
            while len(answered) < at:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(act)
            if act and at == 35:
                await asyncio.to_thread(members.wait_ready, 0)

    await asyncio.gather(kill(), *(change(store, f"{number}") for number, store in enumerate(stores)))
    for store in stores:
        versions = {entry.version: f"{entry.author}{entry.comment}" for entry in await store.history(1000)}
        assert versions == dict(answered)
        assert sorted(versions) == list(range(1, len(versions) + 1))
        for version, name in answered[::10]:
            assert (await store.get(version))[1] == model(name)
        for name, number in counted.items():
            record = await store.record("marks", name)
            assert record is not None
            assert record.value == b"%d" % number
