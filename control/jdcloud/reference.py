"""The table of actions of docs/jdcloud.md, made of the table that serves them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from control.jdcloud.actions import ACTIONS
from control.jdcloud.call import Action

HEAD = ("| action | role | supported | |", "|---|---|---|---|")


def rows() -> Iterator[str]:
    """The table's lines. Fields that an action refuses are said beside what it lacks."""
    yield from HEAD
    for action in ACTIONS.values():
        supported = "no" if action.cannot else "partly" if action.partly or _refused(action) else "yes"
        role = "" if action.cannot else f"`{action.role.value}`"
        yield f"| `{action.name}` | {role} | {supported} | {_remarks(action)} |"


def _remarks(action: Action) -> str:
    refused = _refused(action)
    told = [action.cannot or action.partly, f"refused: {', '.join(refused)}" if refused else ""]
    return "; ".join(each for each in told if each)


def _refused(action: Action) -> list[str]:
    return [f"`{each.name}`" for each in action.fields if each.refused]


if __name__ == "__main__":
    print("\n".join(rows()))
