from __future__ import annotations

import os

import pytest
from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from l4fast import links
from l4fast.loader import DataPlane, XdpMode
from tests.l4fast.netns import Network, sh


def test_a_link_that_is_not_there() -> None:
    assert links.find("pftnone") is None


def test_the_loopback_link() -> None:
    link = links.find("lo")
    assert link is not None
    assert link.program == 0
    assert "127.0.0.1" in links.addresses(link.index)


def link_message(index: int, parent: int, kind: str, **data: int) -> nlmsg:
    """As the kernel sends it."""
    sent = ifinfmsg()
    sent["index"] = index
    info = [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": list(data.items())})]
    sent["attrs"] = [("IFLA_LINK", parent), ("IFLA_LINKINFO", {"attrs": info})]
    sent.encode()
    received = ifinfmsg(bytes(sent.data))
    received.decode()
    return received


def test_vlans_among_links() -> None:
    """The kernel here has none to be asked for."""
    plain = ifinfmsg()
    plain["attrs"] = []
    messages = [
        link_message(7, 3, "vlan", IFLA_VLAN_ID=10, IFLA_VLAN_PROTOCOL=0x8100),
        link_message(8, 3, "vlan", IFLA_VLAN_ID=11, IFLA_VLAN_PROTOCOL=0x88A8),
        link_message(9, 3, "macvlan"),
        plain,
    ]
    assert links.vlans(messages) == {7: links.Vlan(3, 10)}
    assert links.vlans_on(1) == ()


@pytest.mark.root
def test_whether_tags_are_taken_off() -> None:
    with Network(f"pftv{os.getpid()}") as network:
        network.host("host", "10.77.1.1/24")
        for word in ("on", "off"):
            sh(f"nsenter --net={network.path('host')} ethtool -K eth0 rxvlan {word}")
            assert network.inside("host", lambda: links.takes_tags_off("eth0")) is (word == "on")
        assert not links.takes_tags_off("pftnone")


@pytest.mark.root
@pytest.mark.parametrize("mode", ["generic", "native"])
def test_programs_are_found_and_taken_off(mode: XdpMode) -> None:
    with Network(f"pftl{os.getpid()}") as network:
        network.host(
            "host", "10.77.1.1/24", "addr add 10.77.2.1/32 dev lo", "addr add 2001:db8:77::1/64 dev eth0",
            "addr add 2001:db8:77::2/64 dev eth0 preferred_lft 0", "addr add 2001:db8:77::3/64 dev eth0",
        )  # fmt: skip

        def life() -> None:
            plane = DataPlane.load(sessions=64, half_open=64)
            try:
                plane.attach("eth0", mode)
                link = links.find("eth0")
                assert link is not None
                assert (link.program > 0, link.mode) == (True, mode)
                links.take_off(link)
                after = links.find("eth0")
                assert after is not None
                assert (after.program, after.mode) == (0, "")
                v4, *v6, last = links.addresses(link.index)
                assert (v4, set(v6), last) == ("10.77.1.1", {"2001:db8:77::1", "2001:db8:77::3"}, "2001:db8:77::2")
                assert set(links.addresses()) == {"127.0.0.1", "10.77.1.1", "10.77.2.1", "::1", *v6, last}
            finally:
                plane.close()

        network.inside("host", life)
