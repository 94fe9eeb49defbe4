"""What each tier makes of a listener: its access list, its VIPs and servers of both IP versions."""

from __future__ import annotations

import pytest

from core.config import from_dict
from core.resolve import l4_services, l7_listeners

LISTED, STRANGER = "198.51.100.200", "198.51.101.0"
LISTED6, STRANGER6 = "2001:db8:1::200", "2001:db8:2::"


@pytest.mark.parametrize(
    ("acl", "entries", "admitted"),
    [
        ("white", ["198.51.100.0/24", "2001:db8:1::/48"], {LISTED, LISTED6}),
        ("white", [], set()),
        ("white", ["2001:db8:1::/48"], {LISTED6}),
        ("black", ["198.51.100.0/24", "2001:db8:1::/48"], {STRANGER, STRANGER6}),
        ("black", ["198.51.100.0/24"], {STRANGER, STRANGER6, LISTED6}),
        ("black", [], {LISTED, STRANGER, LISTED6, STRANGER6}),
    ],
)
def test_both_tiers_admit_the_same_clients(acl: str, entries: list[str], admitted: set[str]) -> None:
    listener = {"name": "web", "protocol": "http", "port": 80, "instance": "i", "servers": ["10.0.0.1:80"]}
    model = from_dict({
        "instances": [{"name": "i", "vips": ["192.0.2.1", "2001:db8::1"]}],
        "access_lists": [{"name": "them", "entries": entries}],
        "listeners": [listener | {"acl": acl, "access_list": "them"}],
    })  # fmt: skip
    (v4, v6), (site,) = l4_services(model), l7_listeners(model)
    clients = ((v4.access, (LISTED, STRANGER)), (v6.access, (LISTED6, STRANGER6)))
    assert {c for access, asked in clients if access for c in asked if access.admits(c)} == admitted
    assert site.access is not None
    assert {c for c in (LISTED, STRANGER, LISTED6, STRANGER6) if site.access.admits(c)} == admitted


def test_without_a_list_nobody_is_asked() -> None:
    model = from_dict({"listeners": [{"protocol": "http", "port": 80, "servers": ["10.0.0.1:80"]}]})
    assert l7_listeners(model)[0].access is None


def test_the_l4_tier_asks_no_list_about_proxies_that_tell_of_clients() -> None:
    """It sees the proxies' addresses; the list is for their clients', whom the L7 tier knows."""
    listener = {
        "name": "l", "protocol": "http", "port": 80, "instance": "i", "servers": ["10.0.0.1:80"], "acl": "white",
        "access_list": "them", "proxy_protocol": "required", "proxy_protocol_from": ["10.0.0.0/8"],
    }  # fmt: skip
    lists = [{"name": "them", "entries": ["203.0.113.0/24"]}]
    instances = [{"name": "i", "vips": ["192.0.2.10"]}]
    model = from_dict({"instances": instances, "access_lists": lists, "listeners": [listener]})
    assert [each.access for each in l4_services(model)] == [None]
    assert l7_listeners(model)[0].access is not None


def test_each_vip_has_the_servers_of_its_own_ip_version() -> None:
    servers = ["10.0.0.1:80", "[2001:db8::a]:80", "10.0.0.2:81"]
    model = from_dict({
        "instances": [{"name": "i", "type": "nlb", "vips": ["192.0.2.1", "2001:db8::1"]},
                      {"name": "web", "vips": ["192.0.2.2", "2001:db8::2"]}],
        "nodes": [{"name": "l7-1", "role": "l7", "address": "10.0.0.3", "address_v6": "2001:db8::b"},
                  {"name": "l7-2", "role": "l7", "address": "2001:db8::c"}],
        "listeners": [
            {"protocol": "tcp", "port": 80, "instance": "i", "servers": servers, "persistence_timeout_s": 9,
             "persistence_prefix": 24, "persistence_prefix_v6": 56},
            {"protocol": "http", "port": 8080, "instance": "web", "servers": servers},
        ],
    })  # fmt: skip
    reals = [(each.vip, [(real.address, real.port) for real in each.reals]) for each in l4_services(model)]
    assert reals == [
        ("192.0.2.1", [("10.0.0.1", 80), ("10.0.0.2", 81)]),
        ("2001:db8::1", [("2001:db8::a", 80)]),
        ("192.0.2.2", [("10.0.0.3", 8080)]),
        ("2001:db8::2", [("2001:db8::b", 8080), ("2001:db8::c", 8080)]),
    ]
    assert [each.persistence_prefix for each in l4_services(model)[:2]] == [24, 56]
    assert l7_listeners(model)[0].addresses == ("192.0.2.2", "2001:db8::2")


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_a_stopped_listener_is_served_by_neither_tier(protocol: str) -> None:
    def served(**given: bool) -> list[str]:
        listener = {"protocol": protocol, "port": 80, "instance": "i", "servers": ["10.0.0.1:80"]}
        model = from_dict({
            "instances": [{"name": "i", "type": "alb" if protocol == "http" else "nlb", "vips": ["192.0.2.1"]}],
            "listeners": [listener | given],
        })  # fmt: skip
        return [*(each.listener for each in l4_services(model)), *(each.listener.name for each in l7_listeners(model))]

    assert served() == served(enabled=True) == (["http-80"] * 2 if protocol == "http" else ["tcp-80"])
    assert served(enabled=False) == []
