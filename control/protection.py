"""Instances that their owner has protected: what a change may not do to them. Pure.

`modification_protection` refuses every change of an instance, its listeners and their rules; `deletion_protection` that
any of them is deleted or taken elsewhere. Protection is lifted by a change that says so, which may be the very change
that it would have refused: whoever writes that means it. Backend services and groups belong to no instance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from core.fields import Kind
from core.forwarding import Rule
from core.model import Instance, Listener, Model, Object
from core.plan import Change, Operation, plan

MARKS = ("modification_protection", "deletion_protection")
SHOWN = 8


class ProtectedError(Exception):
    """A change of what is protected from it; the text has the remedy."""


def permit(before: Model, after: Model) -> None:
    """Raises ProtectedError if `after` may not follow `before`."""
    protected = [each for each in before.instances.values() if any(getattr(each, mark) for mark in MARKS)]
    if not protected:
        return
    changes = plan(before, after)
    refused = [text for instance in protected for text in _refused(instance, changes, before, after)]
    if refused:
        raise ProtectedError("; ".join(refused))


def _refused(instance: Instance, changes: tuple[Change, ...], before: Model, after: Model) -> Iterator[str]:
    then = after.instances.get(instance.name)
    touched = [each for each in changes if instance.name in (_owner(each.old, before), _owner(each.new, after))]
    removed = [each for each in touched if each.old is not None and _owner(each.new, after) != instance.name]
    for mark, wrong in zip(MARKS, (touched, removed), strict=True):
        lifted = then is not None and not getattr(then, mark)
        found = [each for each in wrong if _counts(each)]
        if getattr(instance, mark) and not lifted and found:
            listed = ", ".join(f"{each.op.value} {each.kind.value}/{each.name}" for each in found[:SHOWN])
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            how = "first" if then is None else "first or in the same request"
            yield f"instances/{instance.name} has {mark}, which refuses: {listed}{more}; set it to false {how}"


def _owner(item: Object | None, model: Model) -> str | None:
    """The name of the instance that an object belongs to."""
    match item:
        case Instance(name=name):
            return name
        case Listener(instance=name):
            return name
        case Rule(listener=name):
            listener = model.listeners.get(name)
            return None if listener is None else listener.instance
    return None


def _counts(change: Change) -> bool:
    """Whether it changes more than the marks themselves."""
    if change.kind is not Kind.INSTANCES or change.op is not Operation.UPDATE:
        return True
    assert isinstance(change.old, Instance)
    assert isinstance(change.new, Instance)
    marks = {mark: getattr(change.new, mark) for mark in MARKS}
    return dataclasses.replace(change.old, **marks) != change.new
