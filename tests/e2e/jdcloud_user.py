"""What a user of JD Cloud's SDK does, on the lab's control host: `make`, `health MADE` and `remove MADE`.

Adds a listener of each protocol to the lab's load balancers, with backends of its own for the lab's target groups;
those of http and https follow a URL map. Prints what it has made.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from importlib import import_module
from typing import Any

from jdcloud_sdk.core.config import Config
from jdcloud_sdk.core.credential import Credential
from jdcloud_sdk.services.lb.client.LbClient import LbClient

ENDPOINT, REGION = "127.0.0.1:8481", "paifang"
WIRE, EDGE = "wire", "edge"
PORTS = {"tcp": 6001, "udp": 6301, "http": 8001, "https": 8444}
# In mode nat, an answer that comes by another L4 node is known by its server, if that is of one nat listener alone.
GROUPS = {"tcp": "tcp-dr", "udp": "udp-dr", "http": "web", "https": "web"}
BALANCERS = {"tcp": WIRE, "udp": WIRE, "http": EDGE, "https": EDGE}
LEAST = {"intervalSeconds": 5, "healthyThresholdCount": 2, "unhealthyThresholdCount": 2, "checkTimeoutSeconds": 2}
CHECKS = {"tcp": {"protocol": "Tcp"}, "http": {"protocol": "Http", "httpPath": "/health", "httpCode": "2xx"}}


class Silent:
    """The SDK's own logger prints what it signs."""

    def log(self, *_: object) -> None:
        pass


class User:
    """With the access key of the administrator's token, which `paifang lab exec control` has in the environment."""

    def __init__(self) -> None:
        heads = {"Authorization": f"Bearer {os.environ['PAIFANG_TOKEN']}"}
        url = f"{os.environ['PAIFANG_API']}/v1/token/access-key"
        request = urllib.request.Request(url, method="POST", headers=heads)
        with urllib.request.urlopen(request, timeout=20) as answer:
            key = json.load(answer)
        credential = Credential(key["access_key_id"], key["access_key_secret"])
        self._client = LbClient(credential, Config(ENDPOINT, "http", 20), Silent())

    def call(self, action: str, /, **fields: Any) -> dict[str, Any]:
        name = f"{action[0].upper()}{action[1:]}Request"
        request = getattr(import_module(f"jdcloud_sdk.services.lb.apis.{name}"), name)
        answer = self._client.send(request({"regionId": REGION, **fields}))
        assert answer.error is None, answer.error.message
        result: dict[str, Any] = answer.result or {}
        return result


def make(user: User) -> dict[str, dict[str, str]]:
    """By protocol, the IDs of what was made."""
    found: dict[str, dict[str, str]] = {}
    for protocol, port in PORTS.items():
        lb, kind = BALANCERS[protocol], protocol.capitalize()
        spoken = "Http" if lb == EDGE else kind
        made = user.call(
            "createBackend", backendName=f"jd-{protocol}", loadBalancerId=lb, protocol=spoken, port=port,
            targetGroupIds=[GROUPS[protocol]],
            healthCheckSpec={**LEAST, **CHECKS["http" if lb == EDGE else "tcp"]},
        )  # fmt: skip
        given: dict[str, Any] = {}
        if lb == EDGE:
            routes = user.call("createUrlMap", urlMapName=f"jd-{protocol}", loadBalancerId=lb)
            rule = {"path": "/*", "backendId": made["backendId"]}
            user.call("addRules", urlMapId=routes["urlMapId"], ruleSpecs=[rule])
            given = routes
        if protocol == "https":
            given = {**given, "certificateSpecs": [{"certificateId": "shop"}]}
        listener = user.call(
            "createListener", listenerName=f"jd-{protocol}", protocol=kind, port=port, loadBalancerId=lb,
            backendId=made["backendId"], **given,
        )  # fmt: skip
        found[protocol] = {**made, **listener, **({"urlMapId": given["urlMapId"]} if lb == EDGE else {})}
    return found


def health(user: User, made: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """What is told of the servers of each listener."""
    return {
        protocol: [
            "normal" if row["status"] == "healthy" else row["status"]
            for row in user.call("describeTargetHealth", backendId=ids["backendId"])["targetHealths"]
        ]
        for protocol, ids in made.items()
    }


def remove(user: User, made: dict[str, dict[str, str]]) -> None:
    for ids in made.values():
        user.call("deleteListener", listenerId=ids["listenerId"])
        if "urlMapId" in ids:
            user.call("deleteUrlMap", urlMapId=ids["urlMapId"])
        user.call("deleteBackend", backendId=ids["backendId"])


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    user = User()
    if what == "make":
        print(json.dumps(make(user)))
    elif what == "health":
        print(json.dumps(health(user, json.loads(words[0]))))
    else:
        remove(user, json.loads(words[0]))
