"""What the kernel says of this node's links, by rtnetlink. Blocking, and not for the loop's own thread."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkError

# By pyroute2's words for XDP_ATTACHED_DRV and XDP_ATTACHED_SKB of <linux/if_link.h>
_MODES = {"xdp": "native", "xdpgeneric": "generic"}
# From <linux/rtnetlink.h> and <linux/if_addr.h>
_SCOPE_LINK = 253
_8021Q = 0x8100
# From <linux/sockios.h> and <linux/ethtool.h>
_SIOCETHTOOL, _ETHTOOL_GFLAGS, _ETH_FLAG_RXVLAN = 0x8946, 0x25, 1 << 8
_LAST_CHOICE = 0x01 | 0x08 | 0x20  # IFA_F_TEMPORARY, _DADFAILED, _DEPRECATED
_FLAGS = {"generic": 1 << 1, "native": 1 << 2}  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE


@dataclass(frozen=True, slots=True)
class Link:
    """A link with the XDP program on it: its id, 0 for none, and how it is attached."""

    index: int
    program: int
    mode: str


def find(device: str) -> Link | None:
    """The link of this name, if there is one."""
    with IPRoute() as routes:
        try:
            link = routes.link("get", ifname=device)[0]
        except NetlinkError:
            return None
        xdp = link.get_attr("IFLA_XDP")
        program = xdp.get_attr("IFLA_XDP_PROG_ID") or 0
        return Link(int(link["index"]), int(program), _MODES.get(xdp.get_attr("IFLA_XDP_ATTACHED"), ""))


def take_off(link: Link) -> None:
    """Removes the XDP program that `find` has seen."""
    with IPRoute() as routes:
        xdp = {"attrs": [("IFLA_XDP_FD", -1), ("IFLA_XDP_FLAGS", _FLAGS[link.mode])]}
        routes.link("set", index=link.index, xdp=xdp)


@dataclass(frozen=True, slots=True)
class Vlan:
    """A VLAN's own link on another: the index of that one, and the VLAN's number."""

    parent: int
    number: int


def vlans(links: Iterable[nlmsg]) -> dict[int, Vlan]:
    """The VLAN links (IEEE 802.1Q) among these, by their indexes."""
    found = {}
    for link in links:
        info = link.get_attr("IFLA_LINKINFO")
        if info is None or info.get_attr("IFLA_INFO_KIND") != "vlan":
            continue
        data = info.get_attr("IFLA_INFO_DATA")
        if data.get_attr("IFLA_VLAN_PROTOCOL") in (None, _8021Q):
            found[int(link["index"])] = Vlan(int(link.get_attr("IFLA_LINK")), int(data.get_attr("IFLA_VLAN_ID")))
    return found


def vlans_on(index: int) -> tuple[int, ...]:
    """The indexes of the VLAN links on a link."""
    with IPRoute() as routes:
        return tuple(vlan for vlan, of in vlans(routes.get_links()).items() if of.parent == index)


def remove_address(device: str, address: str) -> bool:
    """Takes the address of a single host off a link; says whether it was there."""
    with IPRoute() as routes:
        index = routes.link_lookup(ifname=device)
        if not index:
            return False
        try:
            routes.addr("del", index=index[0], address=address, prefixlen=128 if ":" in address else 32)
        except NetlinkError:
            return False
    return True


def takes_tags_off(device: str) -> bool:
    """Whether the driver takes VLAN tags off frames before XDP sees them (ethtool(8): rxvlan)."""
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GFLAGS, 0), 8)
    request = struct.pack("16sP16x", device.encode()[:15], ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe.fileno(), _SIOCETHTOOL, request)
        except OSError:  # a driver without such options, or no link
            return False
    return bool(struct.unpack("=II", value.raw)[1] & _ETH_FLAG_RXVLAN)


def addresses(index: int = 0) -> tuple[str, ...]:
    """The addresses of this node, or of one of its links: those of IPv4, then those of IPv6 but the link-local ones.

    Of IPv6, those come last that are temporary (RFC 8981), deprecated, or another machine's as well. Raises OSError.
    """
    try:
        return _addresses(index)
    except NetlinkError as error:
        raise OSError(error.code, str(error)) from None


def _addresses(index: int) -> tuple[str, ...]:
    of_link = {"index": index} if index else {}
    with IPRoute() as routes:
        v4 = [str(each.get_attr("IFA_ADDRESS")) for each in routes.get_addr(family=socket.AF_INET, **of_link)]
        found = [
            (bool((each.get_attr("IFA_FLAGS") or each["flags"]) & _LAST_CHOICE), str(each.get_attr("IFA_ADDRESS")))
            for each in routes.get_addr(family=socket.AF_INET6, **of_link)
            # A kernel without IPv6 answers with addresses of other families.
            if each["family"] == socket.AF_INET6 and each["scope"] != _SCOPE_LINK
        ]
    return (*v4, *(address for _, address in sorted(found, key=lambda each: each[0])))
