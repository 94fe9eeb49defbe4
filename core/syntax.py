"""A configuration's text → plain data, and what to do about text that is neither TOML nor JSON.

The parsers of the standard library say what they met, in the words of their grammars. `REMEDIES` adds what to write
instead: for each, the beginning of the parser's message and the remedy.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Final, Literal

from core.errors import ConfigError, ConfigErrors

Format = Literal["toml", "json"]

REMEDIES: Final[Mapping[Format, Mapping[str, str]]] = {
    "toml": {
        "Cannot overwrite": "a key stands twice in one table; keep one of them",
        "Cannot declare": "a list of tables is written [[KIND]], twice bracketed, and any other table once",
        "Cannot mutate": "write the whole table in one place",
        "Expected '=' after a key": "write KEY = VALUE",
        "Expected newline": "one KEY = VALUE a line; strings stand in double quotes, and numbers have no leading zero",
        "Expected ']": "close the bracket; a list of tables is written [[KIND]]",
        "Invalid value": "strings stand in double quotes; true and false are written small",
        "Invalid initial character": "remove the comma before }",
        "Unclosed array": "put a comma between items, and close the list with ]",
        "Unclosed inline": "close the table with }, on the same line",
        'Expected "\'"': "close the string with the quote that opened it",
        "Unterminated string": "close the string with the quotes that opened it",
        "Illegal character": "close the string on its line; a line break in it is written \\n",
        "Unescaped '\\'": "write \\\\ for a backslash, or put the string in single quotes",
        "": "a line is KEY = VALUE, [[KIND]] or # and a comment",
    },
    "json": {
        "Expecting property name": "names stand in double quotes; no comma before }, and no comments",
        "Expecting ',' delimiter": "put a comma between items, and close every bracket",
        "Expecting ':'": 'write "NAME": VALUE',
        "Expecting value": "no comma before ], no comments; strings in double quotes; true, false and null small",
        "Extra data": "there is one bracket too many, or a second document",
        "Invalid control": "close the string on its line; a line break in it is written \\n",
        "Invalid \\escape": "write \\\\ for a backslash",
        "": "check quotes, commas and brackets",
    },
}
_IS_JSON: Final = "this looks like JSON: give the file a name that ends in .json"
_IS_TOML: Final = "this looks like TOML: give the file a name that ends in .toml"
_IS_EMPTY: Final = "the file is empty; the least is {}"
_POSITION: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def parse(text: str, *, path: str, format: Format, repeated: list[str]) -> object:
    """The document as plain data. JSON lets a key stand twice; `repeated` is not empty then. Raises ConfigErrors."""

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(items)
        if len(table) < len(items):
            repeated.extend(key for key, _ in items)
        return table

    def fault(line: int, why: str, remedy: str = "") -> ConfigErrors:
        return ConfigErrors([ConfigError(path, line, "", f"not {format.upper()}: {why}", remedy)])

    try:
        return tomllib.loads(text) if format == "toml" else json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise fault(error.lineno, error.msg, _remedy("json", error.msg, text)) from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _POSITION.search(message)
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        why = message[: place.start()] if place else message
        raise fault(line, why, _remedy("toml", why, text)) from None
    except ValueError as error:  # a number of more than 4,300 digits
        raise fault(0, str(error)) from None
    except RecursionError:
        raise fault(0, "it is nested too deeply") from None


def _remedy(format: Format, message: str, text: str) -> str:
    start = text.lstrip()
    if format == "toml" and start.startswith("{"):
        return _IS_JSON
    if format == "json" and not start:
        return _IS_EMPTY
    if format == "json" and re.match(r"#|\[\[|[\w-]+\s*=", start):
        return _IS_TOML
    return next(remedy for words, remedy in REMEDIES[format].items() if message.startswith(words))
