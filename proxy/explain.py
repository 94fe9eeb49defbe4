"""What would happen to a request of HTTP: from the VIP over L4 and L7 node to the server, with the rule that decides.

Nothing is imitated here: the head is read by `head`, the way is found by a `Router` made of the same rules, and the
request, redirect or refusal is made by an `Exchange`, as in a worker (proxy/explain_way.py); the server is asked of a
pool (proxy/explain_choice.py), the certificate of what workers choose by (proxy/explain_tls.py). What is added is why:
which rules came close, and what they missed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from core.endpoints import version
from core.explain import (
    ExplainError,
    Explanation,
    Outcome,
    Place,
    check_ends,
    flow,
    limits_text,
)
from core.fields import Kind
from core.model import Instance, Listener, Model, ProxyProtocol, Role
from core.resolve import L7Listener, l7_addresses, l7_listeners
from core.rules import matches
from proxy import client_identity, headers
from proxy.errors import Refused
from proxy.explain_tls import shake_hands
from proxy.explain_way import Known, Way
from proxy.head import read_request
from proxy.message import RequestHead
from proxy.origin import Origin, Telling

SOMEBODY: Final = {4: "203.0.113.1", 6: "2001:db8::1"}  # RFC 5737, RFC 3849: a client where none is given
PORTS: Final = {"http": 80, "https": 443}
URL_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked about. `fields` are lines "Name: value"; `client` and `to` may have port 0, not known."""

    url: str
    method: str = "GET"
    fields: tuple[str, ...] = ()
    client: tuple[str, int] | None = None
    to: str = ""  # the VIP
    sni: str | None = None  # None: the host of the URL


def request(model: Model, wanted: Wanted, known: Known | None = None) -> Explanation:
    """Raises ExplainError."""
    known = known or Known()
    scheme, host, port, target, authority = _url(wanted.url)
    told = Explanation(result={"url": wanted.url, "method": wanted.method})
    each = _listener(told, model, wanted, scheme, host, port)
    if each is None:
        return told
    vip, client = _ends(model.instances[each.listener.instance], wanted, host)
    if not _arrive(told, model, each, client, vip, known):
        return told
    sni = wanted.sni if wanted.sni is not None else "" if _is_address(host) else host
    if scheme == "https" and not shake_hands(told, each, sni):
        return told
    l7 = [node for node in model.nodes.values() if node.role is Role.L7]
    at = [node.name for node in l7 if told.result.get("l7_node") in l7_addresses(node)]
    node = known.node or next(iter([*at, *(each.name for each in l7)]), "l7-1")
    telling = Telling.of(each.listener)
    origin = Origin(
        client[0].encode(), scheme.encode(), b"%d" % port,
        headers.is_trusted(client[0], [ip_network(net) for net in each.listener.trusted_proxies]), node.encode(),
        client_identity.nobody(telling.certificate) if each.authorities is not None else None,
        telling, b"%d" % client[1], vip.encode(),
    )  # fmt: skip
    head = _head(told, wanted, target, authority)
    if head is not None:
        Way(told, model, each, origin, head, known, node).go()
    return told


# -- where it arrives


