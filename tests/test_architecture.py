"""docs/architecture.md shows true ways: what it names is there, and each way leads through all that it names."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text()
NAMED = re.compile(r"`([a-z0-9_/]+\.(?:py|c|h))`")
PACKAGES = ("core", "l4fast", "proxy", "keyserver", "certs", "control", "deploy")
# Where a way begins: what is on it is imported from there, by whatever detours.
L4, L7 = ("l4fast/node.py",), ("proxy/node.py", "proxy/worker_main.py")
WAYS = {
    "The way of a packet": L4,
    "The way of a request": L7,
    "The way of a change": ("control/cli.py", "control/server.py", *L7, *L4),
}


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def named(text: str) -> list[str]:
    """Paths from the root: a name without a directory is in that of the one before it."""
    found, directory = [], ""
    for name in NAMED.findall(text):
        directory = name.rpartition("/")[0] or directory
        found.append(name if "/" in name else f"{directory}/{name}")
    return found


@cache
def imported(path: str) -> frozenset[str]:
    """The files of ours that a file imports."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        found |= {module.replace(".", "/") + ".py" for module in modules if module.split(".")[0] in PACKAGES}
    return frozenset(each for each in found if (ROOT / each).exists())


def reached(starts: tuple[str, ...]) -> set[str]:
    seen, ahead = set(starts), list(starts)
    while ahead:
        more = imported(ahead.pop()) - seen
        seen |= more
        ahead += more
    return seen


def test_every_file_named_is_there() -> None:
    names = named(PAGE)
    assert len(names) > 80
    assert [name for name in names if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("title", WAYS)
def test_a_way_leads_through_all_that_it_names(title: str) -> None:
    names = [name for name in named(section(title)) if name.endswith(".py")]
    assert len(names) > 15
    assert sorted(set(names) - reached(WAYS[title])) == []


def test_the_way_of_a_packet_has_every_file_of_the_program() -> None:
    included = re.findall(r'^#include "([a-z0-9_]+\.h)"', (ROOT / "l4fast/bpf/lb.c").read_text(), re.MULTILINE)
    shown = {name.removeprefix("l4fast/bpf/") for name in named(section("The way of a packet")) if name.endswith(".h")}
    assert shown == set(included)


def test_every_module_says_what_it_is_for() -> None:
    silent = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if text.strip() and not ast.get_docstring(ast.parse(text)):
                silent.append(str(path.relative_to(ROOT)))
    assert silent == []
