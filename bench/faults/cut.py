"""A network that takes nothing from one host to another: a filter where the switch hands frames to the second one.

What comes out of the switch's port towards a host, and has the other's MAC address as its source, is dropped: unicast
and multicast, of every protocol, ARP too, what XDP sends back as well. Everybody else's frames pass. The other
direction is a filter of its own, so that a cut may be one-way.
"""

from __future__ import annotations

import os
import struct

from pyroute2 import IPRoute

from deploy.lab import xdp_pass
from deploy.lab.lab import Lab
from deploy.lab.namespaces import inside
from deploy.lab.topology import Host, mac_of, port_of

_PROG_TYPE_SCHED_CLS = 3
_INSTRUCTION = struct.Struct("=BBhi")
_SOURCE_TAIL = 8  # the last four bytes of a frame's source address
_TC_ACT_OK, _TC_ACT_SHOT = 0, 2
_EGRESS = 0xFFFFFFF3  # a parent (linux/pkt_sched.h)
_ALL_PROTOCOLS = 0x0003  # ETH_P_ALL


def program(mac: str) -> bytes:
    """Drops the frames of one MAC address."""
    tail = int.from_bytes(bytes.fromhex(mac.replace(":", ""))[2:], "big")
    return b"".join(_INSTRUCTION.pack(*words) for words in (
        (0xBF, 0x16, 0, 0),  # r6 = r1: where the next one looks for the frame
        (0x20, 0, 0, _SOURCE_TAIL),  # r0 = ntohl of that word
        (0x15, 0, 2, tail),  # if r0 == tail skip two
        (0xB7, 0, 0, _TC_ACT_OK), (0x95, 0, 0, 0),
        (0xB7, 0, 0, _TC_ACT_SHOT), (0x95, 0, 0, 0),
    ))  # fmt: skip


def cut(lab: Lab, sender: Host, receiver: Host) -> None:
    """From now on nothing that `sender` sends comes to `receiver`. One cut for a receiver at a time."""
    fd = xdp_pass.load(program(mac_of(sender.address)), _PROG_TYPE_SCHED_CLS)
    try:
        with inside(lab.topology.bridge_netns), IPRoute() as ip:
            index = ip.link_lookup(ifname=port_of(receiver))[0]
            ip.tc("add", "clsact", index)
            ip.tc("add-filter", "bpf", index, 0, parent=_EGRESS, protocol=_ALL_PROTOCOLS, prio=1, fd=fd,
                  name="cut", direct_action=True)  # fmt: skip
    finally:
        os.close(fd)


def mend(lab: Lab, receiver: Host) -> None:
    """Everything comes again to a `receiver` that was cut off."""
    with inside(lab.topology.bridge_netns), IPRoute() as ip:
        ip.tc("del", "clsact", ip.link_lookup(ifname=port_of(receiver))[0])
