"""Files of members: what is read of them, and what is said of a bad one."""

from __future__ import annotations

import pytest

from core.errors import ConfigErrors
from core.member_file import MEMBERS_LIMIT, read
from core.model import Server

TOML = """
[[members]]
address = "10.0.0.31"
port = 80
zone = "a"
rack = "r1"

[[members]]
address = "2001:DB8::1"
port = 81
weight = 0
"""
FOUND = (Server("10.0.0.31", 80, 100, "a", "r1"), Server("2001:db8::1", 81, 0))


def test_both_forms_say_the_same() -> None:
    json = '{"members": [{"address": "10.0.0.31", "port": 80, "zone": "a", "rack": "r1"}, '
    json += '{"address": "2001:db8::1", "port": 81, "weight": 0}]}'
    assert read(TOML, path="f", format="toml") == read(json, path="f", format="json") == FOUND


def test_there_may_be_none() -> None:
    assert read("members = []", path="f", format="toml") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "f: members: members is missing; write [[members]], twice bracketed", id="empty"),
        pytest.param("members = 1", "f:1: members: 1 is not a list of tables; write", id="no-list"),
        pytest.param("memers = []", "f:1: memers: unknown key; did you mean members?", id="unknown"),
        pytest.param(TOML.replace("= 80", "= 70000"), "f:4: members[0].port: 70000 is out of range", id="port"),
        pytest.param(TOML.replace("port = 80\n", ""), "f:2: members[0]: port is missing", id="no-port"),
        pytest.param(TOML + TOML, "f:13: members[2]: 10.0.0.31:80 is in the list already, at position 0", id="twice"),
        pytest.param("[[members]\n", "f:1", id="syntax"),
        pytest.param("members = [" + "{}," * (MEMBERS_LIMIT + 1) + "]", "at most 4096 are kept", id="too-many"),
    ],
)
def test_what_is_said_of_a_bad_file(text: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read(text, path="f", format="toml")
    assert message in str(caught.value)


def test_json_with_a_key_given_twice() -> None:
    with pytest.raises(ConfigErrors, match="the key is given twice"):
        read('{"members": [], "members": []}', path="f", format="json")
