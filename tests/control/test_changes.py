"""The document after a change, made of the one before it."""

import pytest

from control.changes import change_document, document_after
from core.config import from_dict, to_dict
from core.model import Kind, RedirectMap
from core.plan import Change, Operation, plan

BEFORE = {
    "instances": [{"name": "a"}, {"name": "b", "vips": ["192.0.2.1"]}, {"name": "c"}],
    "server_groups": [{"name": "g"}],
}


def test_of_very_long_texts_the_lines_that_differ_are_shown() -> None:
    lines = [f"/old/{n} /new/{n}" for n in range(60_000)]
    old, new = (RedirectMap("m", entries="\n".join([*lines, each])) for each in ("/a /b", "/a /c"))
    found = change_document(Change(Operation.UPDATE, Kind.REDIRECT_MAPS, "m", old, new))
    assert found["old"] == {"name": "m", "entries": "/a /b\n# and 60,000 more lines"}
    assert found["new"] == {"name": "m", "entries": "/a /c\n# and 60,000 more lines"}
    found = change_document(Change(Operation.CREATE, Kind.REDIRECT_MAPS, "m", None, new))
    assert found["old"] is None
    assert str(found["new"]["entries"]).split("\n")[-2:] == ["/old/49 /new/49", "# and 59,951 more lines"]  # type: ignore[index]
    assert change_document(Change(Operation.DELETE, Kind.REDIRECT_MAPS, "m", old, None))["new"] is None
    short = RedirectMap("m", entries="/a /b")
    assert change_document(Change(Operation.UPDATE, Kind.REDIRECT_MAPS, "m", short, short))["new"] == {
        "name": "m", "entries": "/a /b",
    }  # fmt: skip


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        {},
        {"instances": [{"name": "a"}, {"name": "b"}, {"name": "c"}], "server_groups": [{"name": "g"}]},
        {"instances": [{"name": "c"}, {"name": "d"}, {"name": "a"}]},
        {
            "instances": [{"name": "c"}, {"name": "a"}, {"name": "b", "vips": ["192.0.2.1"]}],
            "server_groups": [{"name": "h"}],
        },
        {**BEFORE, "access_lists": [{"name": "l", "entries": ["10.0.0.0/8"]}]},
    ],
    ids=["same", "none", "update", "all kinds", "order alone", "new kind"],
)
def test_it_is_the_models_own(after: dict[str, object]) -> None:
    old, new = from_dict(BEFORE), from_dict(after)
    before = to_dict(old)
    assert document_after(before, new, plan(old, new)) == to_dict(new)
    assert before == to_dict(old), "the one before is left as it is"
