"""The table of actions that a cloud's page has, made of the table that serves them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from control.cloud.action import Action, C

HEAD = ("| action | role | supported | |", "|---|---|---|---|")


def rows(actions: Iterable[Action[C]]) -> Iterator[str]:
    """The table's lines. Fields that an action refuses are said beside what it lacks."""
    yield from HEAD
    for action in actions:
        supported = "no" if action.cannot else "partly" if action.partly or action.refuses else "yes"
        role = "" if action.cannot else f"`{action.role.value}`"
        refused = ", ".join(f"`{each}`" for each in action.refuses)
        told = [action.cannot or action.partly, f"refused: {refused}" if refused else ""]
        yield f"| `{action.name}` | {role} | {supported} | {'; '.join(each for each in told if each)} |"
