import ipaddress
from ipaddress import ip_address, ip_network

import pytest

from deploy.lab import topology as t
from deploy.lab.topology import Topology

FULL = Topology("pft", l4=9, l7=9, keyservers=9, backends=99)


def script(topology: Topology, name: str) -> str:
    host = topology.host(name)
    assert host is not None
    made = t.host_script(topology, host)
    return "\n".join((*made.ip, *made.sh))


def test_hosts_in_order() -> None:
    names = [host.name for host in Topology("pf").hosts()]
    assert " ".join(names) == "client router control l4-1 l4-2 l7-1 l7-2 key-1 be-1 be-2 be-3"


@pytest.mark.parametrize("topology", [Topology("pf"), FULL], ids=["default", "full"])
def test_no_two_hosts_share_an_address_or_a_mac(topology: Topology) -> None:
    addresses = [host.address for host in topology.hosts()]
    assert len(set(addresses)) == len(addresses)
    assert len({t.mac_of(address) for address in addresses}) == len(addresses)
    assert len({host.address_v6 for host in topology.hosts()}) == len(addresses)
    assert all(str(ipaddress.ip_address(host.address_v6)) == host.address_v6 for host in topology.hosts())
    lan = ipaddress.ip_network(f"{t.LAN}.0/24")
    assert all(ipaddress.ip_address(a) in lan for a in addresses if a != t.CLIENT)


def test_names_fit_the_kernel() -> None:
    assert all(len(t.port_of(host)) <= 15 for host in FULL.hosts())


def test_every_host_but_the_client_has_a_cable_to_the_switch() -> None:
    lines = t.cables(Topology("pf")).ip
    for host in Topology("pf").hosts():
        laid = [line for line in lines if f"netns {host.netns} " in f"{line} " and "veth" in line]
        assert len(laid) == (2 if host.name == "router" else 1), host.name
    assert not any(line.startswith("link add client") for line in lines)


def test_checksums_are_finished_on_both_ends_of_every_cable() -> None:
    topology = Topology("pf")
    switch = t.cables(topology).sh
    for host in topology.hosts():
        assert "ethtool -K eth0 tx off" in script(topology, host.name)
        assert host.name == "client" or f"ethtool -K {host.name} tx off" in switch
    assert "ethtool -K eth1 tx off" in script(topology, "router")


def test_the_vips_are_routed_and_hidden() -> None:
    topology = Topology("pf", l4=3)
    assert f"route add {t.VIP} nhid 100" in script(topology, "router")
    assert "nexthop add id 100 group 1/2/3 type resilient" in script(topology, "router")
    assert f"route add {t.VIP6} nhid 106" in script(topology, "router")
    assert "nexthop add id 63 via fe80::13 dev eth0" in script(topology, "router")
    assert "nexthop add id 106 group 61/62/63 type resilient" in script(topology, "router")
    for name in ("l7-1", "be-1"):
        assert f"addr add {t.VIP6}/128 dev lo nodad" in script(topology, name)
    for name in ("l7-1", "be-1"):
        assert f"addr add {t.VIP}/32 dev lo" in script(topology, name)
        assert "arp_ignore=1" in script(topology, name)
        assert "arp_announce=2" in script(topology, name)
    for name in ("l4-1", "router", "client", "key-1", "control"):
        assert f"addr add {t.VIP}" not in script(topology, name)
        assert f"addr add {t.VIP6}" not in script(topology, name)


def test_servers_answer_through_the_l4_nodes_but_for_the_vip() -> None:
    lines = script(Topology("pf"), "be-1").splitlines()
    assert "route add 0.0.0.0/0 nhid 100" in lines
    assert "route add ::/0 nhid 106" in lines
    assert "route add default via fe80::1 dev eth0 table 100" in lines
    assert f"ip -6 rule add from {t.VIP6} lookup 100" in lines
    assert f"route add default via {t.ROUTER} table 100" in lines
    assert f"rule add from {t.VIP} lookup 100" in lines


