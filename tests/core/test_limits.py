"""Which tier keeps which limit, and what part of it each node has."""

from __future__ import annotations

import pytest

from core.config import from_dict
from core.limits import UNLIMITED, Limits, SiteLimits, nodes
from core.model import Model, Role
from core.resolve import l4_services, l7_listeners

MBIT = 125_000.0


def model(protocol: str, *, instance: dict[str, int] | None = None, l7: int = 0, **given: int) -> Model:
    listener = {"name": "l", "protocol": protocol, "port": 80, "instance": "i", "servers": ["10.0.0.1:80"]}
    addresses = [("l4", f"10.0.1.{n}") for n in range(1, 3)] + [("l7", f"10.0.2.{n}") for n in range(1, l7 + 1)]
    kind = "alb" if protocol == "http" else "nlb"
    return from_dict({
        "nodes": [{"name": f"n{at}", "role": role, "address": address} for at, (role, address) in enumerate(addresses)],
        "instances": [{"name": "i", "type": kind, "vips": ["192.0.2.1"], **(instance or {})}],
        "listeners": [listener | given],
    })  # fmt: skip


def of_l4(protocol: str, **given: int) -> Limits:
    (service,) = l4_services(model(protocol, **given))
    return service.limits


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_l4_tier_keeps_all_of_tcp_and_udp(protocol: str) -> None:
    assert of_l4(protocol) == UNLIMITED
    assert of_l4(protocol, max_new_connections_per_s=7, max_connections=6) == Limits(7, 6)
    assert of_l4(protocol, bandwidth_in_mbit_s=5, bandwidth_out_mbit_s=4) == Limits(in_mbit_s=5, out_mbit_s=4)


def test_an_instances_bandwidth_is_shared_by_name() -> None:
    (service,) = l4_services(model("tcp", instance={"bandwidth_out_mbit_s": 9}, bandwidth_in_mbit_s=5))
    assert service.limits == Limits(in_mbit_s=5, instance="i", instance_out_mbit_s=9)
    assert service.limits.of_bandwidth


def test_of_http_it_keeps_what_is_about_connections() -> None:
    assert of_l4("http", max_connections=6, bandwidth_in_mbit_s=5, bandwidth_out_mbit_s=4) == Limits(0, 6)


def test_each_l4_node_has_its_part_of_a_rate_and_counts_all_connections() -> None:
    whole = Limits(9, 8, 6, 5, "i", 4, 3)
    assert whole.part(1) == whole
    assert whole.part(2) == Limits(4.5, 8, 3, 2.5, "i", 2, 1.5)
    assert UNLIMITED.part(2) == UNLIMITED


def test_each_l7_node_has_its_part() -> None:
    given = {"bandwidth_in_mbit_s": 8, "bandwidth_out_mbit_s": 6, "max_connections": 5, "max_new_connections_per_s": 3}
    shared = {"bandwidth_in_mbit_s": 20, "bandwidth_out_mbit_s": 10}
    (site,) = l7_listeners(model("http", instance=shared, l7=2, **given))
    assert site.limits == SiteLimits("i", 4 * MBIT, 3 * MBIT, 10 * MBIT, 5 * MBIT, 3, 1.5)
    (alone,) = l7_listeners(model("http", bandwidth_in_mbit_s=8))
    assert alone.limits == SiteLimits("i", 8 * MBIT)
    (free,) = l7_listeners(model("http", l7=2))
    assert free.limits is None


def test_nodes_of_a_role() -> None:
    assert nodes(model("tcp"), Role.L4) == 2
    assert nodes(model("tcp"), Role.L7) == 1
