"""Where each value of a document stands: its path → the line of its key (in a list: of its first character).

`tomllib` and `json` give no lines. The scanner here reads a document *that has parsed already*, so it may be lax: it
knows strings, brackets, comments and keys, and nothing of numbers or dates. It does not recurse, so that no depth of
nesting hurts. What several lines mention (a table that many headers open) has the line that mentions it first.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from core.errors import Path

_JSON_TOKEN = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")|(?P<newline>\n)|(?P<mark>[\[\]{},:])|(?P<bare>[^\s\[\]{},:"]+)', re.DOTALL
)
# Multi-line strings may end in up to two quotes of their own (TOML 1.0.0, "String").
_TOML_TOKEN = re.compile(
    r'(?P<string>"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*')"
    r"|(?P<comment>\#[^\n]*)|(?P<newline>\n)|(?P<mark>[\[\]{},=.])"
    r"|(?P<bare>[^\s\[\]{},=.\"'#]+)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a document's values. `repeated` holds keys given again in one object: path and line of each."""

    of: dict[Path, int] = field(default_factory=dict)
    repeated: list[tuple[Path, int]] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """The line of a path, else of the nearest thing around it that the document has; 0 if there is none."""
        return next((self.of[path[:size]] for size in range(len(path), 0, -1) if path[:size] in self.of), 0)


@dataclass(slots=True)
class _Container:
    """An object or a list being scanned: `key` is the current key in parts, `index` the current position."""

    path: Path
    is_list: bool
    key: tuple[str, ...] = ()
    in_value: bool = False
    index: int = 0

    @property
    def slot(self) -> Path:
        return (*self.path, self.index) if self.is_list else (*self.path, *self.key)

    def next(self) -> None:
        self.key, self.in_value = (), False
        self.index += 1


def scan(text: str, format: Literal["toml", "json"]) -> Lines:
    """The lines of every path in `text`, which has to be valid."""
    return _scan_toml(text) if format == "toml" else _scan_json(text)


def _tokens(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and line of each word, without blanks and comments."""
    line = 1
    for match in pattern.finditer(text):
        word = match[0]
        if match.lastgroup != "comment":
            yield match.lastgroup or "", word, line
        line += word.count("\n")


def _scan_json(text: str) -> Lines:
    lines = Lines()
    root = _Container((), is_list=False, in_value=True)
    stack = [root]
    for kind, word, line in _tokens(_JSON_TOKEN, text):
        top = stack[-1]
        if kind == "newline":
            continue
        if word in ("}", "]"):
            stack.pop()
        elif word == ",":
            top.next()
        elif word == ":":
            top.in_value = True
        elif top.is_list or top.in_value:
            _value(stack, word, line, lines)
        else:
            top.key = (json.loads(word),)
            if top.slot in lines.of:
                lines.repeated.append((top.slot, line))
            lines.of.setdefault(top.slot, line)
    return lines


def _value(stack: list[_Container], word: str, line: int, lines: Lines) -> None:
    """A word in the place of a value: notes a list's item, and opens what opens."""
    top = stack[-1]
    if top.is_list:
        lines.of.setdefault(top.slot, line)
    if word in ("{", "["):
        stack.append(_Container(top.slot, is_list=word == "["))


def _scan_toml(text: str) -> Lines:
    lines = Lines()
    tables: dict[Path, int] = {}  # arrays of tables: how many each has so far
    root = _Container((), is_list=False)
    stack = [root]
    header: list[str] | None = None  # the tokens of a header's line
    for kind, word, line in _tokens(_TOML_TOKEN, text):
        top = stack[-1]
        if kind == "newline":
            if header is not None:
                root.path, header = _open(header, line, tables, lines), None
            if top is root:
                root.next()
        elif header is not None:
            header.append(word)
        elif top is root and word == "[" and not root.in_value:
            header = [word]
        elif top.is_list or top.in_value:
            if word in ("}", "]"):
                stack.pop()
            elif word == "," and top is not root:
                top.next()
            else:
                _value(stack, word, line, lines)
        elif word == "}":  # an empty inline table
            stack.pop()
        elif word == "=":
            top.in_value = True
        elif word != ".":
            top.key = (*top.key, _toml_key(word))
            lines.of.setdefault(top.slot, line)
    if header is not None:
        _open(header, text.count("\n") + 1, tables, lines)
    return lines


def _open(header: list[str], line: int, tables: dict[Path, int], lines: Lines) -> Path:
    """The path of the table that a header opens: ["[", "[", "a", ".", "b", "]", "]"] is the next one of a.b."""
    is_array = header[:2] == ["[", "["]
    *outer, last = (_toml_key(word) for word in header if word not in ("[", "]", "."))
    path: Path = ()
    for key in outer:
        path = (*path, key)
        lines.of.setdefault(path, line)
        if path in tables:
            path = (*path, tables[path] - 1)
    path = (*path, last)
    lines.of.setdefault(path, line)
    if is_array:
        tables[path] = tables.get(path, 0) + 1
        path = (*path, tables[path] - 1)
        lines.of.setdefault(path, line)
    return path


def _toml_key(word: str) -> str:
    if word[0] not in "\"'":
        return word
    key: str = tomllib.loads(f"k = {word}")["k"]
    return key