def test_only_the_router_forwards() -> None:
    topology = Topology("pf")
    forwarding = [host.name for host in topology.hosts() if "ip_forward=1" in script(topology, host.name)]
    assert forwarding == ["router"]
    assert [h.name for h in topology.hosts() if "ipv6.conf.all.forwarding=1" in script(topology, h.name)] == forwarding


def test_ids_of_next_hops_do_not_meet() -> None:
    ids = [line.split()[3] for line in t.l4_group(FULL)]
    assert len(set(ids)) == len(ids) == 4 * 9 + 2


def test_unknown_hosts_are_none() -> None:
    assert Topology("pf").host("l4-3") is None
    assert Topology("pf").host("lan") is None


def test_group_lines() -> None:
    assert t.group_lines("replace", [2]) == (
        "nexthop replace id 100 group 2 type resilient buckets 128 idle_timer 2",
        "nexthop replace id 106 group 62 type resilient buckets 128 idle_timer 2",
    )


def test_a_pool_goes_to_its_node_and_to_a_live_one_when_that_is_dead() -> None:
    def heirs(*live: int) -> list[str]:
        lines = [line.partition("group ")[2] for line in t.pool_lines("replace", 3, live)]
        assert [int(heir) + 60 for heir in lines[:3]] == list(map(int, lines[3:]))
        return lines[:3]

    assert t.pool_lines("add", 2, [1, 2]) == (
        "nexthop add id 200 group 1",
        "nexthop add id 201 group 2",
        "nexthop add id 260 group 61",
        "nexthop add id 261 group 62",
    )
    assert heirs(1, 2, 3) == ["1", "2", "3"]
    assert heirs(1, 3) == ["1", "1", "3"]
    assert heirs(2) == ["2", "2", "2"]


def test_everybody_who_answers_knows_the_way_to_the_pools() -> None:
    topology = t.Topology("pf", l4=2)
    for host in ("router", "be-1"):
        lines = script(topology, host)
        assert "route add 10.81.3.11 nhid 200" in lines
        assert "route add 10.81.3.12 nhid 201" in lines
        assert "route add fd81:0:0:3::11 nhid 260" in lines
        assert "route add fd81:0:0:3::12 nhid 261" in lines


def test_where_the_nodes_announce_the_vips_nobody_has_routes_to_the_nodes() -> None:
    for method in ("vrrp", "bgp"):
        topology = Topology("pf", vip=method)  # type: ignore[arg-type]
        for host in ("router", "be-1"):
            assert "nhid" not in script(topology, host)
            assert "nexthop" not in script(topology, host)
        assert f"route add default via {t.ROUTER}" in script(topology, "be-1").splitlines()
        assert f"addr add {t.VIP}/32 dev lo" in script(topology, "be-1")
        router = script(topology, "router")
        assert "rule add iif eth0 from 10.81.0.128/25 to 10.81.1.0/24 lookup 101" in router
        assert "ip -6 rule add iif eth0 from fd81::100/120 to fd81:0:0:1::/64 lookup 101" in router


def test_by_vrrp_the_vips_are_on_link_at_the_router() -> None:
    lines = script(Topology("pf", vip="vrrp"), "router").splitlines()
    for network in ("10.81.2.0/24", "10.81.3.0/24", "fd81:0:0:2::/64", "fd81:0:0:3::/64"):
        assert f"route add {network} dev eth0" in lines
    assert f"route add default via {t.VIP} dev eth0 table 101 onlink" in lines
    assert f"route add default via {t.VIP6} dev eth0 table 101 onlink" in lines
    assert "10.81.2.0/24" not in script(Topology("pf", vip="bgp"), "router")


def test_servers_are_told_apart_by_their_addresses() -> None:
    """The router sends what they send to clients to an L4 node, and nobody else's."""
    topology = FULL
    for host in topology.hosts():
        for ip, address in ((4, host.address), (6, host.address_v6)):
            found = any(ip_address(address) in ip_network(each) for each in t.SERVER_NETWORKS[ip])
            assert found is (host.role == "backend"), host
