"""Access control lists, and the older white list that a listener has for itself. Pure.

An AclId is the name of an access list. A listener's own white list is an access list too, with a name made of the
listener's; it is there from the first entry or the first opening on, and goes with the listener.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Sequence

from control.alibaba import balancers, listeners, marks
from control.alibaba.call import Action, Answer, Call, Draft, page
from control.alibaba.errors import SlbError, denied, invalid, no_acl, unsupported
from control.alibaba.parameters import Given, many, number, refused, tables, tables_of, text, word
from control.alibaba.services import own_white_list as own_name
from core.endpoints import version
from core.fields import Kind
from core.model import AccessList, Acl, Listener, Model

KEYS = ("entry", "comment")
_NO_COMMENT = "entries have no comments here"


def create(call: Call, draft: Draft) -> Answer:
    given = call.given
    is_v6 = given.text("AddressIPVersion") == "ipv6"
    tags = marks.marked(marks.tagged((), tables_of(given, "Tag")), ip="6" if is_v6 else "")
    item = AccessList(call.identity("acl"), description=given.text("AclName"), tags=tags)
    draft.put(item)
    return {"AclId": item.name}


def _find(given: Given, model: Model) -> AccessList:
    """Raises SlbError."""
    identity = given.text("AclId")
    if identity not in model.access_lists:
        raise no_acl(identity)
    return model.access_lists[identity]


def _version(item: AccessList) -> int:
    if item.entries and "ip" not in marks.mark(item.tags):
        return version(item.entries[0].partition("/")[0])
    return 6 if marks.mark(item.tags).get("ip") == "6" else 4


def network(name: str, given: str) -> str:
    """The network that an entry means. Raises SlbError."""
    try:
        return str(ipaddress.ip_network(given.strip()))
    except ValueError:
        raise invalid(name, "a network such as 10.0.0.0/24, without bits of the host, is") from None


def _entries(given: Given) -> list[str]:
    found = []
    for each in given.list("AclEntrys"):
        if each.get("comment"):
            raise unsupported("AclEntrys.comment", _NO_COMMENT)
        found.append(network("AclEntrys.entry", each.get("entry", "")))
    if not found:
        raise SlbError("AclEntryEmpty", 400, "AclEntrys has no entry.")
    return found


def add(call: Call, draft: Draft) -> Answer:
    item, new = _find(call.given, draft.model), _entries(call.given)
    if wrong := next((each for each in new if version(each.partition("/")[0]) != _version(item)), ""):
        raise invalid("AclEntrys.entry", f"a network of IPv{_version(item)} is, and not {wrong}")
    if len(set(new)) < len(new) or set(new) & set(item.entries):
        raise SlbError("DuplicateAclEntry", 400, "An entry is in the list already.")
    draft.put(dataclasses.replace(item, entries=(*item.entries, *new)))
    return {}


def remove(call: Call, draft: Draft) -> Answer:
    item, gone = _find(call.given, draft.model), set(_entries(call.given))
    draft.put(dataclasses.replace(item, entries=tuple(each for each in item.entries if each not in gone)))
    return {}


def rename(call: Call, draft: Draft) -> Answer:
    draft.put(dataclasses.replace(_find(call.given, draft.model), description=call.given.text("AclName")))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    item = _find(call.given, draft.model)
    if not draft.is_left(Kind.ACCESS_LISTS, item.name):
        raise SlbError("AclInUsed", 400, f"The access control list {item.name} is in use by a listener.")
    draft.delete(Kind.ACCESS_LISTS, item.name)
    return {}


def _row(item: AccessList) -> dict[str, object]:
    return {
        "AclId": item.name, "AclName": item.description or item.name, "AddressIPVersion": f"ipv{_version(item)}",
        "Tags": {"Tag": marks.shown(item.tags)},
    }  # fmt: skip


def describe(call: Call, model: Model) -> Answer:
    given = call.given
    number_, size = given.number("PageNumber", 1), given.number("PageSize", 50)
    rows = [_row(each) for each in model.access_lists.values() if marks.matches(each.tags, tables_of(given, "Tag"))]
    found = [
        each for each in rows
        if given.text("AclName") in str(each["AclName"])
        and given.text("AddressIPVersion", str(each["AddressIPVersion"])) == each["AddressIPVersion"]
    ]  # fmt: skip
    shown = page(found, number_, size)
    return {
        "Acls": {"Acl": shown}, "PageNumber": number_, "PageSize": size, "TotalCount": len(found), "Count": len(shown)
    }  # fmt: skip


def describe_one(call: Call, model: Model) -> Answer:
    item, given = _find(call.given, model), call.given
    related = [
        {
            "LoadBalancerId": balancers.of_listener(model, each).id, "ListenerPort": each.port,
            "Protocol": each.protocol.value, "AclType": each.acl.value,
        }
        for each in model.listeners.values()
        if each.access_list == item.name
    ]  # fmt: skip
    shown: Sequence[object] = item.entries
    if "Page" in given or "PageSize" in given:
        shown = page(item.entries, given.number("Page", 1), given.number("PageSize", 50))
    return {
        **_row(item), "AclEntrys": {"AclEntry": [{"AclEntryIP": each, "AclEntryComment": ""} for each in shown]},
        "RelatedListeners": {"RelatedListener": related}, "TotalAclEntry": len(item.entries),
    }  # fmt: skip


# --- a listener's own white list


def _own(model: Model, listener: Listener) -> AccessList:
    name = own_name(listener)
    return model.access_lists.get(name, AccessList(name, description=f"white list of {listener.name}"[:256]))


def set_status(call: Call, draft: Draft) -> Answer:
    _, listener = listeners.placed(call.given, draft.model)
    name = own_name(listener)
    if listener.acl is not Acl.OFF and listener.access_list != name:
        raise denied(f"The listener goes by the access control list {listener.access_list}.")
    if call.given.text("AccessControlStatus") == "close":
        draft.put(dataclasses.replace(listener, acl=Acl.OFF, access_list=""))
        return {}
    draft.put(_own(draft.model, listener))
    draft.put(dataclasses.replace(listener, acl=Acl.WHITE, access_list=name))
    return {}


def _items(given: Given) -> list[str]:
    return list(dict.fromkeys(network("SourceItems", each) for each in given.text("SourceItems").split(",")))


def add_items(call: Call, draft: Draft) -> Answer:
    _, listener = listeners.placed(call.given, draft.model)
    item = _own(draft.model, listener)
    new = [each for each in _items(call.given) if each not in item.entries]
    draft.put(dataclasses.replace(item, entries=(*item.entries, *new)))
    return {}


def remove_items(call: Call, draft: Draft) -> Answer:
    _, listener = listeners.placed(call.given, draft.model)
    item, gone = _own(draft.model, listener), set(_items(call.given))
    draft.put(dataclasses.replace(item, entries=tuple(each for each in item.entries if each not in gone)))
    return {}


def describe_items(call: Call, model: Model) -> Answer:
    _, listener = listeners.placed(call.given, model)
    is_open = listener.acl is Acl.WHITE and listener.access_list == own_name(listener)
    return {
        "AccessControlStatus": "open_white_list" if is_open else "close",
        "SourceItems": ",".join(_own(model, listener).entries),
    }  # fmt: skip


_ID = text("AclId", 80, required=True)
_GROUP = refused("ResourceGroupId", "there are no resource groups here")
_TAG = many("Tag")
_NAME = text("AclName", 80, required=True)
_IP = word("AddressIPVersion", "ipv4", "ipv6")
_ENTRIES = tables("AclEntrys", *KEYS, required=True)
_ITEMS = text("SourceItems", 4096, required=True)
_COMMENT = "no comments"
ACTIONS = (
    Action("CreateAccessControlList", (_NAME, _IP, _GROUP, _TAG), change=create),
    Action("AddAccessControlListEntry", (_ID, _ENTRIES), change=add, partly=_COMMENT),
    Action("RemoveAccessControlListEntry", (_ID, _ENTRIES), change=remove, partly=_COMMENT),
    Action("SetAccessControlListAttribute", (_ID, _NAME), change=rename),
    Action("DeleteAccessControlList", (_ID,), change=delete),
    Action(
        "DescribeAccessControlLists",
        (
            text("AclName", 80), _IP, _GROUP, _TAG, number("PageNumber", 1, 1_000_000), number("PageSize", 1, 100),
        ),
        look=describe,
    ),
    Action(
        "DescribeAccessControlListAttribute",
        (
            _ID, refused("AclEntryComment", _NO_COMMENT), number("Page", 1, 1_000_000), number("PageSize", 1, 1000),
        ),
        look=describe_one,
    ),
    Action(
        "SetListenerAccessControlStatus",
        (*listeners.PLACE, word("AccessControlStatus", "open_white_list", "close", required=True)), change=set_status,
    ),
    Action("AddListenerWhiteListItem", (*listeners.PLACE, _ITEMS), change=add_items),
    Action("RemoveListenerWhiteListItem", (*listeners.PLACE, _ITEMS), change=remove_items),
    Action("DescribeListenerAccessControlAttribute", listeners.PLACE, look=describe_items),
)  # fmt: skip