def _url(url: str) -> tuple[str, str, int, str, str]:
    """Scheme, host, port, target and authority. Raises ExplainError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ExplainError(f"{url!r} is no URL: {error}") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise ExplainError(f"{url!r}: give a URL such as https://shop.example/cart")
    if len(url) > URL_BYTES:
        raise ExplainError(f"a URL may have {URL_BYTES} bytes")
    # As it stands: what is odd about it is for the node's own reader to find.
    rest = url.partition("://")[2].partition("#")[0]
    authority = rest[: min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))]
    target = rest[len(authority) :]
    target = target if target.startswith("/") else "/" + target
    host = authority.rpartition("@")[2]
    return parts.scheme, parts.hostname, port or PORTS[parts.scheme], target, host


def _listener(told: Explanation, model: Model, wanted: Wanted, scheme: str, host: str, port: int) -> L7Listener | None:
    """The listener that the request comes to. Raises ExplainError where it may be one of several."""
    to = wanted.to or (host if _is_address(host) else "")
    there = [each for each in l7_listeners(model) if each.listener.port == port and _has(each, to)]
    mine = [each for each in there if each.listener.protocol == scheme]
    if len(mine) > 1:
        named = [each for each in mine if _names(each, host)]
        mine = named or mine
    if len(mine) > 1:
        listed = ", ".join(f"{each.listener.name} ({', '.join(each.addresses)})" for each in mine)
        raise ExplainError(
            f"several listeners are for {scheme} to port {port}: {listed}; say which VIP by --to ADDRESS"
        )
    if mine:
        listener = mine[0].listener
        instance = model.instances[listener.instance]
        told.result["listener"] = listener.name
        text = f"{listener.name}: {scheme} to port {port} of the instance {instance.name}"
        told.say("listener", text, Place(Kind.LISTENERS, listener.name))
        return mine[0]
    where = f" of {to}" if to else ""
    notes = [f"the listener {each.listener.name} of this port is for {each.listener.protocol}" for each in there]
    notes += [
        f"the listener {each.name} would be, and is not enabled"
        for each in model.listeners.values()
        if not each.enabled and each.port == port and each.protocol == scheme
    ]
    others = sorted({f"{each.listener.protocol}/{each.listener.port}" for each in l7_listeners(model)})
    notes += [f"there are {', '.join(others)}"] if others else []
    text = f"no listener is for {scheme} to port {port}{where}: nobody answers"
    told.end(Outcome.KERNEL, "listener", text, None, *notes)
    return None


def _has(each: L7Listener, address: str) -> bool:
    return not address or address in each.addresses or "" in each.addresses


def _names(each: L7Listener, host: str) -> bool:
    """Whether a rule of it is for this very host name."""
    return any(rule.domain and matches(replace(rule, path="", url="/"), host, "/") for rule in each.rules)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _ends(instance: Instance, wanted: Wanted, host: str) -> tuple[str, tuple[str, int]]:
    """The VIP, and the client. Raises ExplainError."""
    to = wanted.to or (host if _is_address(host) else "")
    client = wanted.client
    if not to:
        ip = version(client[0]) if client is not None else 0
        to = next((vip for vip in instance.vips if version(vip) == ip or not ip), "")
        if instance.vips and not to:
            raise ExplainError(f"the instance {instance.name} has no VIP of {client and client[0]}'s IP version")
    client = client or (SOMEBODY[version(to) if to else 4], 0)
    check_ends(client, (to or SOMEBODY[version(client[0])], 0))
    return to, client


def _arrive(told: Explanation, model: Model, each: L7Listener, client: tuple[str, int], vip: str, known: Known) -> bool:
    """Over the L4 tier, where there is one; False: it does not."""
    listener = each.listener
    told.result["client"] = client[0]
    over_l4 = any(node.role is Role.L4 for node in model.nodes.values()) and bool(vip)
    if over_l4:
        way = flow(model, "tcp", _comer(listener, client, vip), (vip, listener.port), known.flows)
        told.steps += [replace(step, what=f"L4: {step.what}") for step in way.steps[1:] if step.what != "session"]
        told.outcome = way.outcome
        told.result["l7_node"] = str(way.result.get("server", "")).rpartition(":")[0].strip("[]")
        told.result |= {"reason": way.result.get("reason", ""), "vip": vip}
        if way.outcome is not Outcome.FORWARDED or listener.proxy_protocol is ProxyProtocol.OFF:
            return way.outcome is Outcome.FORWARDED
    if listener.proxy_protocol is not ProxyProtocol.OFF:
        _introduce(told, listener, client[0])
    if each.access is not None:
        place = Place(Kind.LISTENERS, listener.name, "access_list")
        text = f"the {listener.acl} list {listener.access_list} "
        if not each.access.admits(client[0]):
            told.end(Outcome.DROPPED, "access list", text + f"keeps {client[0]} out: the connection is cut", place)
            return False
        told.say("access list", text + f"admits {client[0]}", place)
    if not over_l4 and (limits := limits_text(listener, model)):
        told.say("limits", limits, Place(Kind.LISTENERS, listener.name))
    return True


def _comer(listener: Listener, client: tuple[str, int], vip: str) -> tuple[str, int]:
    """Whose packets the L4 tier sees: the client's, or those of a proxy that tells of it."""
    for network in map(ip_network, listener.proxy_protocol_from):
        if network.version == version(vip):
            return str(network.network_address), 0
    return client


def _introduce(told: Explanation, listener: Listener, client: str) -> None:
    some = listener.proxy_protocol is ProxyProtocol.OPTIONAL
    text = (
        f"{listener.proxy_protocol}: a proxy in {', '.join(listener.proxy_protocol_from)} tells that the client is "
        f"{client}; connections of others are {'served as they are' if some else 'cut'}"
    )
    told.say("PROXY protocol", text, Place(Kind.LISTENERS, listener.name, "proxy_protocol"))


def _head(told: Explanation, wanted: Wanted, target: str, authority: str) -> RequestHead | None:
    """The request's head as the node reads it; None: it is refused. Raises ExplainError."""
    lines = list(wanted.fields)
    if any("\r" in line or "\n" in line for line in lines) or any(c in wanted.method for c in "\r\n"):
        raise ExplainError("a header is one line, NAME: VALUE")
    if not any(line.partition(":")[0].lower() == "host" for line in lines):
        lines.insert(0, f"Host: {authority}")
    text = "\r\n".join([f"{wanted.method} {target} HTTP/1.1", *lines, "", ""])
    told.result["status"] = 0
    try:
        head = read_request(text.encode("utf-8", "surrogateescape"))
    except Refused as refused:
        _refuse(told, refused)
        return None
    assert head is not None, "an empty line ends it"
    return head


def _refuse(told: Explanation, refused: Refused) -> None:
    code = refused.code
    told.result |= {"status": code.status, "error": code.label}
    text = f"{code.status} {code.label}: {code.said(refused.offset)}; it is answered here and passed to no server"
    told.end(Outcome.REFUSED, "HTTP policy", text)
