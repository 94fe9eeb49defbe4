from __future__ import annotations

import pytest

from l4fast.shares import Share
from l4fast.vip_states import VipState
from l4fast.vrrp import IDS, Notice, Notices, TooManyAddresses, configuration, configured, priority, router_ids

ONE_ARMED = """\
# Written by paifang l4, and overwritten.
global_defs {
    router_id l4-1
    vrrp_version 3
    vrrp_notify_fifo "/st/vip/notify"
    vrrp_garp_master_delay 1
    vrrp_garp_master_refresh 30
    vrrp_priority -10
}
vrrp_instance 192.0.2.10 {
    state BACKUP
    interface eth0
    virtual_router_id 10
    priority 250
    advert_int 0.1
    virtual_ipaddress {
        192.0.2.10/32 dev eth0
    }
}
vrrp_instance 2001:db8::10 {
    state BACKUP
    interface eth0
    virtual_router_id 16
    priority 230
    advert_int 0.1
    virtual_ipaddress {
        2001:db8::10/128 dev eth0
    }
}
"""
SHARES = (Share("192.0.2.10", 0, 2), Share("2001:db8::10", 1, 2))


def text(*interfaces: str, interface: str = "eth0") -> str:
    return configuration(
        SHARES, node="l4-1", interface=interface, interfaces=interfaces, ids=IDS, fifo="/st/vip/notify"
    )


def test_one_interface() -> None:
    assert text("eth0") == ONE_ARMED


def test_of_several_interfaces_all_have_the_address_and_have_to_be_up() -> None:
    instance = text("eth0", "eth1", interface="eth0.20").partition("vrrp_instance 192.0.2.10")[2]
    assert (
        instance.partition("vrrp_instance")[0]
        == """ {
    state BACKUP
    interface eth0.20
    virtual_router_id 10
    priority 250
    advert_int 0.1
    virtual_ipaddress {
        192.0.2.10/32 dev eth0.20
    }
    track_interface {
        eth0
        eth1
    }
    virtual_ipaddress_excluded {
        192.0.2.10/32 dev eth0
        192.0.2.10/32 dev eth1
    }
}
"""
    )


def test_what_a_configuration_puts_on_interfaces() -> None:
    assert configured(ONE_ARMED) == (("192.0.2.10", "eth0"), ("2001:db8::10", "eth0"))
    assert configured(text("eth0", "eth1"))[:2] == (("192.0.2.10", "eth0"), ("192.0.2.10", "eth1"))
    assert configured("") == ()


def test_ids_are_the_last_byte_where_that_is_free() -> None:
    assert router_ids(["192.0.2.10", "192.0.2.7", "2001:db8::a"], IDS) == {
        "192.0.2.7": 7, "192.0.2.10": 10, "2001:db8::a": 10
    }  # fmt: skip
    assert router_ids(["192.0.2.10", "198.51.100.10", "192.0.2.11"], IDS) == {
        "192.0.2.10": 10, "192.0.2.11": 11, "198.51.100.10": 12
    }  # fmt: skip
    assert router_ids(["192.0.2.0"], IDS) == {"192.0.2.0": 1}


def test_ids_stay_within_their_range() -> None:
    found = router_ids([f"192.0.2.{last}" for last in range(100, 110)], (51, 60))
    assert sorted(found.values()) == list(range(51, 61))
    assert router_ids(["192.0.2.55"], (51, 60)) == {"192.0.2.55": 55}
    with pytest.raises(TooManyAddresses, match="10 virtual router ids are too few for the IPv4 addresses"):
        router_ids([f"192.0.2.{last}" for last in range(100, 111)], (51, 60))


@pytest.mark.parametrize("nodes", [1, 2, 9, 13, 100])
def test_priorities_follow_the_ranks(nodes: int) -> None:
    found = [priority(Share("192.0.2.1", rank, nodes)) for rank in range(nodes)]
    assert found == sorted(set(found), reverse=True)
    assert (found[0], min(found) >= 1) == (250, True)


def test_notices() -> None:
    lines = (
        b'INSTANCE "192.0.2.10" BACKUP 250\nINSTANCE "192.0.2.10" MASTER 250\nINSTANCE "2001:db8::10" FAULT 230\n'
        b'GROUP "g" MASTER 1\nINSTANCE "2001:db8::10" STOP 230\nINSTANCE "192.0.2.10" MASTER_RX_LOWER_PRI 250\n'
        b'INSTANCE "192.0.2.10" SOMETHING_NEW 250\n'
    )
    expected = [
        Notice("192.0.2.10", VipState.BACKUP), Notice("192.0.2.10", VipState.MASTER),
        Notice("2001:db8::10", VipState.FAULT), Notice("2001:db8::10", VipState.WITHDRAWN),
        Notice("192.0.2.10", None, rival=True),
    ]  # fmt: skip
    assert Notices().receive_data(lines) == expected
    bytewise = Notices()
    assert [each for byte in lines for each in bytewise.receive_data(bytes([byte]))] == expected
