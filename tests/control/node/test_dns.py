"""Names looked up at a real name server, on both loops; the time to live, failures, and what is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from control.node import dns as dns_module
from control.node.members import Members
from control.node.tasks import Tasks
from core import members
from core.model import AvailabilityGroup, DnsName, DnsType, Model, Server
from tests.control.node.name_server import NameServer
from tests.proxy.tls_support import LOOPS, run
from tests.waiting import until

RECORDS: dict[tuple[str, str], tuple[int, list[str]]] = {
    ("app.test", "A"): (60, ["10.0.0.2", "10.0.0.1"]),
    ("app.test", "AAAA"): (60, ["2001:db8::1"]),
    ("www.test", "CNAME"): (60, ["app.test."]),
    ("_http._tcp.app.test", "SRV"): (60, ["10 30 8081 one.test.", "10 10 8082 app.test.", "20 1 9 none.test."]),
    ("one.test", "A"): (60, ["10.0.1.1"]),
    ("text.test", "TXT"): (60, ["hello"]),
}
A = DnsName("app.test", port=80)


def group(server: NameServer, *names: DnsName) -> Model:
    resolvers = (f"127.0.0.1:{server.port}",)
    return Model(availability_groups={"g": AvailabilityGroup("g", dns=names, resolvers=resolvers)})


class Watched:
    """Names, and how often they have changed."""

    def __init__(self, model: Model) -> None:
        self.failures: list[str] = []
        self.tasks = Tasks(lambda name, error: self.failures.append(f"{name}: {error!r}"))
        self.changes = 0
        self.names = Members(self._changed, self.tasks)
        self.model = model

    def _changed(self) -> None:
        self.changes += 1

    @property
    def servers(self) -> list[tuple[str, int]]:
        return [(each.address, each.port) for each in self.names.groups(self.model)["g"]]

    @property
    def problems(self) -> list[str]:
        return self.names.problems(self.model)


@asynccontextmanager
async def watched(model: Model) -> AsyncIterator[Watched]:
    made = Watched(model)
    made.names.watch(model)
    await made.names.first_answers(20)
    try:
        yield made
    finally:
        await made.tasks.close()
    assert not made.failures


CASES: list[tuple[str, DnsName, list[tuple[str, int]]]] = [
    ("a", A, [("10.0.0.1", 80), ("10.0.0.2", 80)]),
    ("aaaa", DnsName("app.test", DnsType.AAAA, 80), [("2001:db8::1", 80)]),
    ("cname", DnsName("www.test", port=81), [("10.0.0.1", 81), ("10.0.0.2", 81)]),
    (
        "srv",
        DnsName("_http._tcp.app.test", DnsType.SRV),
        [("10.0.0.1", 8082), ("10.0.0.2", 8082), ("10.0.1.1", 8081), ("2001:db8::1", 8082)],
    ),
]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("name", "servers"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_names_stand_for(name: DnsName, servers: list[tuple[str, int]], loop: str) -> None:
    async def main() -> None:
        async with NameServer(RECORDS).running() as server, watched(group(server, name)) as found:
            assert found.servers == servers
            assert found.problems == []
            assert found.changes == 1

    run(main(), loop)


FAILURES: list[tuple[str, DnsName, str, str]] = [
    ("no name", DnsName("gone.test", port=80), "", "there is no such name"),
    ("no records", DnsName("text.test", port=80), "", "it has no such records"),
    ("silent", A, "silent", "no answer in time"),
]


@pytest.mark.parametrize(("name", "broken", "why"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES])
async def test_a_name_that_does_not_resolve_has_no_members_and_a_problem(
    name: DnsName, broken: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_module, "QUESTION_S", 0.5)
    server = NameServer(RECORDS)
    server.broken = broken
    async with server.running(), watched(group(server, name)) as found:
        assert found.servers == []
        assert found.problems == [f"availability group g: DNS name {name.name} (a): {why}; it has no address yet"]


@pytest.mark.parametrize(("of_records", "of_targets", "wait_s"), [(90, 60, 60), (45, 60, 45)])
async def test_the_least_time_to_live_counts(of_records: int, of_targets: int, wait_s: float) -> None:
    records = {
        ("_http._tcp.app.test", "SRV"): (of_records, ["0 0 80 one.test."]),
        ("one.test", "A"): (of_targets, ["10.0.0.1"]),
    }
    lookup = members.Lookup(DnsName("_http._tcp.app.test", DnsType.SRV))
    async with NameServer(records).running() as server:
        assert await dns_module._ask(lookup, [f"127.0.0.1:{server.port}"]) == wait_s
    assert lookup.servers == (Server("10.0.0.1", 80),)


async def test_names_that_are_gone_are_not_asked_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "LIVE_S", (0.02, 0.02))
    records = {(name, "A"): (0, ["10.0.0.1"]) for name in ("app.test", "stays.test")}
    stays = DnsName("stays.test", port=80)
    async with NameServer(records).running() as server, watched(group(server, A, stays)) as found:
        found.names.watch(group(server, stays))
        asked = server.asked["app.test", "A"] + 1  # a question may be on its way
        until_asked = server.asked["stays.test", "A"] + 5
        await until(lambda: server.asked["stays.test", "A"] >= until_asked)
        assert server.asked["app.test", "A"] <= asked


async def test_long_answers_come_by_tcp() -> None:
    server = NameServer(RECORDS)
    server.broken = "truncated"
    async with server.running(), watched(group(server, A)) as found:
        assert found.servers == [("10.0.0.1", 80), ("10.0.0.2", 80)]
        assert server.by_tcp == 1


async def test_it_is_asked_again_when_the_time_to_live_is_over_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "LIVE_S", (0.1, 300.0))
    records = {("app.test", "A"): (0, ["10.0.0.1"]), ("slow.test", "A"): (60, ["10.0.0.9"])}
    names = (A, DnsName("slow.test", port=80))
    async with NameServer(records).running() as server, watched(group(server, *names)) as found:
        assert found.servers == [("10.0.0.1", 80), ("10.0.0.9", 80)]
        records["app.test", "A"] = 0, ["10.0.0.2", "10.0.0.3"]
        await until(lambda: found.servers == [("10.0.0.2", 80), ("10.0.0.3", 80), ("10.0.0.9", 80)])
        changes, asked = found.changes, server.asked["app.test", "A"]
        await until(lambda: server.asked["app.test", "A"] >= asked + 3)
        assert found.changes == changes  # the same answer in another order is no change
        assert server.asked["slow.test", "A"] == 1


@pytest.mark.parametrize("broken", ["servfail", "silent", "gone"])
async def test_a_failure_keeps_the_last_good_answer_until_the_next(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "LIVE_S", (0.1, 0.1))
    monkeypatch.setattr(members, "RETRY_S", (0.1, 0.1))
    monkeypatch.setattr(dns_module, "QUESTION_S", 0.5)
    records = {("app.test", "A"): (0, ["10.0.0.1"])}
    async with NameServer(records).running() as server, watched(group(server, A)) as found:
        server.broken, kept = broken, dict(records)
        if broken == "gone":
            records.clear()
        await until(lambda: bool(found.problems))
        assert found.problems[0].endswith("; its last addresses are kept")
        assert found.servers == [("10.0.0.1", 80)]
        server.broken = ""
        records |= kept | {("app.test", "A"): (0, ["10.0.0.7"])}
        await until(lambda: found.servers == [("10.0.0.7", 80)])
        assert found.problems == []


async def test_a_name_that_stays_keeps_its_answer_and_one_that_goes_is_not_asked() -> None:
    async with NameServer(RECORDS).running() as server, watched(group(server, A)) as found:
        old, new = found.model, group(server, A, DnsName("one.test", port=80))
        found.names.watch(new, old)
        assert found.names.groups(old) == found.names.groups(old)
        assert [each.address for each in found.names.groups(old)["g"]] == ["10.0.0.1", "10.0.0.2"]
        await found.names.first_answers(20)
        assert [each.address for each in found.names.groups(new)["g"]] == ["10.0.0.1", "10.0.0.2", "10.0.1.1"]
        found.names.watch(old)
        assert found.names.groups(old)["g"] == (Server("10.0.0.1", 80), Server("10.0.0.2", 80))
        assert server.asked["app.test", "A"] == 1
        found.names.watch(Model())
        assert found.names.groups(Model()) == {}


async def test_without_resolvers_those_of_the_machine_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = dns_module.dns.asyncresolver.Resolver

    def resolver(configure: bool = True) -> object:
        made.append(configure)
        return real(configure=False)  # which has nobody to ask

    monkeypatch.setattr(dns_module.dns.asyncresolver, "Resolver", resolver)
    model = Model(availability_groups={"g": AvailabilityGroup("g", dns=(A,))})
    async with watched(model) as found:
        assert made == [True]
        assert len(found.problems) == 1


async def test_who_waits_for_first_answers_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    server = NameServer(RECORDS)
    server.broken = "silent"
    async with server.running():
        made = Watched(group(server, A))
        made.names.watch(made.model)
        await made.names.first_answers(0.05)
        assert made.servers == []
        assert made.problems == []
        await made.tasks.close()
