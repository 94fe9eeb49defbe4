"""What the kernel says of this node's links, by rtnetlink. Blocking, and not for the loop's own thread."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

# By pyroute2's words for XDP_ATTACHED_DRV and XDP_ATTACHED_SKB of <linux/if_link.h>
_MODES = {"xdp": "native", "xdpgeneric": "generic"}
# From <linux/rtnetlink.h> and <linux/if_addr.h>
_SCOPE_LINK = 253
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
