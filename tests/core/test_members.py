"""Members by name: what an answer makes of them, and when the next question is due."""

from __future__ import annotations

import pytest

from core.members import LIVE_S, MEMBERS_LIMIT, RETRY_S, Lookup, Record, members, together, with_members
from core.model import AvailabilityGroup, DnsName, DnsType, Model, Server

NAME = DnsName("app.test", port=80, weight=50, zone="a")
SRV = DnsName("_http._tcp.app.test", DnsType.SRV)


def test_addresses_in_an_order_of_their_own_each_once() -> None:
    records = [Record("10.0.0.10"), Record("10.0.0.9"), Record("2001:db8::1"), Record("10.0.0.10")]
    expected = tuple(Server(address, 80, 50, "a") for address in ("10.0.0.9", "10.0.0.10", "2001:db8::1"))
    assert members(NAME, records) == members(NAME, records[::-1]) == expected


def test_the_best_priority_and_weights_in_proportion() -> None:
    records = [Record("10.0.0.1", 81, 10, 300), Record("10.0.0.2", 82, 10, 100), Record("10.0.0.3", 83, 20, 900),
               Record("10.0.0.4", 84, 10, 0)]  # fmt: skip
    assert members(SRV, records) == (
        Server("10.0.0.1", 81, 100), Server("10.0.0.2", 82, 33), Server("10.0.0.4", 84, 1)
    )  # fmt: skip
    assert [each.weight for each in members(SRV, [Record("10.0.0.1", 1), Record("10.0.0.2", 2)])] == [100, 100]


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.1", "fe80::1", "::", "ff02::1", "169.254.169.254"])
def test_what_is_no_servers_address(address: str) -> None:
    assert members(NAME, [Record(address), Record("10.0.0.1")]) == (Server("10.0.0.1", 80, 50, "a"),)


def test_so_many_and_no_more() -> None:
    records = [Record(f"10.0.{index // 256}.{index % 256}") for index in range(1, 1000)]
    assert len(members(NAME, records)) == MEMBERS_LIMIT


@pytest.mark.parametrize(("ttl_s", "wait_s"), [(0, LIVE_S[0]), (60, 60), (1_000_000, LIVE_S[1])])
def test_the_time_to_live_is_honoured_within_bounds(ttl_s: float, wait_s: float) -> None:
    assert Lookup(NAME).found([Record("10.0.0.1")], ttl_s) == wait_s


def test_a_failure_keeps_what_there_was_and_asks_again_soon() -> None:
    lookup = Lookup(NAME)
    assert [lookup.failed("no answer") for _ in range(7)] == [1, 2, 4, 8, 16, RETRY_S[1], RETRY_S[1]]
    assert lookup.problem == "DNS name app.test (a): no answer; it has no address yet"
    assert lookup.servers == ()
    lookup.found([Record("10.0.0.1")], 60)
    assert lookup.problem == ""
    assert lookup.failed("there is no such name") == RETRY_S[0]
    assert lookup.problem == "DNS name app.test (a): there is no such name; its last addresses are kept"
    assert lookup.servers == (Server("10.0.0.1", 80, 50, "a"),)


def test_an_answer_without_a_usable_address_is_none() -> None:
    lookup = Lookup(NAME)
    lookup.found([Record("10.0.0.1")], 60)
    assert lookup.found([Record("0.0.0.0")], 60) == RETRY_S[0]
    assert lookup.servers == (Server("10.0.0.1", 80, 50, "a"),)
    assert "no address of it can be a server's" in lookup.problem


def test_members_of_the_configuration_come_first_and_once() -> None:
    fixed = Server("10.0.0.1", 80, 7, "z")
    group = AvailabilityGroup("g", (fixed,))
    other, again = Server("10.0.0.2", 80), Server("10.0.0.1", 80, 100)
    assert together(group, [(again, other), (other,)]) == (fixed, other)


def test_a_model_with_members() -> None:
    model = Model(availability_groups={"g": AvailabilityGroup("g"), "h": AvailabilityGroup("h")})
    found = with_members(model, {"g": (Server("10.0.0.1", 80),), "gone": ()})
    assert found.availability_groups["g"].members == (Server("10.0.0.1", 80),)
    assert found.availability_groups.keys() == {"g", "h"}
    assert with_members(model, {}) is model
