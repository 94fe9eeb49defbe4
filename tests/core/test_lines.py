"""Documents are written with the line of every value noted, and the scanner has to find exactly these lines."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Path
from core.lines import scan

# What strings and comments may hold to mislead a scanner.
TRICKY = st.text(st.sampled_from(list("ab1 #[]{},=.:'\"\\\n\té")), max_size=6)
BARE_KEY = st.text(st.sampled_from(list("abc12-_")), min_size=1, max_size=3)
SCALARS = TRICKY | st.integers(-9, 99) | st.booleans() | st.just(1.5)


class Writer:
    """Builds a document's text and notes the line of each path, the first mention counting."""

    def __init__(self) -> None:
        self.text = ""
        self.lines: dict[Path, int] = {}

    def write(self, text: str) -> None:
        self.text += text

    def mark(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)


def paths(value: Any, path: Path = ()) -> set[Path]:
    """Every path of parsed data."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return {(*path, key) for key, _ in items}.union(*(paths(item, (*path, key)) for key, item in items))


# --- JSON

JSON_VALUES = st.recursive(
    SCALARS | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=12,
)


def write_json(out: Writer, value: Any, path: Path, data: st.DataObject) -> None:
    def blank() -> None:
        out.write(data.draw(st.sampled_from(["", " ", "\n", " \r\n\t"])))

    if not isinstance(value, dict | list):
        out.write(json.dumps(value, ensure_ascii=data.draw(st.booleans())))
        return
    out.write("{" if isinstance(value, dict) else "[")
    for number, key in enumerate(value if isinstance(value, dict) else range(len(value))):
        out.write("," if number else "")
        blank()
        out.mark((*path, key))
        if isinstance(value, dict):
            out.write(json.dumps(key))
            blank()
            out.write(":")
            blank()
        write_json(out, value[key], (*path, key), data)
        blank()
    out.write("}" if isinstance(value, dict) else "]")


@given(JSON_VALUES, st.data())
def test_every_path_of_a_json_document_has_its_line(value: Any, data: st.DataObject) -> None:
    out = Writer()
    out.write(data.draw(st.sampled_from(["", "\n\n"])))
    write_json(out, value, (), data)
    assert json.loads(out.text) == value
    lines = scan(out.text, "json")
    assert lines.of == out.lines
    assert set(lines.of) == paths(value)
    assert lines.repeated == []


def test_a_repeated_key_of_a_json_object_is_told_with_its_line() -> None:
    lines = scan('{"a": [{"b": 1,\n "c": 2,\n "b": 3}],\n "a": 1}', "json")
    assert lines.repeated == [(("a", 0, "b"), 3), (("a",), 4)]


# --- TOML

TOML_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(BARE_KEY | TRICKY, inner, max_size=2),
    max_leaves=6,
)


def toml_text(text: str, data: st.DataObject, inline: bool) -> str:
    """A string in one of TOML's four forms."""
    basic = json.dumps(text)
    forms = [basic]
    if not any(character in text for character in "'\n"):
        forms.append(f"'{text}'")
    if not inline:
        forms.append(f'"""{basic[1:-1]}"""')
        forms.append('"""\n' + "\n".join(json.dumps(line)[1:-1] for line in text.split("\n")) + '"""')
        if "'" not in text:
            forms.append(f"'''\n{text}'''")
    return data.draw(st.sampled_from(forms))


def toml_key(key: str, data: st.DataObject) -> str:
    bare = key != "" and all(character.isascii() and (character.isalnum() or character in "-_") for character in key)
    return key if bare and data.draw(st.booleans()) else toml_text(key, data, inline=True)


