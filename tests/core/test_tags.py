"""Tags and descriptions: tables of strings, bounded, on objects of every kind."""

from __future__ import annotations

import pytest

from core.config import from_dict, load, to_dict, to_toml
from core.errors import ConfigErrors
from core.model import CLASSES, Kind
from core.reader import fields


def access_list(tags: object) -> dict[str, object]:
    return {"access_lists": [{"name": "office", "tags": tags}]}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_them(kind: Kind) -> None:
    assert {"description", "tags"} <= {field.name for field in fields(CLASSES[kind])}


def test_they_are_kept_by_key_and_written_as_a_table() -> None:
    model = from_dict(access_list({"team": "web", "a key": "", "env": 'pro"d'}))
    assert model.access_lists["office"].tags == (("a key", ""), ("env", 'pro"d'), ("team", "web"))
    assert to_dict(model) == access_list({"a key": "", "env": 'pro"d', "team": "web"})
    assert 'tags = { "a key" = "", env = "pro\\"d", team = "web" }' in to_toml(model)
    assert load(to_toml(model), path="f", format="toml") == model


def test_an_order_of_keys_is_no_difference() -> None:
    assert from_dict(access_list({"a": "1", "b": "2"})) == from_dict(access_list({"b": "2", "a": "1"}))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        pytest.param("web", "access_lists.office.tags: 'web' is not a table", id="no-table"),
        pytest.param([["a", "b"]], "access_lists.office.tags: a list is not a table", id="a-list"),
        pytest.param({"a": 1}, "access_lists.office.tags.a: 1 is not a string", id="a-number"),
        pytest.param({"a": "x" * 257}, "access_lists.office.tags.a: 'xxx", id="a-long-value"),
        pytest.param({"k" * 65: ""}, "access_lists.office.tags.kkk", id="a-long-key"),
        pytest.param({"": ""}, "access_lists.office.tags.", id="no-key"),
        pytest.param({"a": "1\n2"}, "access_lists.office.tags.a: '1\\n2' does not fit", id="two-lines"),
        pytest.param({f"k{n}": "" for n in range(21)}, "21 of them; at most 20 are kept; remove some", id="too-many"),
    ],
)
def test_what_does_not_fit_is_said(tags: object, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        from_dict(access_list(tags))
    assert message in str(caught.value)


def test_as_many_as_there_may_be() -> None:
    tags = {"k" * 63 + chr(97 + n): "v" * 256 for n in range(20)}
    assert dict(from_dict(access_list(tags)).access_lists["office"].tags) == tags


def test_a_fault_has_its_line() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load('[[access_lists]]\nname = "a"\n[access_lists.tags]\nok = "1"\nbad = 2\n', path="f", format="toml")
    assert str(caught.value).startswith("f:5: access_lists.a.tags.bad: 2 is not a string")


@pytest.mark.parametrize("text", ["x" * 257, "two\nlines"])
def test_a_description_is_one_line(text: str) -> None:
    with pytest.raises(ConfigErrors, match=r"access_lists\.office\.description: .* does not fit"):
        from_dict({"access_lists": [{"name": "office", "description": text}]})
