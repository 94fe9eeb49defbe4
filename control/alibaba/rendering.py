"""Answers as JSON and as XML, of one document. Pure.

A list stands in both under the name of one item within the name of all: {"Regions": {"Region": [{…}]}} is
<Regions><Region>…</Region></Regions>.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

JSON = "application/json; charset=utf-8"
XML = "text/xml; charset=utf-8"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>'


def rendered(root: str, document: Mapping[str, object], format: str) -> tuple[str, str]:
    """The text of an answer and its media type; `root` is the outermost element in XML."""
    if format == "JSON":
        return json.dumps(document, ensure_ascii=False), JSON
    return f"{HEAD}<{root}>{''.join(_members(document))}</{root}>", XML


def _members(document: Mapping[str, object]) -> Iterator[str]:
    for name, value in document.items():
        for each in value if isinstance(value, list) else [value]:
            yield f"<{name}>{_inner(each)}</{name}>"


def _inner(value: object) -> str:
    if isinstance(value, Mapping):
        return "".join(_members(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    # What XML 1.0 cannot have at all, not even escaped, is a blank.
    text = "".join(each if each >= " " or each in "\t\n\r" else " " for each in str(value))
    return escape(text)
