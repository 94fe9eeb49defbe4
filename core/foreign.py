"""What other load balancers offer under names that their users try here, where the plain answer "unknown key" would
leave them wondering: the PROXY protocol on the L4 tier, and by others' names on the L7 tier; and the TLS policies with
TLS 1.0 and 1.1.

A header in front of a connection's bytes shifts every sequence number after it, and a tier that forwards packets would
have to rewrite them all for the life of the connection. It has no need to: nat, dr and tunnel leave the client's
address in place. TLS 1.0 and 1.1 have the server sign with MD5 and SHA-1, which no key server of ours does (RFC 8996
forbids both versions). Pure; works on plain data, before it is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from core.errors import Path, Problem
from core.model import Kind, Mode

# Without case and punctuation: "send-proxy-v2" is "sendproxyv2".
PROXY_PROTOCOL: Final = frozenset({
    "proxyprotocol", "proxyprotocolv1", "proxyprotocolv2",                     # nginx, Traefik, AWS
    "proxyprotocolenabled", "proxyprotocolv2enabled", "proxyprotocolversion",  # Alibaba, AWS
    "sendproxy", "sendproxyv2", "acceptproxy",                                 # HAProxy
    "useproxyproto", "useproxyprotocol", "upstreamproxyprotocol",              # Envoy, ingress-nginx
    "proxyprotocolfrom",                                                       # ours, of listeners of the L7 tier
})  # fmt: skip
OLD_POLICIES: Final = ("tls_1_0", "tls_1_1")
_L4: Final = ("tcp", "udp")
_OURS: Final = {
    Kind.LISTENERS: ("proxy_protocol", "proxy_protocol_from"),
    Kind.BACKEND_SERVICES: ("proxy_protocol",),
}
_NAMED: Final = {
    Kind.LISTENERS: 'give proxy_protocol = "required" and proxy_protocol_from here for headers that come in, or '
    'proxy_protocol = "v2" to the backend service for headers that go out',
    Kind.BACKEND_SERVICES: 'give proxy_protocol = "v1" or "v2"',
}


def without(kind: Kind, table: object, path: Path, problems: list[Problem]) -> object:
    """A table less the keys that are explained here; a problem is noted for each."""
    if kind not in (Kind.LISTENERS, Kind.BACKEND_SERVICES) or not isinstance(table, Mapping):
        return table
    if kind is Kind.LISTENERS and table.get("tls_policy") in OLD_POLICIES:
        why = "TLS 1.0 and 1.1 sign handshakes with MD5 and SHA-1, which the key server refuses (RFC 8996)"
        problems.append(Problem((*path, "tls_policy"), why, "give tls_1_2, which also has the suites of old clients"))
        table = {key: value for key, value in table.items() if key != "tls_policy"}
    asked = [key for key in table if _plain(key) in PROXY_PROTOCOL]
    if table.get("protocol") not in _L4:
        asked = [key for key in asked if key not in _OURS[kind]]
        problems += [Problem((*path, key), "unknown key", _NAMED[kind]) for key in asked]
        return {key: value for key, value in table.items() if key not in asked} if asked else table
    for key in asked:
        why = "the PROXY protocol is the L7 tier's: tcp and udp are forwarded packet by packet, with no header added"
        problems.append(Problem((*path, key), why, _remedy(kind, table.get("mode", Mode.NAT.value))))
    return {key: value for key, value in table.items() if key not in asked}


def _remedy(kind: Kind, mode: object) -> str:
    if mode == Mode.FULLNAT:
        return "remove it, and use mode nat, dr or tunnel, in which the servers see the client's own address"
    known = kind is Kind.LISTENERS and mode in list(Mode)
    where = f"in mode {mode}" if known else "in modes nat, dr and tunnel"
    return f"remove it: {where} the servers see the client's own address"


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())
