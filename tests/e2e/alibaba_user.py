"""What a user of Alibaba Cloud's SDK does, on the lab's control host: `make`, `health GROUPS` and `remove GROUPS`.

Adds a listener of each protocol to the lab's load balancers, with VServer groups of its own, and prints these.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any

from alibabacloud_slb20140515 import models
from alibabacloud_slb20140515.client import Client
from alibabacloud_tea_openapi.models import Config

ENDPOINT, REGION = "127.0.0.1:8480", "paifang"
WIRE, EDGE = "wire", "edge"
PORTS = {"tcp": 6000, "udp": 6300, "http": 8000, "https": 8443}
# In mode nat, an answer that comes by another L4 node is known by its server, if that is of one nat listener alone.
GROUPS = {"tcp": "tcp-dr", "udp": "udp-dr", "http": "web", "https": "web"}
BALANCERS = {"tcp": WIRE, "udp": WIRE, "http": EDGE, "https": EDGE}


def client() -> Client:
    """With the access key of the administrator's token, which `paifang lab exec control` has in the environment."""
    heads = {"Authorization": f"Bearer {os.environ['PAIFANG_TOKEN']}"}
    url = f"{os.environ['PAIFANG_API']}/v1/token/access-key"
    request = urllib.request.Request(url, method="POST", headers=heads)
    with urllib.request.urlopen(request, timeout=20) as answer:
        key = json.load(answer)
    identity, secret = key["access_key_id"], key["access_key_secret"]
    config = Config(access_key_id=identity, access_key_secret=secret, endpoint=ENDPOINT, protocol="HTTP")
    config.region_id = REGION
    return Client(config)


def make(user: Client) -> dict[str, str]:
    """A listener of each protocol, with the servers of the lab's own. The VServer groups, by protocol."""
    groups: dict[str, str] = {}
    for protocol, port in PORTS.items():
        place: dict[str, Any] = {"region_id": REGION, "load_balancer_id": BALANCERS[protocol]}
        asked = models.DescribeVServerGroupAttributeRequest(region_id=REGION, vserver_group_id=GROUPS[protocol])
        found = user.describe_vserver_group_attribute(asked).body.backend_servers.backend_server
        rows = [{"ServerId": each.server_id, "Port": each.port} for each in found]
        request = models.CreateVServerGroupRequest(
            **place, backend_servers=json.dumps(rows), vserver_group_name=protocol
        )
        groups[protocol] = user.create_vserver_group(request).body.vserver_group_id
        target = {**place, "listener_port": port, "vserver_group_id": groups[protocol], "bandwidth": -1}
        if protocol == "tcp":
            user.create_load_balancer_tcplistener(
                models.CreateLoadBalancerTCPListenerRequest(**target, scheduler="wlc", health_check_interval=1)
            )
        elif protocol == "udp":
            user.create_load_balancer_udplistener(
                models.CreateLoadBalancerUDPListenerRequest(
                    **target, health_check_req="ping", health_check_exp="ping", health_check_interval=1
                )
            )
        else:
            check = {"health_check": "on", "health_check_uri": "/health", "health_check_method": "get",
                     "health_check_interval": 1, "sticky_session": "off"}  # fmt: skip
            if protocol == "http":
                user.create_load_balancer_httplistener(models.CreateLoadBalancerHTTPListenerRequest(**target, **check))
            else:
                user.create_load_balancer_httpslistener(
                    models.CreateLoadBalancerHTTPSListenerRequest(**target, **check, server_certificate_id="shop")
                )
        user.start_load_balancer_listener(
            models.StartLoadBalancerListenerRequest(**place, listener_port=port, listener_protocol=protocol)
        )
    return groups


def health(user: Client) -> dict[str, list[str]]:
    """What is told of the servers of each listener."""
    found: dict[str, list[str]] = {}
    for protocol, port in PORTS.items():
        request = models.DescribeHealthStatusRequest(
            region_id=REGION, load_balancer_id=BALANCERS[protocol], listener_port=port, listener_protocol=protocol
        )
        rows = user.describe_health_status(request).body.backend_servers.backend_server
        found[protocol] = [each.server_health_status for each in rows]
    return found


def remove(user: Client, groups: dict[str, str]) -> None:
    for protocol, port in PORTS.items():
        place: dict[str, Any] = {"region_id": REGION, "load_balancer_id": BALANCERS[protocol]}
        user.delete_load_balancer_listener(
            models.DeleteLoadBalancerListenerRequest(**place, listener_port=port, listener_protocol=protocol)
        )
        user.delete_vserver_group(models.DeleteVServerGroupRequest(region_id=REGION, vserver_group_id=groups[protocol]))


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    user = client()
    if what == "make":
        print(json.dumps(make(user)))
    elif what == "health":
        print(json.dumps(health(user)))
    else:
        remove(user, json.loads(words[0]))
