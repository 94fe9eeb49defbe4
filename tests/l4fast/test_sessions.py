"""Which sessions are asked for."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from l4fast.sessions import STATES, Wanted, end


def word(address: str) -> bytes:
    return socket.inet_aton(address)


def test_an_end() -> None:
    assert end("192.0.2.7") == (word("192.0.2.7"), None)
    assert end("192.0.2.7:65535") == (word("192.0.2.7"), 0xFFFF)
    assert end("0.0.0.1:80") == (word("0.0.0.1"), socket.htons(80))
    assert end("2001:db8::1") == (socket.inet_pton(socket.AF_INET6, "2001:db8::1"), None)
    assert end("[2001:db8::1]:80") == (socket.inet_pton(socket.AF_INET6, "2001:db8::1"), socket.htons(80))


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a", "1.2.3", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:1:2", "[::1]:0", "[::1", "::1]:80"],
)
def test_no_end(text: str) -> None:
    with pytest.raises(ValueError, match="give"):
        end(text)


def test_from_a_request() -> None:
    assert Wanted.of({}) == Wanted.of({"client": None, "vip": "", "limit": 7}) == Wanted()
    assert Wanted.of({"vip": "192.0.2.7:80", "state": "udp"}) == Wanted(vip="192.0.2.7:80", state="udp")
    for wrong, why in (
        ({"state": "open"}, "'open' is no state; give established"),
        ({"real": "x"}, "'x': give an address"),
        ({"client": 5}, "client is a text"),
    ):
        with pytest.raises(ValueError, match=why):
            Wanted.of(wrong)


KEY = SimpleNamespace(
    client=word("192.0.2.7"), client_port=socket.htons(5000), vip=word("192.0.2.10"), vip_port=socket.htons(80)
)
VALUE = SimpleNamespace(real=word("10.0.0.1"), real_port=socket.htons(8080), state=STATES.index("fin-wait"))


@pytest.mark.parametrize("name", ["client", "vip", "real"])
def test_all_that_is_given_has_to_agree(name: str) -> None:
    ends = {"client": "192.0.2.7:5000", "vip": "192.0.2.10:80", "real": "10.0.0.1:8080"}
    address, _, _ = ends[name].partition(":")
    assert Wanted(**ends, state="fin-wait").matcher().matches(KEY, VALUE)
    assert Wanted(**ends | {name: address}).matcher().matches(KEY, VALUE)
    for other in (f"{address}:1", "192.0.2.8", f"192.0.2.8:{ends[name].partition(':')[2]}"):
        assert not Wanted(**ends | {name: other}).matcher().matches(KEY, VALUE)
    assert not Wanted(**ends, state="closed").matcher().matches(KEY, VALUE)
