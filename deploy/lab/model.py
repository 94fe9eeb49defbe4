"""The configuration that a lab starts with: one listener of each kind, in the JSON form of the API.

nat listeners show that the server's port may differ from the listener's; direct routing and tunnels cannot change it.
"""

from __future__ import annotations

from typing import Literal

from deploy.lab.topology import VIPS, Host, Topology, pool_of

Mode = Literal["both", "nat", "dr", "fullnat", "tunnel"]
Object = dict[str, object]

HTTP_PORT, HTTPS_PORT = 80, 443
TCP_NAT_PORT, TCP_DR_PORT, TCP_FULLNAT_PORT, TCP_TUNNEL_PORT = 5000, 5001, 5002, 5003
UDP_NAT_PORT, UDP_DR_PORT, UDP_FULLNAT_PORT, UDP_TUNNEL_PORT = 5300, 5301, 5302, 5303
# Where the servers listen.
WEB_PORT, STREAM_PORT, ECHO_PORT = 8080, 9000, 9053

DOMAIN = "shop.example"  # RFC 2606
CERTIFICATE = "shop"

# The quickest that the model allows: unhealthy after 2 to 3 s.
CHECK = {"interval_s": 1, "timeout_s": 1, "rise": 2, "fall": 2}


def default(topology: Topology, mode: Mode, chain: str) -> dict[str, list[Object]]:
    """The whole configuration; `chain` is the PEM text of the certificate for `DOMAIN`."""
    nodes = [_node(host) for host in topology.hosts() if host.role in ("l4", "l7", "keyserver")]
    servers = topology.of("backend")
    listeners: list[Object] = [
        {"name": "http", "instance": "edge", "protocol": "http", "port": HTTP_PORT, "backend_service": "web"},
        {"name": "https", "instance": "edge", "protocol": "https", "port": HTTPS_PORT, "backend_service": "web",
         "certificates": [CERTIFICATE]},
    ]  # fmt: skip
    groups = [_group("web", servers, WEB_PORT)]
    http_check = {**CHECK, "type": "http", "method": "get", "uri": "/health"}
    services: list[Object] = [{"name": "web", "protocol": "http", "server_group": "web", "scheduler": "rr",
                 "health_check": http_check}]  # fmt: skip
    for name, protocol, port, server_port in layer_4(mode):
        listeners.append({"name": name, "instance": "wire", "protocol": protocol, "port": port,
                          "mode": name.rpartition("-")[2], "backend_service": name})  # fmt: skip
        groups.append(_group(name, servers, server_port))
        probe = {"request": "ping", "expect": "ping"} if protocol == "udp" else {}
        services.append({"name": name, "protocol": protocol, "server_group": name, "scheduler": "maglev",
                         "health_check": {**CHECK, "type": protocol, **probe}})  # fmt: skip
    return {
        "nodes": nodes,
        "certificates": [{"name": CERTIFICATE, "chain": chain}],
        "server_groups": groups,
        "backend_services": services,
        "instances": [
            {"name": "edge", "type": "alb", "vips": list(VIPS)},
            {"name": "wire", "type": "nlb", "vips": list(VIPS)},
        ],
        "listeners": listeners,
    }


def layer_4(mode: Mode) -> list[tuple[str, str, int, int]]:
    """(name, protocol, port, the servers' port) of the tcp and udp listeners."""
    rows = [
        ("tcp-nat", "tcp", TCP_NAT_PORT, STREAM_PORT),
        ("udp-nat", "udp", UDP_NAT_PORT, ECHO_PORT),
        ("tcp-dr", "tcp", TCP_DR_PORT, TCP_DR_PORT),
        ("udp-dr", "udp", UDP_DR_PORT, UDP_DR_PORT),
        ("tcp-fullnat", "tcp", TCP_FULLNAT_PORT, STREAM_PORT),
        ("udp-fullnat", "udp", UDP_FULLNAT_PORT, ECHO_PORT),
        ("tcp-tunnel", "tcp", TCP_TUNNEL_PORT, TCP_TUNNEL_PORT),
        ("udp-tunnel", "udp", UDP_TUNNEL_PORT, UDP_TUNNEL_PORT),
    ]
    modes = ("nat", "dr") if mode == "both" else (mode,)
    return [row for row in rows if row[0].rpartition("-")[2] in modes]


def _node(host: Host) -> Object:
    node: Object = {"name": host.name, "role": host.role, "address": host.address}
    if host.role == "l4":
        node["source_pool"] = list(pool_of(host))
    if host.role == "l7":
        node["address_v6"] = host.address_v6
    return node


def _group(name: str, hosts: tuple[Host, ...], port: int) -> Object:
    addresses = [address for host in hosts for address in (host.address, host.address_v6)]
    return {"name": name, "servers": [{"address": address, "port": port} for address in addresses]}
