"""The document after a change, made of the one before it."""

import pytest

from control.changes import document_after
from core.config import from_dict, to_dict
from core.plan import plan

BEFORE = {
    "instances": [{"name": "a"}, {"name": "b", "vips": ["192.0.2.1"]}, {"name": "c"}],
    "server_groups": [{"name": "g"}],
}


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
