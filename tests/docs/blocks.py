"""The fenced blocks of a page, and the commands in them.

A block is a configuration (its fence names a language), a drawing (its lines are drawn), or commands and what they
print. In a block with lines that begin with `$ `, these are the commands and the others what the command before them
prints; in one without, all lines are commands. A command goes on in the next line after a backslash, within quotation
marks and in a here-document, as in a shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE: Final = re.compile(r"^( *)```([a-z]*)$")
_DRAWN: Final = re.compile(r"[─│┌└┬┴┐┘├┤▲▼►◄]")
_HERE: Final = re.compile(r"<<-?'?(\w+)'?")


@dataclass(frozen=True, slots=True)
class Step:
    """A command as it stands on the page, without its prompt, and what the page shows as its output."""

    command: str
    shown: str


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text.splitlines()[0] if self.text else ''}"

    @property
    def drawn(self) -> bool:
        """Whether it is a drawing: half of its lines or more have arrows or lines of their own."""
        lines = [bool(_DRAWN.search(line)) for line in self.text.splitlines()]
        return not self.language and 2 * sum(lines) >= len(lines)

    @property
    def steps(self) -> list[Step]:
        prompted = re.search(r"^\$ ", self.text, re.M) is not None
        found: list[Step] = []
        lines = iter(self.text.splitlines())
        for line in lines:
            if prompted and not line.startswith("$ "):
                assert found, f"{self}: output before a command"
                found[-1] = Step(found[-1].command, found[-1].shown + line + "\n")
            elif line.strip() and not line.startswith("#"):
                found.append(Step(_whole(line.removeprefix("$ "), lines), ""))
        return found


def _whole(command: str, lines: Iterator[str]) -> str:
    here = _HERE.search(command)
    while here is not None and command.splitlines()[-1] != here[1]:
        command += "\n" + next(lines)
    while here is None and _goes_on(command):
        command += "\n" + next(lines)
    return command


def _goes_on(command: str) -> bool:
    if command.endswith("\\"):
        return True
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            inside.append(line)
        elif opened is None:
            opened, inside = (number, fence[2], fence[1]), []
        else:
            text = "\n".join(each.removeprefix(opened[2]) for each in inside)
            found.append(Block(page.name, opened[0], opened[1], text))
            opened = None
    assert opened is None, f"{page.name}:{opened}: a block without end"
    return found
