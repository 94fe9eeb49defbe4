"""What is read fast is what `core.reader` reads; what it does not read has something unusual about it."""

import math
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import from_dict, to_dict
from core.model import CLASSES, Kind
from core.ordinary import ordinary
from core.reader import fields, read_object

TEXTS = (
    "", "a", "/a", "a.example", "*.example", "80", "192.0.2.1", "01.2.3.4", "0.0.0.0", "0.1.2.3", "224.0.0.1",
    "240.0.0.1", "255.255.255.255", "192.0.2.1\n", "192.0.2.0/24", "2001:db8::1", "2001:DB8::1", "::ffff:192.0.2.1",
    "unix:/run/a.sock", "http", "tcp", "udp", "alb", "l7", "insert", "wrr", "é", "\ud800", "a\nb", "x" * 300, "GET",
)  # fmt: skip
NUMBERS = (0, 1, 2, 80, 443, 65535, 65536, -1, 1 << 70, 0.0, 1.0, 2.5, 1e400, -1e400, math.nan)
scalars = st.one_of(
    st.sampled_from([*TEXTS, *NUMBERS, True, False, None]), st.text(max_size=3), st.integers(), st.floats()
)
keys = st.sampled_from(["name", "address", "port", "weight", "zone", "type", "cookie", "listener", "backend_service"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys | st.text(max_size=2), inner, max_size=4)
)


def of(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from([each.name for each in fields(CLASSES[kind])] + ["nam", ""])
    return st.dictionaries(names, values, max_size=4).map(lambda extra: {**ORDINARY[kind], **extra})


ORDINARY: dict[Kind, dict[str, Any]] = {
    Kind.NODES: {"name": "a", "role": "l4", "address": "192.0.2.1", "source_pool": ["192.0.2.2"]},
    Kind.CERTIFICATES: {"name": "a", "domains": ["a.example"], "tags": {"b": "1", "a": "2"}},
    Kind.CA_CERTIFICATES: {"name": "a", "bundle": "pem"},
    Kind.SERVER_GROUPS: {"name": "a", "servers": [{"address": "192.0.2.1", "port": 80, "weight": 0}]},
    Kind.AVAILABILITY_GROUPS: {"name": "a", "members": [], "dns": [{"name": "a.example", "type": "srv"}]},
    Kind.BACKEND_SERVICES: {
        "name": "a", "protocol": "http", "connect_timeout_s": 3, "health_check": {"type": "http", "interval_s": 2},
        "sticky_session": False, "ejection": {},
    },
    Kind.AUTHENTICATIONS: {
        "name": "a", "jwt": {"algorithms": ["ES256"], "claim_fields": {"b": "C", "a": "D"}, "leeway_s": 0},
        "basic": False,
    },
    Kind.ACCESS_LISTS: {"name": "a"},
    Kind.REDIRECT_MAPS: {"name": "a", "entries": "/a /b\n/c /d 302", "keep_query": False},
    Kind.INSTANCES: {"name": "a", "type": "nlb", "vips": ["192.0.2.1"], "deletion_protection": True},
    Kind.LISTENERS: {"name": "a", "instance": "b", "protocol": "tcp", "port": 80, "mode": "dr"},
    Kind.RULES: {"name": "a", "listener": "b", "url": "/c", "headers": [{"name": "x", "values": ["1"]}]},
}  # fmt: skip


@pytest.mark.parametrize("kind", Kind)
def test_what_is_ordinary_is_read(kind: Kind) -> None:
    table = ORDINARY[kind]
    found = ordinary(CLASSES[kind], table)
    assert found is not None
    assert found == read_object(CLASSES[kind], table, (), [])


@pytest.mark.parametrize("kind", Kind)
@given(data=st.data())
def test_it_reads_nothing_else_than_the_reader_does(kind: Kind, data: st.DataObject) -> None:
    table = data.draw(of(kind))
    found = ordinary(CLASSES[kind], table)
    if found is not None:
        problems: list[Any] = []
        wanted = read_object(CLASSES[kind], table, (), problems)
        assert not problems
        assert found == wanted
        assert repr(found) == repr(wanted), "of the same types too: 1 is equal to 1.0 and to True"


@pytest.mark.parametrize(
    "table",
    [
        None, [], "a", {}, {"name": "a"}, {**ORDINARY[Kind.NODES], "nam": 1}, OrderedDict(ORDINARY[Kind.NODES]),
        {**ORDINARY[Kind.NODES], "role": []}, {**ORDINARY[Kind.NODES], "role": "L4"},
        {**ORDINARY[Kind.NODES], "health_port": True}, {**ORDINARY[Kind.NODES], "health_port": 1.0},
        {**ORDINARY[Kind.NODES], "health_port": 0}, {**ORDINARY[Kind.NODES], "source_pool": "192.0.2.1"},
        {**ORDINARY[Kind.NODES], "address": "2001:DB8::1"}, {**ORDINARY[Kind.NODES], "description": "é"},
        {**ORDINARY[Kind.NODES], "tags": {str(n): "" for n in range(21)}}, {1: 2},
    ],
)  # fmt: skip
def test_what_is_unusual_is_left_to_the_reader(table: object) -> None:
    assert ordinary(CLASSES[Kind.NODES], table) is None


def test_configurations_have_both() -> None:
    """An address that is written in another form stands beside others, and is brought into its form."""
    servers = [{"address": "2001:DB8::1", "port": 80}, {"address": "192.0.2.1", "port": 80}]
    model = from_dict({"server_groups": [{"name": "a", "servers": servers}, {"name": "b", "servers": servers[1:]}]})
    assert [each.address for each in model.server_groups["a"].servers] == ["2001:db8::1", "192.0.2.1"]
    assert from_dict(to_dict(model)) == model
