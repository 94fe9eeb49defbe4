"""Availability groups, of the API's service `ag`; and the weights of their members, which is of `lb`. Pure.

There are groups, and no templates that instances would be made of: members are added by the REST API, or register
themselves, or come from DNS or a file.
"""

from __future__ import annotations

import dataclasses

from control.cloud.action import Answer
from control.cloud.draft import Draft
from control.cloud.site import Site
from control.jdcloud import backends, groups
from control.jdcloud.call import FILTERS, PAGE, Action, Call, listed, made, mark, marked
from control.jdcloud.errors import absent, conflict, in_use
from control.jdcloud.forms import many, number, refused, text, word
from core.fields import Kind
from core.model import AvailabilityGroup, Model

SERVICE = "ag"


def find(model: Model, identity: str) -> AvailabilityGroup:
    """The availability group of this ID. Raises JdError."""
    if identity not in model.availability_groups:
        raise absent("Ag", identity)
    return model.availability_groups[identity]


def create(call: Call, draft: Draft) -> Answer:
    given = call.given
    if wrong := next((each for each in given.texts("azs") if each != call.site.zone), ""):
        raise absent("Az", wrong)
    item = AvailabilityGroup(
        call.identity("ag"), registered=True, min_zones=1, description=given.text("description"),
        tags=made(call, name=given.text("agName")),
    )  # fmt: skip
    draft.put(item)
    return {"agId": item.name}


def update(call: Call, draft: Draft) -> Answer:
    given, item = call.given, find(draft.model, call.given.text("agId"))
    if "name" in given:
        item = dataclasses.replace(item, tags=marked(item.tags, name=given.text("name")))
    draft.put(dataclasses.replace(item, description=given.text("description", item.description)))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("agId"))
    if not draft.is_left(Kind.AVAILABILITY_GROUPS, item.name):
        raise in_use("Ag", item.name)
    draft.delete(Kind.AVAILABILITY_GROUPS, item.name)
    return {}


def update_targets(call: Call, draft: Draft) -> Answer:
    """The weights of members, by their target IDs."""
    service = backends.find(draft.model, call.given.text("backendId"))
    if not service.availability_group:
        raise conflict(f"Backend {service.name!r} has no availability group.")
    item = draft.model.availability_groups[service.availability_group]
    members = {groups.target_id(item.name, each): each for each in item.members}
    for given in call.given.tables("targetUpdateSpecs"):
        old = members.get(given.text("targetId"))
        if old is None:
            raise absent("Target", given.text("targetId"))
        members[given.text("targetId")] = dataclasses.replace(old, weight=given.number("weight", old.weight))
    draft.put(dataclasses.replace(item, members=tuple(members.values())))
    return {}


# --- looking


def row(item: AvailabilityGroup, site: Site) -> dict[str, object]:
    return {
        "id": item.name, "name": mark(item.tags, "name", item.name), "description": item.description,
        "azs": [site.zone], "agType": "vm", "createTime": mark(item.tags, "created"), "count": len(item.members),
        "autoScaling": False, "configurationType": "loose",
    }  # fmt: skip


def describe_one(call: Call, model: Model) -> Answer:
    return {"ag": row(find(model, call.given.text("agId")), call.site)}


def describe(call: Call, model: Model) -> Answer:
    rows = [row(each, call.site) for each in model.availability_groups.values()]
    return listed(call, "ags", rows, {"agName": "name", "agId": "id"})


_SCALING = "there is no auto scaling here"
_TEMPLATES = "there are no templates here that instances would be made of"
_MEMBERS = "members are added and removed by the REST API (docs/upstreams.md)"
_ID = text("agId", required=True)
_ALL, _ONE = "/availabilityGroups", "/availabilityGroups/{agId}"
_CANNOT = (
    ("abandonInstances", "POST", f"{_ONE}:abandonInstances", _MEMBERS),
    ("setInstanceTemplate", "POST", f"{_ONE}:setInstanceTemplate", _TEMPLATES),
    ("describeQuotas", "GET", "/quotas", "there are no quotas here"),
    ("enableAutoScaling", "POST", "/autoScaling/{agId}", _SCALING),
    ("disableAutoScaling", "PUT", "/autoScaling/{agId}:disable", _SCALING),
    ("updateAutoScaling", "POST", "/autoScaling/{agId}:updateAutoScaling", _SCALING),
    ("describeScalingActivities", "GET", "/autoScaling/{agId}:describeScalingActivities", _SCALING),
    ("modifyInstancesManaged", "POST", "/autoScaling/{agId}:modifyInstancesManaged", _SCALING),
    ("modifyInstancesProtected", "POST", "/autoScaling/{agId}:modifyInstancesProtected", _SCALING),
    *(
        (f"{verb}As{noun}", method, f"/as{noun}s{rest.format(f'{{as{noun}Id}}')}", _SCALING)
        for noun in ("Rule", "Alarm", "Cron")
        for verb, method, rest in (
            ("create", "POST", ""), ("update", "POST", "/{}"), ("delete", "DELETE", "/{}"),
        )
    ),
    *((f"describeAs{noun}s", "GET", f"/as{noun}s", _SCALING) for noun in ("Rule", "Alarm", "Cron")),
    ("executeAsRule", "POST", "/asRules/{asRuleId}:execute", _SCALING),
    *(
        (f"{verb}As{noun}", "POST", f"/as{noun}s/{{as{noun}Id}}:{verb}", _SCALING)
        for noun in ("Alarm", "Cron")
        for verb in ("enable", "disable")
    ),
)  # fmt: skip
ACTIONS = (
    Action(
        "updateAgTargets", "PATCH", "/backends/{backendId}:updateAgTargets",
        (
            text("backendId", required=True),
            many(
                "targetUpdateSpecs", (text("targetId", required=True), number("weight", 0, 100)), required=True
            ),
        ),
        change=update_targets, partly="members that are configured, and not those of DNS, files or registration",
    ),
    Action(
        "createAg", "POST", _ALL,
        (
            many("azs", text("azs"), required=True), text("agName", 32, required=True), word("agType", "vm"),
            refused("instanceTemplateId", _TEMPLATES), text("description", 256),
            word("configurationType", "loose", others={"strict": _TEMPLATES}),
            refused("placementType", "availability groups of the REST API have min_zones and min_racks"),
            refused("autoscalingSpec", _SCALING),
        ),
        change=create, partly="members are added by the REST API, or register themselves", service=SERVICE,
    ),
    Action(
        "updateAg", "PATCH", _ONE, (_ID, text("description", 256), text("name", 32)), change=update, service=SERVICE
    ),
    Action("deleteAg", "DELETE", _ONE, (_ID,), change=delete, service=SERVICE),
    Action("describeAg", "GET", _ONE, (_ID,), look=describe_one, partly="no instances", service=SERVICE),
    Action(
        "describeAgs", "GET", _ALL, (*PAGE, FILTERS), look=describe,
        partly="no instances; filters by agName and agId, whole", service=SERVICE,
    ),
    *(Action(name, method, path, cannot=why, service=SERVICE) for name, method, path, why in _CANNOT),
)  # fmt: skip
