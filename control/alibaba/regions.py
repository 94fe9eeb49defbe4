"""Regions and zones: one of each. Pure."""

from __future__ import annotations

from control.alibaba.call import Action, Answer, Call
from control.alibaba.parameters import text, word
from core.model import Model


def regions(call: Call, model: Model) -> Answer:
    row = {"RegionId": call.site.region, "LocalName": call.site.region, "RegionEndpoint": call.site.endpoint}
    return {"Regions": {"Region": [row]}}


def zones(call: Call, model: Model) -> Answer:
    slave = {"SlaveZone": [{"ZoneId": call.site.zone, "LocalName": call.site.zone}]}
    return {"Zones": {"Zone": [{"ZoneId": call.site.zone, "LocalName": call.site.zone, "SlaveZones": slave}]}}


def resources(call: Call, model: Model) -> Answer:
    """Which kinds of address a load balancer can get."""
    rows = [
        {"AddressType": kind, "AddressIPVersion": f"ipv{version}"}
        for version in sorted({network.version for network in call.site.vips} or {4, 6})
        for kind in ("internet", "intranet")
        if call.given.text("AddressType", kind) == kind
        and call.given.text("AddressIPVersion", f"ipv{version}") == f"ipv{version}"
    ]
    zone = {
        "MasterZoneId": call.site.zone,
        "SlaveZoneId": call.site.zone,
        "SupportResources": {"SupportResource": rows},
    }
    return {"AvailableResources": {"AvailableResource": [zone]}}


ACTIONS = (
    Action("DescribeRegions", (text("AcceptLanguage", 16),), look=regions, partly="one: --alibaba-region"),
    Action("DescribeZones", (text("AcceptLanguage", 16),), look=zones, partly="one, REGION-a"),
    Action(
        "DescribeAvailableResource",
        (word("AddressType", "internet", "intranet"), word("AddressIPVersion", "ipv4", "ipv6")), look=resources,
    ),
)  # fmt: skip
