"""Text that does not parse is answered with the line and with what to write instead."""

from __future__ import annotations

import pytest

from core.errors import ConfigErrors
from core.syntax import REMEDIES, Format, parse


def fault(text: str, format: Format) -> tuple[int, str, str]:
    with pytest.raises(ConfigErrors) as caught:
        parse(text, path="f", format=format, repeated=[])
    (error,) = caught.value.errors
    return error.line, error.why, error.suggestion


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ("a = 1\na = 2\n", 2, "a key stands twice in one table; keep one of them"),
        ("[[a]]\n[a]\n", 2, "a list of tables is written [[KIND]]"),
        ("a = {b = 1}\na.c = 2\n", 2, "write the whole table in one place"),
        ("\na: 1\n", 2, "write KEY = VALUE"),
        ("- x\n", 1, "write KEY = VALUE"),
        ('a = "x" "y"\n', 1, "one KEY = VALUE a line"),
        ("a = 08\n", 1, "numbers have no leading zero"),
        ("[[a]\n", 1, "close the bracket"),
        ("a = https\n", 1, "strings stand in double quotes"),
        ("a = “x”\n", 1, "strings stand in double quotes"),
        ("a = True\n", 1, "true and false are written small"),
        ("a = {b = 1,}\n", 1, "remove the comma before }"),
        ("a = [1 2]\n", 1, "put a comma between items"),
        ("a = [1\nb = 2\n", 2, "close the list with ]"),
        ("a = {b = 1", 1, "close the table with }"),
        ("a = 'x", 1, "close the string"),
        ('a = """x', 1, "close the string"),
        ('a = "x\n', 1, "close the string on its line"),
        ('a = "C:\\q"\n', 1, "write \\\\ for a backslash"),
        ("= 1\n", 1, "a line is KEY = VALUE, [[KIND]]"),
        ('{"a": 1}', 1, "a name that ends in .json"),
    ],
)
def test_toml(text: str, line: int, remedy: str) -> None:
    found, why, suggestion = fault(text, "toml")
    assert found == line
    assert why.startswith("not TOML: ")
    assert remedy in suggestion


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ('{\n"a": 1,\n}', 3, "no comma before }"),
        ('{\n// a\n"a": 1}', 2, "no comments"),
        ("{'a': 1}", 1, "names stand in double quotes"),
        ('{"a": [1,]}', 1, "no comma before ]"),
        ('{"a": True}', 1, "true, false and null small"),
        ('{"a": 1\n"b": 2}', 2, "put a comma between items"),
        ('{"a": 1', 1, "close every bracket"),
        ('{"a" 1}', 1, 'write "NAME": VALUE'),
        ("{}}", 1, "one bracket too many"),
        ('{"a": "x\n"}', 1, "close the string on its line"),
        ('{"a": "C:\\q"}', 1, "write \\\\ for a backslash"),
        ('{"a": "x', 1, "check quotes, commas and brackets"),
        ("", 1, "the file is empty"),
        ("\n \n", 3, "the file is empty"),
        ('[[listeners]]\nport = "80"\n', 1, "a name that ends in .toml"),
        ("# mine\n", 1, "a name that ends in .toml"),
        ("port = 80", 1, "a name that ends in .toml"),
    ],
)
def test_json(text: str, line: int, remedy: str) -> None:
    found, why, suggestion = fault(text, "json")
    assert found == line
    assert why.startswith("not JSON: ")
    assert remedy in suggestion


@pytest.mark.parametrize("format", ["toml", "json"])
def test_every_message_has_a_remedy(format: Format) -> None:
    assert next(reversed(REMEDIES[format])) == "", "the last one is for all others"
    assert all(REMEDIES[format].values())


@pytest.mark.parametrize(("text", "format"), [("a = " + "[" * 5000, "toml"), ("[" * 100_000, "json")])
def test_bottomless_text(text: str, format: Format) -> None:
    assert "nested too deeply" in fault(text, format)[1]


@pytest.mark.parametrize(("text", "format"), [("a = " + "1" * 5000, "toml"), ("1" * 5000, "json")])
def test_endless_numbers(text: str, format: Format) -> None:
    assert "digits" in fault(text, format)[1]


def test_what_parses() -> None:
    repeated: list[str] = []
    assert parse('[[a]]\n\tb = "x"\r\n', path="f", format="toml", repeated=repeated) == {"a": [{"b": "x"}]}
    assert parse('{"a": 1, "a": 2}', path="f", format="json", repeated=repeated) == {"a": 2}
    assert "a" in repeated
