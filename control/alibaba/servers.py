"""Backend servers: of a load balancer (its default ones, which have no port) and of its VServer groups. Pure.

A ServerId is an IP address; there is no inventory of machines here that other IDs could be looked up in. ServerIp, if
given, is that address again.

The default servers of a load balancer lb stand in the server group `lb.default`, with port 1, which nobody asks; a
listener that forwards to port 8080 of them has a group `lb.default.8080`, with the same servers. Whatever changes the
default servers changes all of these.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from control.alibaba.call import Draft
from control.alibaba.errors import SlbError, invalid, missing, unsupported
from core.fields import Kind
from core.model import Model, Server, ServerGroup

NO_PORT = 1
DEFAULT = ".default"
KEYS = ("ServerId", "Port", "Weight", "Type", "ServerIp", "Description")
TYPES = ("ecs", "eni", "eci", "ip")


def default_name(balancer: str, port: int | None = None) -> str:
    """The name of the group of a load balancer's default servers, on a port."""
    return balancer + DEFAULT + ("" if port is None else f".{port}")


def default_port(balancer: str, group: str) -> int | None:
    """The port of a group of default servers; None for another group."""
    text = group.removeprefix(default_name(balancer) + ".")
    return int(text) if text != group and text.isascii() and text.isdigit() else None


def is_default(group: str) -> bool:
    """Whether a group is one of default servers."""
    head, _, tail = group.rpartition(DEFAULT)
    return bool(head) and (not tail or (tail[0] == "." and tail[1:].isdigit()))


def read(table: Mapping[str, str], port: int | None) -> Server:
    """A server as requests give it; `port` None: it has one of its own. Raises SlbError."""
    if table.get("Description"):
        raise unsupported("BackendServers.Description", "servers have none")
    if table.get("Type", "ecs").lower() not in TYPES:
        raise invalid("BackendServers.Type", f"{', '.join(TYPES)} is")
    address = _address(table)
    if port is None:
        if not table.get("Port"):
            raise missing("BackendServers.Port")
        port = _number("Port", table["Port"], 1, 65535)
    elif table.get("Port"):
        raise unsupported("BackendServers.Port", "default servers have the listener's BackendServerPort")
    return Server(address, port, _number("Weight", table.get("Weight") or "100", 0, 100))


def _address(table: Mapping[str, str]) -> str:
    given = table.get("ServerId", "")
    if not given:
        raise missing("BackendServers.ServerId")
    try:
        address = str(ipaddress.ip_address(given))
    except ValueError:
        text = f"The IP address of the server {given[:80]!r} is not known: here, a ServerId is an IP address."
        raise SlbError("ObtainIpFail", 400, text) from None
    if table.get("ServerIp", address) != address and table["ServerIp"]:
        raise invalid("BackendServers.ServerIp", "the address that is the ServerId is")
    return address


def _number(name: str, given: str, low: int, high: int) -> int:
    if not (given.isascii() and given.isdigit() and low <= int(given[:9]) <= high):
        raise invalid(f"BackendServers.{name}", f"{low} to {high} is")
    return int(given)


def shown(server: Server, *, with_port: bool = True) -> dict[str, object]:
    """A server as answers have it."""
    port: dict[str, object] = {"Port": server.port} if with_port else {}
    return {
        "ServerId": server.address, "ServerIp": server.address, **port, "Weight": server.weight, "Type": "ip",
        "Description": "",
    }  # fmt: skip


def key(server: Server) -> tuple[str, int]:
    return server.address, server.port


def unique(found: Sequence[Server]) -> tuple[Server, ...]:
    """The servers of one request. Raises SlbError where one stands twice."""
    if len({key(each) for each in found}) < len(found):
        raise invalid("BackendServers", "a server stands in it twice")
    return tuple(found)


def added(present: Iterable[Server], new: Sequence[Server]) -> tuple[Server, ...]:
    """With further ones; who is there already gets the new weight."""
    result = {key(each): each for each in present}
    for each in new:
        before = result.get(key(each))
        result[key(each)] = each if before is None else dataclasses.replace(before, weight=each.weight)
    return tuple(result.values())


def removed(present: Iterable[Server], gone: Iterable[tuple[str, int]]) -> tuple[Server, ...]:
    """Without these; who is not there is not missed, as at Alibaba Cloud."""
    keys = set(gone)
    return tuple(each for each in present if key(each) not in keys)


def weighed(present: Sequence[Server], new: Sequence[Server]) -> tuple[Server, ...]:
    """With these weights; raises SlbError for one that is not there."""
    have = {key(each) for each in present}
    for each in new:
        if key(each) not in have:
            text = f"The specified backend server {each.address} is not one of this load balancer."
            raise SlbError("InvalidBackendServers.NotFound", 404, text)
    return added(present, new)


def default_servers(model: Model, balancer: str) -> tuple[Server, ...]:
    """The default servers of a load balancer, with no port that means anything."""
    group = model.server_groups.get(default_name(balancer))
    return () if group is None else group.servers


def put_default(draft: Draft, balancer: str, servers: tuple[Server, ...]) -> None:
    """Set the default servers, on every port that a listener has of them."""
    names = [name for name in draft.model.server_groups if default_port(balancer, name) is not None]
    for name in {default_name(balancer), *names}:
        put_on(draft, balancer, name, servers)


def put_on(draft: Draft, balancer: str, name: str, servers: tuple[Server, ...]) -> None:
    port = default_port(balancer, name) or NO_PORT
    before = draft.model.server_groups.get(name, ServerGroup(name, description=f"default servers of {balancer}"))
    draft.put(dataclasses.replace(before, servers=tuple(dataclasses.replace(each, port=port) for each in servers)))


def default_group(draft: Draft, balancer: str, port: int) -> str:
    """The group of the default servers on a port, which is made if it is not there."""
    name = default_name(balancer, port)
    if name not in draft.model.server_groups or draft.is_gone(Kind.SERVER_GROUPS, name):
        put_on(draft, balancer, name, default_servers(draft.model, balancer))
    return name
