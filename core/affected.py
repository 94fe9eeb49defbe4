"""The part of a configuration in which a change may have made a fault. Pure.

A sound configuration in which a few objects change need not be checked as a whole: whatever is wrong with it then is
wrong between one of these and others. `part` gives a smaller model that has all objects which may be at odds with
what has changed, and with which `core.checks` finds a problem wherever it finds one with the whole. It may find one
that is none, since objects are missing: then the whole has to be asked. How objects may be at odds:

    a name                 whoever names what has changed, whoever names that, and so on; and all that these name
    a listener's rules     hide each other, share a cookie, or are all that the listener has
    an address and port    listeners of the same port
    a redirect to https    http and https listeners of the same instance
    an address             of a server, a node or a VIP: the part has all nodes and all instances

What changes nodes or instances is checked as a whole, and so is what changes servers, or who leads to them, where some
instance keeps no sessions (type dnlb): its listeners are at odds with whoever shares a server with them.

A check of objects that are related in none of these ways needs a line here. Tests hold the two together, by random
changes of random configurations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Final, cast

from core.checks import referring
from core.model import CLASSES, InstanceType, Kind, Listener, Model, Object, Protocol, Rule

Key = tuple[Kind, str]

WHOLE: Final = frozenset({Kind.NODES, Kind.INSTANCES})
LEADING: Final = frozenset({Kind.SERVER_GROUPS, Kind.AVAILABILITY_GROUPS, Kind.BACKEND_SERVICES, Kind.LISTENERS})


def part(before: Model, after: Model, touched: Iterable[Key]) -> Model:
    """What to check of `after`, which differs from `before`, a sound model, in `touched` objects alone."""
    keys = set(touched)
    kinds = {kind for kind, _ in keys}
    stateless = any(each.type is InstanceType.DNLB for each in after.instances.values())
    if kinds & WHOLE or (stateless and kinds & LEADING):
        return after
    changed = [item for model in (before, after) for kind, name in keys if (item := model.of(kind).get(name))]
    keys |= _users(after, keys)
    moved = [each for each in changed if isinstance(each, Listener)]
    keys |= _clashing(after, moved)
    rules = [*changed, *(after.rules[name] for kind, name in keys if kind is Kind.RULES and name in after.rules)]
    keys |= {(Kind.LISTENERS, each.listener) for each in rules if isinstance(each, Rule)}
    keys |= _redirected(after, moved, keys)
    listeners = {name for kind, name in keys if kind is Kind.LISTENERS}
    keys |= {(Kind.RULES, each.name) for each in after.rules.values() if each.listener in listeners}
    keys |= _used(after, keys)
    objects: dict[str, Mapping[str, Object]] = {}
    for kind in Kind:
        here = after.of(kind)
        if kind not in WHOLE:
            names = {name for of, name in keys if of is kind}
            here = {name: item for name, item in here.items() if name in names} if names else {}  # order counts
        objects[kind.value] = here
    return Model(**objects)  # type: ignore[arg-type]


def _users(model: Model, keys: Iterable[Key]) -> set[Key]:
    """Whoever names one of these, and whoever names them in turn."""
    found: set[Key] = set()
    fresh = set(keys)
    while fresh:
        wanted: dict[Kind, set[str]] = {}
        for kind, name in fresh:
            wanted.setdefault(kind, set()).add(name)
        fresh = {(kind, item.name) for kind in Kind for item in _naming(model, kind, wanted)} - found
        found |= fresh
    return found


def _naming(model: Model, kind: Kind, wanted: Mapping[Kind, set[str]]) -> Iterator[Object]:
    """The objects of a kind that name one of these. Asked of thousands at each change."""
    items, cls = model.of(kind).values(), cast(type, CLASSES[kind])
    for field, of, is_list in referring(cls):
        get = attrgetter(field.name)
        if of is None:
            for item in items:
                held = get(item)
                tables = held if is_list or held is None else (held,)
                if held and any(name in wanted.get(kind, ()) for each in tables for kind, name in _names(each)):
                    yield item
        elif of in wanted:
            names = wanted[of]
            yield from (i for i in items if (not names.isdisjoint(get(i)) if is_list else get(i) in names))


def _used(model: Model, keys: Iterable[Key]) -> set[Key]:
    """What these name, and what that names in turn."""
    found: set[Key] = set()
    fresh = set(keys)
    while fresh:
        items = [item for kind, name in fresh if (item := model.of(kind).get(name)) is not None]
        fresh = {key for item in items for key in _names(item)} - found
        found |= fresh
    return found


def _names(item: Any) -> Iterator[Key]:
    cls: type = type(item)
    for field, kind, is_list in referring(cls):
        value = getattr(item, field.name)
        for each in value if is_list else (value,):
            if kind is None:
                yield from _names(each) if each is not None else ()
            elif each:
                yield kind, each


def _clashing(model: Model, changed: Iterable[Listener]) -> set[Key]:
    """Listeners that may answer where one of these does."""
    vips: dict[int, list[frozenset[str]]] = {}
    for each in changed:
        instance = model.instances.get(each.instance)
        vips.setdefault(each.port, []).append(frozenset(instance.vips if instance else ()))
    found = set()
    for other in model.listeners.values():
        if other.port in vips:
            instance = model.instances.get(other.instance)
            theirs = frozenset(instance.vips if instance else ())
            if any(not ours or not theirs or ours & theirs for ours in vips[other.port]):
                found.add((Kind.LISTENERS, other.name))
    return found


def _redirected(model: Model, changed: Iterable[Listener], keys: Iterable[Key]) -> set[Key]:
    """The http listeners that lead to https listeners that have changed, and the https listeners that these lead to,
    and those of `keys`."""
    doors = {(each.instance, each.port) for each in changed if each.protocol is Protocol.HTTPS}
    leading = [each for each in model.listeners.values() if each.https_redirect_port]
    ours = {name for kind, name in keys if kind is Kind.LISTENERS}
    found = [each for each in leading if each.name in ours or (each.instance, each.https_redirect_port) in doors]
    wanted = {(each.instance, each.https_redirect_port) for each in found}
    if wanted:
        secure = (each for each in model.listeners.values() if each.protocol is Protocol.HTTPS)
        found += [each for each in secure if (each.instance, each.port) in wanted]
    return {(Kind.LISTENERS, each.name) for each in found}
