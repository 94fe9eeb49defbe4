"""The JSON Schema of the model says what the reader does."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args

import pytest
import regress
from hypothesis import given, settings
from hypothesis import strategies as st

from core import fields as field_types
from core.acme import Acme
from core.choices import Role
from core.config import from_dict
from core.fields import Address, Kind, Pairs, Pattern, Range, Ref
from core.model import CLASSES, Listener, ServerGroup
from core.reader import fields, optional, split
from core.schema import schema


def patterns(cls: type, seen: set[type]) -> Iterator[Pattern]:
    if cls in seen:
        return
    seen.add(cls)
    for field in fields(cls):
        stack = [field.annotation]
        while stack:
            bare, constraints = split(stack.pop())
            yield from (each for each in constraints if isinstance(each, Pattern))
            inner = optional(bare)
            stack += [inner] if inner is not None else [each for each in get_args(bare) if each is not ...]
            if isinstance(bare, type) and is_dataclass(bare):
                yield from patterns(bare, seen)


SEEN: set[type] = set()
PATTERNS = sorted(
    {each.regex for cls in (*CLASSES.values(), Acme) for each in patterns(cls, SEEN) if "[\\s\\S]" not in each.regex}
)
CHARACTERS = "aZ09.-_/*?$#\\{}hostpathrestquery1: ,x\n\t\x00\x7fé٠\U0001f600\u2028"


@pytest.mark.parametrize("regex", PATTERNS, ids=range(len(PATTERNS)))
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_pattern_means_the_same_to_ecma_262(regex: str, data: st.DataObject) -> None:
    """Of what fits, what nearly fits and what does not."""
    theirs = regress.Regex(f"^(?:{regex})$", flags="u")
    fitting = st.from_regex(re.compile(regex), fullmatch=True).filter(lambda text: len(text) < 2000)
    text = data.draw(st.one_of(st.text(CHARACTERS, max_size=12), fitting))
    place = data.draw(st.integers(0, len(text)))
    other = data.draw(st.sampled_from(CHARACTERS))
    for each in (text, text + "\n", text[:place] + other + text[place:], text[:place] + other + text[place + 1 :]):
        assert (re.fullmatch(regex, each) is not None) == (theirs.find(each) is not None), each


def test_there_are_patterns() -> None:
    assert field_types.HOST_TEMPLATE.regex in PATTERNS
    assert field_types.CODES.regex in PATTERNS


@pytest.mark.parametrize(
    ("annotation", "wanted"),
    [
        (Annotated[int, Range(1, 9)], {"type": "integer", "minimum": 1, "maximum": 9}),
        (Annotated[float, Range(0.1, 9)], {"type": "number", "minimum": 0.1, "maximum": 9}),
        (bool, {"type": "boolean"}),
        (Annotated[str, Pattern("a|b", "")], {"type": "string", "pattern": "^(?:a|b)$"}),
        (Annotated[str, Pattern(r"[\s\S]{0,7}", "")], {"type": "string", "maxLength": 7}),
        (Annotated[str, Address(versions=(6,))], {"type": "string", "format": "ipv6"}),
        (Annotated[str, Ref(Kind.RULES)], {"type": "string", "x-paifang-kind": "rules"}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (Role | None, {"anyOf": [{"$ref": "#/components/schemas/Role"}, {"const": False}]}),
        (
            Annotated[tuple[tuple[str, str], ...], Pairs(Pattern("k", ""), Pattern("v", ""), 2)],
            {
                "type": "object",
                "propertyNames": {"type": "string", "pattern": "^(?:k)$"},
                "additionalProperties": {"type": "string", "pattern": "^(?:v)$"},
                "maxProperties": 2,
            },
        ),
        ({"a": {"$ref": "Role"}}, {"a": {"$ref": "#/components/schemas/Role"}}),
    ],
    ids=range(11),
)
def test_an_annotation_as_schema(annotation: object, wanted: dict[str, Any]) -> None:
    assert schema(annotation, {}) == wanted


def test_objects_have_their_fields_their_words_and_their_defaults() -> None:
    components: dict[str, Any] = {}
    schema(Listener, components)
    listener = components["Listener"]
    assert listener["required"] == ["port", "protocol"], "the short form needs no more, and the path has the name"
    assert listener["properties"]["idle_timeout_s"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 60,
        "default": 15,
        "description": "how long a connection may wait for its next request: a whole number from 1 to 60 s",
    }
    assert "default" not in listener["properties"]["access_list"], "none is not the empty name"
    assert listener["properties"]["servers"]["items"] == {"type": "string"}
    assert listener["additionalProperties"] is False
    schema(ServerGroup, components)
    assert components["Server"]["required"] == ["address"]
    assert "description" not in components["ServerGroup"], "what dataclasses make of no docstring is none"


def test_what_a_schema_leaves_out_the_reader_refuses() -> None:
    """A digit of another script: Python's \\d has it."""
    check = {"type": "http", "codes": "2٠٠"}
    service = {"name": "b", "protocol": "http", "server_group": "g", "health_check": check}
    with pytest.raises(Exception, match="does not fit"):
        from_dict({"server_groups": [{"name": "g"}], "backend_services": [service]})
