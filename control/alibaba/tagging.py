"""Tags of load balancers, listeners, rules, VServer groups, certificates and access control lists. Pure.

A listener is named as LOADBALANCERID_PROTOCOL_PORT, as at Alibaba Cloud.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

from control.alibaba import balancers, marks, servers
from control.alibaba.call import Action, Answer, Call, Draft, page
from control.alibaba.errors import SlbError, missing
from control.alibaba.parameters import Given, many, number, tables, tables_of, text, texts_of, word
from core.fields import Kind
from core.model import Listener, Model, Object

KINDS = {
    "instance": Kind.INSTANCES, "listener": Kind.LISTENERS, "rule": Kind.RULES, "vservergroup": Kind.SERVER_GROUPS,
    "certificate": Kind.CERTIFICATES, "acl": Kind.ACCESS_LISTS,
}  # fmt: skip
PAGE = 50


def _all(model: Model, kind: str) -> Iterator[tuple[str, Object]]:
    """The objects of a kind of resource, with their IDs."""
    if kind == "instance":
        yield from ((each.id, each.main) for each in balancers.all_of(model))
        return
    for item in model.of(KINDS[kind]).values():
        if isinstance(item, Listener):
            balancer = balancers.of_listener(model, item)
            yield f"{balancer.id}_{item.protocol.value}_{item.port}", item
        elif kind != "vservergroup" or not servers.is_default(item.name):
            yield item.name, item
    if kind == "certificate":
        yield from model.ca_certificates.items()


def _named(given: Given, model: Model) -> list[Object]:
    """The objects that a request names. Raises SlbError."""
    known = dict(_all(model, given.text("ResourceType")))
    found = []
    for identity in dict.fromkeys(texts_of(given, "ResourceId")):
        if identity not in known:
            raise SlbError("InvalidResourceId.NotFound", 404, f"The specified ResourceId {identity!r} does not exist.")
        found.append(known[identity])
    return found


def tag(call: Call, draft: Draft) -> Answer:
    new = tables_of(call.given, "Tag")
    for item in _named(call.given, draft.model):
        draft.put(dataclasses.replace(item, tags=marks.tagged(item.tags, new)))
    return {}


def untag(call: Call, draft: Draft) -> Answer:
    keys = texts_of(call.given, "TagKey")
    everything = call.given.on("All")
    if not keys and not everything:
        raise missing("TagKey")
    for item in _named(call.given, draft.model):
        gone = keys or [key for key, _ in marks.users(item.tags)]
        draft.put(dataclasses.replace(item, tags=marks.untagged(item.tags, gone)))
    return {}


def listed(call: Call, model: Model) -> Answer:
    given = call.given
    kind, wanted = given.text("ResourceType"), tables_of(given, "Tag")
    names = set(texts_of(given, "ResourceId"))
    if not names and not wanted:
        raise missing("ResourceId")
    rows = [
        {"ResourceType": kind, "ResourceId": identity, "TagKey": key, "TagValue": value}
        for identity, item in _all(model, kind)
        if (not names or identity in names) and marks.matches(item.tags, wanted)
        for key, value in marks.users(item.tags)
    ]
    token = given.text("NextToken", "1")
    at = int(token[:9]) if token.isascii() and token.isdigit() else 1
    more = {"NextToken": str(at + 1)} if at * PAGE < len(rows) else {}
    return {"TagResources": {"TagResource": page(rows, at, PAGE)}, **more}


# --- as it was before TagResources


def _old(given: Given) -> list[tuple[str, str]]:
    found = [(each.get("TagKey", ""), each.get("TagValue", "")) for each in given.list("Tags")]
    if any(not key for key, _ in found):
        raise missing("Tags.TagKey")
    return found


def add_old(call: Call, draft: Draft) -> Answer:
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    balancers.update(draft, balancer, tags=marks.tagged(balancer.main.tags, _old(call.given)))
    return {}


def remove_old(call: Call, draft: Draft) -> Answer:
    """A tag that is given with a value goes if it has that one."""
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    have = dict(marks.users(balancer.main.tags))
    keys = [key for key, value in _old(call.given) if not value or have.get(key) == value]
    balancers.update(draft, balancer, tags=marks.untagged(balancer.main.tags, keys))
    return {}


def describe_old(call: Call, model: Model) -> Answer:
    given = call.given
    wanted, only = _old(given), given.text("LoadBalancerId")
    counted: Counter[tuple[str, str]] = Counter()
    for balancer in balancers.all_of(model):
        if not only or balancer.id == only:
            counted.update(marks.users(balancer.main.tags))
    if given.on("DistinctKey"):
        keys: Counter[tuple[str, str]] = Counter()
        for (key, _), count in counted.items():
            keys[key, ""] += count
        counted = keys
    chosen = [
        {"TagKey": key, "TagValue": value, "InstanceCount": count}
        for (key, value), count in sorted(counted.items())
        if not wanted or any(key == name and each in ("", value) for name, each in wanted)
    ]
    number_, size = given.number("PageNumber", 1), given.number("PageSize", 50)
    return {
        "TagSets": {"TagSet": page(chosen, number_, size)}, "PageNumber": number_, "PageSize": size,
        "TotalCount": len(chosen),
    }  # fmt: skip


_KIND = word("ResourceType", *KINDS, required=True)
_RESOURCES = many("ResourceId", required=True)
_TAG = many("Tag", required=True)
_LB = text("LoadBalancerId", 80, required=True)
_OLD = tables("Tags", "TagKey", "TagValue", required=True)
ACTIONS = (
    Action("TagResources", (_KIND, _RESOURCES, _TAG), change=tag),
    Action(
        "UntagResources", (_KIND, _RESOURCES, many("TagKey"), word("All", "true", "false")), change=untag
    ),
    Action(
        "ListTagResources",
        (_KIND, many("ResourceId"), many("Tag"), text("NextToken", 32)),
        look=listed,
    ),
    Action("AddTags", (_LB, _OLD), change=add_old),
    Action("RemoveTags", (_LB, _OLD), change=remove_old),
    Action(
        "DescribeTags",
        (
            text("LoadBalancerId", 80), tables("Tags", "TagKey", "TagValue"), word("DistinctKey", "true", "false"),
            number("PageNumber", 1, 1_000_000), number("PageSize", 1, 100),
        ),
        look=describe_old,
    ),
)  # fmt: skip
