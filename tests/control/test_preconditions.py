import pytest

from control.preconditions import Conditions, MalformedTagError, PreconditionError, Tags, object_tag


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("*", Tags(every=True)),
        (" * ", Tags(every=True)),
        ('"7"', Tags(strong=frozenset({"7"}))),
        ('"a", "b"', Tags(strong=frozenset({"a", "b"}))),
        ('"a",,"b",', Tags(strong=frozenset({"a", "b"}))),
        ('W/"a", "b"', Tags(strong=frozenset({"b"}), weak=frozenset({"a"}))),
        ('""', Tags(strong=frozenset({""}))),
        ('"a,b"', Tags(strong=frozenset({"a,b"}))),
    ],
)
def test_tags_of_a_header(header: str, tags: Tags) -> None:
    assert Tags.parse(header) == tags


@pytest.mark.parametrize("header", ["", "7", '"7', '7"', '"a" "b"', '*, "a"', 'w/"a"', '"a"x', '"a\x00"', ",", '"a b"'])
def test_what_is_no_tag(header: str) -> None:
    with pytest.raises(MalformedTagError):
        Tags.parse(header)


@pytest.mark.parametrize(
    ("headers", "tags", "exists", "permitted"),
    [
        ({}, ("o1", "7"), True, True),
        ({}, ("7",), False, True),
        ({"If-Match": '"o1"'}, ("o1", "7"), True, True),
        ({"If-Match": '"7"'}, ("o1", "7"), True, True),
        ({"If-Match": '"x", "o1"'}, ("o1", "7"), True, True),
        ({"If-Match": '"x"'}, ("o1", "7"), True, False),
        ({"If-Match": 'W/"o1"'}, ("o1", "7"), True, False),
        ({"If-Match": "*"}, ("o1", "7"), True, True),
        ({"If-Match": "*"}, ("7",), False, False),
        ({"If-None-Match": "*"}, ("o1", "7"), True, False),
        ({"If-None-Match": "*"}, ("7",), False, True),
        ({"If-None-Match": 'W/"o1"'}, ("o1", "7"), True, False),
        ({"If-None-Match": '"x"'}, ("o1", "7"), True, True),
        ({"If-Match": '"o1"', "If-None-Match": "*"}, ("o1", "7"), True, False),
    ],
)
def test_whether_a_write_is_permitted(
    headers: dict[str, str], tags: tuple[str, ...], exists: bool, permitted: bool
) -> None:
    conditions = Conditions.of(headers)
    if permitted:
        conditions.permit(tags, exists, "rules/r")
        return
    with pytest.raises(PreconditionError, match="rules/r") as caught:
        conditions.permit(tags, exists, "rules/r")
    assert caught.value.current == tags[0]


@pytest.mark.parametrize(
    ("headers", "unchanged"),
    [
        ({}, False),
        ({"If-None-Match": '"7"'}, True),
        ({"If-None-Match": 'W/"7"'}, True),
        ({"If-None-Match": '"6"'}, False),
        ({"If-None-Match": "*"}, True),
        ({"If-Match": '"7"'}, False),
    ],
)
def test_whether_a_reader_has_it(headers: dict[str, str], unchanged: bool) -> None:
    assert Conditions.of(headers).unchanged("7") is unchanged


def test_a_tag_is_of_what_is_said_and_no_number() -> None:
    assert object_tag({"a": 1, "b": [2]}) == object_tag({"b": [2], "a": 1})
    assert object_tag({"a": 1}) != object_tag({"a": 2})
    assert object_tag({"a": 1}).startswith("o")
    assert len(object_tag({})) == 25
