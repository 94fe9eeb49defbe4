"""URL maps: rules that several listeners of a load balancer follow. Pure.

Here a rule is a listener's, and a URL map has rules before any listener follows it. So a map is a listener that never
runs, `urlmap-…`, with the rules as they were given, and each listener that follows it has a copy of each of them, named
RULE.LISTENER. The map's are the truth: every change of it by this API makes all copies anew (decision 0199).

A listener needs a port of its own and somewhere to lead: a map has the highest port that is free, which it leaves to
who wants it, and a rule that answers 404, which no listener gets a copy of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from control.cloud.action import Answer
from control.cloud.draft import Draft
from control.jdcloud import balancers, rules
from control.jdcloud.call import FILTERS, PAGE, Action, Call, listed, made, mark, marked
from control.jdcloud.errors import absent, conflict, in_use, missing
from control.jdcloud.forms import many, text
from core.fields import Kind
from core.model import FixedReply, Listener, Model, Protocol, Rule

NOTHING = "nothing"
L7 = (Protocol.HTTP, Protocol.HTTPS)


def find(model: Model, identity: str) -> Listener:
    """The URL map of this ID. Raises JdError."""
    found = model.listeners.get(identity)
    if found is None or not balancers.is_map(found):
        raise absent("UrlMap", identity)
    return found


def followers(model: Model, item: Listener) -> list[Listener]:
    """The listeners that follow a map."""
    return [each for each in model.listeners.values() if mark(each.tags, "map") == item.name]


def rules_of(model: Model, item: Listener) -> list[Rule]:
    return [
        each for each in model.rules.values() if each.listener == item.name and each.name != f"{item.name}.{NOTHING}"
    ]


def follow(draft: Draft, item: Listener, identity: str) -> Listener:
    """The listener that follows this map from now on, and its copies of the rules. Raises JdError."""
    found = find(draft.model, identity)
    if item.protocol not in L7:
        raise conflict("A UrlMap is for listeners of Http and Https.")
    if found.instance != item.instance:
        raise conflict(f"UrlMap {identity!r} is of another LoadBalancer.")
    if old := mark(item.tags, "map"):
        _drop(draft, [item], rules_of(draft.model, find(draft.model, old)))
    for each in rules_of(draft.model, found):
        draft.put(_copy(each, item))
    return dataclasses.replace(item, tags=marked(item.tags, map=identity))


def _copy(rule: Rule, item: Listener) -> Rule:
    return dataclasses.replace(rule, name=f"{rule.name}.{item.name}", listener=item.name)


def _drop(draft: Draft, listeners: Iterable[Listener], gone: Iterable[Rule]) -> None:
    """Delete the copies that these listeners have of these rules."""
    gone = list(gone)
    for item in listeners:
        for rule in gone:
            if f"{rule.name}.{item.name}" in draft.model.rules:
                draft.delete(Kind.RULES, f"{rule.name}.{item.name}")


def make_room(draft: Draft, instance: str, port: int) -> None:
    """Have the map that is at this port, if one is, go to another."""
    for each in draft.model.listeners.values():
        if each.instance == instance and each.port == port and balancers.is_map(each):
            draft.put(dataclasses.replace(each, port=_free_port(draft.model, instance, port)))


def _free_port(model: Model, instance: str, taken: int = 0) -> int:
    used = {each.port for each in model.listeners.values() if each.instance == instance} | {taken}
    found = next((port for port in range(65535, 0, -1) if port not in used), 0)
    if not found:
        raise conflict("The LoadBalancer has a listener or a UrlMap at every port.")
    return found


# --- maps


def create(call: Call, draft: Draft) -> Answer:
    given = call.given
    lb = balancers.find(draft.model, given.text("loadBalancerId"))
    name = call.identity("urlmap")
    item = Listener(
        name, lb.name, Protocol.HTTP, _free_port(draft.model, lb.name), enabled=False,
        description=given.text("description"), tags=made(call, name=given.text("urlMapName"), urlmap="1"),
    )  # fmt: skip
    _check_name(draft.model, item, given.text("urlMapName"))
    draft.put(item)
    why = "A URL map never runs; listeners that follow it have copies of its rules."
    draft.put(Rule(f"{name}.{NOTHING}", name, fixed_reply=FixedReply(404), description=why))
    return {"urlMapId": name}


def _check_name(model: Model, item: Listener, name: str) -> None:
    others = (each for each in model.listeners.values() if balancers.is_map(each) and each.instance == item.instance)
    if any(each.name != item.name and mark(each.tags, "name") == name for each in others):
        raise conflict(f"The LoadBalancer has a UrlMap {name!r}.")


def update(call: Call, draft: Draft) -> Answer:
    given, item = call.given, find(draft.model, call.given.text("urlMapId"))
    if "urlMapName" in given:
        _check_name(draft.model, item, given.text("urlMapName"))
        item = dataclasses.replace(item, tags=marked(item.tags, name=given.text("urlMapName")))
    draft.put(dataclasses.replace(item, description=given.text("description", item.description)))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("urlMapId"))
    if followers(draft.model, item):
        raise in_use("UrlMap", item.name)
    balancers.remove_map(draft, item)
    return {}


# --- rules


def _put(draft: Draft, item: Listener, rule: Rule) -> None:
    """A rule of the map, new or changed, and its copies."""
    draft.put(rule)
    for each in followers(draft.model, item):
        draft.put(_copy(rule, each))


def add_rules(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("urlMapId"))
    for index, given in enumerate(call.given.tables("ruleSpecs")):
        if not {"host", "path"} & given.values.keys():
            raise missing("ruleSpecs.path")
        empty = Rule(call.identity("rule", str(index)), item.name, tags=made(call))
        _put(draft, item, rules.changed(empty, given, draft.model))
    return {}


def _rule(model: Model, item: Listener, identity: str) -> Rule:
    found = model.rules.get(identity)
    if found is None or found not in rules_of(model, item):
        raise absent("Rule", identity)
    return found


def update_rules(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("urlMapId"))
    for given in call.given.tables("ruleUpdateSpecs"):
        rule = _rule(draft.model, item, given.text("ruleId"))
        _put(draft, item, rules.changed(rule, given, draft.model))
    return {}


def delete_rules(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("urlMapId"))
    gone = [_rule(draft.model, item, each) for each in dict.fromkeys(call.given.texts("ruleIds"))]
    _drop(draft, followers(draft.model, item), gone)
    for each in gone:
        draft.delete(Kind.RULES, each.name)
    return {}


# --- looking


def row(model: Model, item: Listener) -> dict[str, object]:
    return {
        "urlMapId": item.name, "urlMapName": mark(item.tags, "name", item.name), "loadBalancerId": item.instance,
        "listenerIds": [each.name for each in followers(model, item)], "description": item.description,
        "createdTime": mark(item.tags, "created"),
        "rules": [rules.row(each, each.name) for each in rules_of(model, item)],
    }  # fmt: skip


def describe_one(call: Call, model: Model) -> Answer:
    return {"urlMap": row(model, find(model, call.given.text("urlMapId")))}


def describe(call: Call, model: Model) -> Answer:
    rows = [row(model, each) for each in model.listeners.values() if balancers.is_map(each)]
    filters = {"urlMapIds": "urlMapId", "urlMapNames": "urlMapName", "loadBalancerId": "loadBalancerId"}
    return listed(call, "urlMaps", rows, filters)


_ID = text("urlMapId", required=True)
_ONE = "/urlMaps/{urlMapId}"
_RULES = (
    "no star but at the end of a path and before the first dot of a host; no mirror; headers are set, in the place of "
    "those of that name; of paths with a star in the middle of a segment, the first rule wins"
)
ACTIONS = (
    Action(
        "createUrlMap", "POST", "/urlMaps/",
        (text("urlMapName", 32, required=True), balancers.ID, text("description", 256)), change=create,
    ),
    Action(
        "updateUrlMap", "PATCH", _ONE, (_ID, text("description", 256), text("urlMapName", 32)), change=update
    ),
    Action("deleteUrlMap", "DELETE", _ONE, (_ID,), change=delete),
    Action("describeUrlMap", "GET", _ONE, (_ID,), look=describe_one),
    Action("describeUrlMaps", "GET", "/urlMaps/", (*PAGE, FILTERS), look=describe),
    Action(
        "addRules", "POST", f"{_ONE}:addRules", (_ID, many("ruleSpecs", rules.FIELDS, required=True)),
        change=add_rules, partly=_RULES,
    ),
    Action(
        "updateRules", "PATCH", f"{_ONE}:updateRules",
        (_ID, many("ruleUpdateSpecs", (text("ruleId", required=True), *rules.FIELDS), required=True)),
        change=update_rules, partly=_RULES,
    ),
    Action(
        "deleteRules", "POST", f"{_ONE}:deleteRules", (_ID, many("ruleIds", text("ruleIds"), required=True)),
        change=delete_rules,
    ),
)  # fmt: skip