def write_toml(out: Writer, value: Any, path: Path, data: st.DataObject, inline: bool = False) -> None:
    """A value after the equals sign. Inline tables stay on one line, lists need not."""
    if isinstance(value, str):
        out.write(toml_text(value, data, inline))
    elif isinstance(value, list):
        out.write("[")
        for index, item in enumerate(value):
            out.write(data.draw(st.sampled_from(["", " "] if inline else ["", "\n", " # ]'\"\n\n"])))
            out.mark((*path, index))
            write_toml(out, item, (*path, index), data, inline)
            out.write(", " if index < len(value) - 1 else "")
        out.write("]" if inline else data.draw(st.sampled_from(["]", "\n]", "# ]\n]"])))
    elif isinstance(value, dict):
        out.write("{")
        for number, (key, item) in enumerate(value.items()):
            out.write(", " if number else " ")
            out.mark((*path, key))
            out.write(f"{toml_key(key, data)} = ")
            write_toml(out, item, (*path, key), data, inline=True)
        out.write(" }")
    else:
        out.write(json.dumps(value))


@given(st.data())
def test_every_path_of_a_toml_document_has_its_line(data: st.DataObject) -> None:
    out = Writer()
    tables = data.draw(st.lists(st.tuples(st.sampled_from(["x", "y z"]), TABLE), max_size=4))
    for key, item in data.draw(TABLE).items():
        write_pair(out, ("top " + key,), item, data)
    counts: dict[str, int] = {}
    for name, table in tables:
        index = counts[name] = counts.get(name, -1) + 1
        out.mark((name,))
        out.mark((name, index))
        out.write(f"[[ {toml_key(name, data)} ]]" + data.draw(LINE_END))
        for key, item in table.items():
            write_pair(out, (name, index, key), item, data)
        for number in range(data.draw(st.integers(0, 2))):
            out.mark((name, index, "sub"))
            out.mark((name, index, "sub", number))
            out.write(f"  [[{toml_key(name, data)}.sub]]" + data.draw(LINE_END))
            write_pair(out, (name, index, "sub", number, "v"), data.draw(TOML_VALUES), data)
        if data.draw(st.booleans()):
            out.mark((name, index, "deep"))
            out.mark((name, index, "deep", "er"))
            out.write(f"[{toml_key(name, data)} . deep.'er']" + data.draw(LINE_END))
            write_pair(out, (name, index, "deep", "er", "dotted", "k"), data.draw(TOML_VALUES), data, "dotted . ")
    parsed = tomllib.loads(out.text)
    lines = scan(out.text, "toml")
    assert lines.of == out.lines
    assert set(lines.of) == paths(parsed)


TABLE = st.dictionaries(TRICKY, TOML_VALUES, max_size=3)
LINE_END = st.sampled_from(["\n", " # [[no]]\n", "\n\n", "\r\n"])


def write_pair(out: Writer, path: Path, item: Any, data: st.DataObject, prefix: str = "") -> None:
    out.write(data.draw(st.sampled_from(["", "  ", "# k = '''\n"])))
    if prefix:
        out.mark(path[:-1])
    out.mark(path)
    out.write(f"{prefix}{toml_key(str(path[-1]), data)} = ")
    write_toml(out, item, path, data)
    out.write(data.draw(LINE_END))


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ('a = """x""""\nb = 1', ("b",), 2),  # a string that ends in a quote of its own
        ("a = ''''x'''''\nb = 1", ("b",), 2),
        ('a = """\\\n\n  "" \\""""\nb = 1', ("b",), 4),
        ("a = {}\nb = 1", ("b",), 2),
        ("a = [ # ]\n\n  {x = 1}]", ("a", 0, "x"), 3),
        ("[a]\n[a.b]\nc = 1979-05-27 07:32:00.5\nd = 1.5e3", ("a", "b", "d"), 4),
        ("[[a]]\n[[a]]\n[[a]]", ("a", 2), 3),
    ],
)
def test_corners_of_toml(text: str, path: Path, line: int) -> None:
    assert paths(tomllib.loads(text)) == set(scan(text, "toml").of)
    assert scan(text, "toml").of[path] == line


def test_a_path_that_the_document_lacks_has_the_line_of_what_is_around_it() -> None:
    lines = scan("[[listeners]]\nname = 'a'\n[[listeners]]\n", "toml")
    assert lines.line(("listeners", 1, "port")) == 3
    assert lines.line(("nodes",)) == 0
