"""A change by a cloud's API: as one of the users' API is, checked as a whole and stored as a version."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from control import protection
from control.audit import Changed
from control.cloud.draft import Draft
from control.handling import after_edits
from control.material import key_errors
from control.service import ControlPlane
from core.model import Model

A = TypeVar("A")


class KeyInsideError(Exception):
    """An object of the change holds a private key."""


async def made(
    plane: ControlPlane, make: Callable[[Draft], A], author: str, comment: str, dry_run: bool = False
) -> tuple[Changed, A]:
    """Make it, from the current version: what the audit log is told, and what `make` answers.

    Raises what `make` raises, KeyInsideError, ConfigErrors, ProtectedError, EditError, StoreError.
    """
    answers: list[A] = []

    def changed(before: Model) -> Model:
        draft = Draft(before)
        answers.append(make(draft))
        if any(key_errors(each.body) for each in draft.edits if each.body is not None):
            raise KeyInsideError
        after = after_edits(before, draft.edits) if draft.edits else before
        protection.permit(before, after)
        return after

    version, changes = await plane.change(changed, author=author, comment=comment, expected=None, dry_run=dry_run)
    objects = tuple(f"{each.kind.value}/{each.name}" for each in changes)
    return Changed(version - 1 if changes else version, version, objects), answers[-1]
