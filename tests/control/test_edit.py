import pytest

from control.edit import Edit, ExistsError, MissingError, Op, StaleError, Table, document, edited, merged
from control.preconditions import object_tag
from core.fields import Kind

DOCUMENT: dict[str, list[Table]] = {
    "instances": [{"name": "a", "vips": ["192.0.2.1"]}, {"name": "b"}],
    "rules": [{"name": "r"}],
}


def after(edits: list[Edit]) -> dict[str, list[Table]]:
    """The document after edits."""
    tables = {(Kind(kind), each["name"]): each for kind, items in DOCUMENT.items() for each in items}
    return document(DOCUMENT, edited(lambda kind, name: tables.get((kind, name)), edits))


def instance(op: Op, name: str, body: dict[str, object] | None = None, match: str | None = None) -> Edit:
    return Edit(op, Kind.INSTANCES, name, body, match)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
    ids=range(15),
)
def test_merge_patches(target: object, patch: object, result: object) -> None:
    assert merged(target, patch) == result


def test_edits_are_made_one_after_another_and_objects_keep_their_places() -> None:
    edits = [
        instance(Op.CREATE, "c", {"vips": []}),
        instance(Op.PATCH, "c", {"type": "nlb"}),
        instance(Op.PUT, "a", {"vips": []}),
        instance(Op.UPDATE, "b", {"name": "b", "type": "nlb"}),
        instance(Op.PATCH, "a", {"name": None}),
        Edit(Op.DELETE, Kind.RULES, "r"),
    ]
    assert after(edits) == {
        "instances": [{"name": "a", "vips": []}, {"name": "b", "type": "nlb"}, {"name": "c", "vips": [], "type": "nlb"}]
    }
    assert DOCUMENT["instances"][0] == {"name": "a", "vips": ["192.0.2.1"]}, "it is left as it is"


@pytest.mark.parametrize(
    ("edits", "error", "text"),
    [
        ([instance(Op.CREATE, "a", {})], ExistsError, "instances/a exists already"),
        ([instance(Op.UPDATE, "x", {})], MissingError, "there is no instances/x"),
        ([instance(Op.PATCH, "x", {})], MissingError, "there is no instances/x"),
        ([instance(Op.DELETE, "x")], MissingError, "there is no instances/x"),
        ([instance(Op.DELETE, "a"), instance(Op.PATCH, "a", {})], MissingError, "there is no instances/a"),
        ([instance(Op.PUT, "a", {}, "o1")], StaleError, "instances/a is another by now"),
        ([instance(Op.PUT, "x", {}, "o1")], MissingError, "there is no instances/x"),
    ],
    ids=range(7),
)
def test_what_cannot_be_done(edits: list[Edit], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        after(edits)


def test_an_edit_may_name_what_it_is_made_from() -> None:
    tag = object_tag(DOCUMENT["instances"][1])
    assert after([instance(Op.DELETE, "b", match=tag)])["instances"] == DOCUMENT["instances"][:1]
    with pytest.raises(StaleError) as caught:
        after([instance(Op.DELETE, "a", match=tag)])
    assert caught.value.current == object_tag(DOCUMENT["instances"][0])


def test_what_is_touched_is_told_and_no_more() -> None:
    edits = [
        instance(Op.CREATE, "c", {}),
        instance(Op.DELETE, "c"),
        instance(Op.DELETE, "a"),
        instance(Op.CREATE, "a", {"type": "nlb"}),
    ]
    found = edited(lambda kind, name: {"name": name} if name == "a" else None, edits)
    assert found == {(Kind.INSTANCES, "c"): None, (Kind.INSTANCES, "a"): {"name": "a", "type": "nlb"}}
    assert after(edits)["instances"][0] == {"name": "a", "type": "nlb"}, "it keeps its place"
