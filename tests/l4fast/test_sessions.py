"""Which sessions are asked for."""

from __future__ import annotations

import ipaddress
import socket
from types import SimpleNamespace

import pytest

from l4fast.sessions import STATES, End, Wanted, end


def word(address: str) -> bytes:
    return socket.inet_aton(address)


SIX = socket.inet_pton(socket.AF_INET6, "2001:db8::1")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("192.0.2.7", End(word("192.0.2.7"))),
        ("192.0.2.7:65535", End(word("192.0.2.7"), 0, 0xFFFF)),
        ("0.0.0.1:80", End(word("0.0.0.1"), 0, socket.htons(80))),
        ("192.0.2.0/24", End(word("192.0.2.0"), 8)),
        ("192.0.2.0/24:80", End(word("192.0.2.0"), 8, socket.htons(80))),
        ("2001:db8::1", End(SIX)),
        ("[2001:db8::1]:80", End(SIX, 0, socket.htons(80))),
        ("2001:DB8:0::/32", End(SIX[:-1] + b"\0", 96)),
        ("[2001:db8::/127]:80", End(SIX[:-1] + b"\0", 1, socket.htons(80))),
        ("0.0.0.0/0", End(bytes(4), 32)),
        ("::/0", End(bytes(16), 128)),
    ],
)
def test_an_end(text: str, wanted: End) -> None:
    assert end(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a", "1.2.3", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:1:2", "[::1]:0", "[::1", "::1]:80",
     "1.2.3.4/24", "1.2.3.0/33", "2001:db8::1/64", "[1.2.3.4]:80", "fe80::1%eth0", "[::1]"],
)  # fmt: skip
def test_no_end(text: str) -> None:
    with pytest.raises(ValueError, match="give"):
        end(text)


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.1.255", "192.0.3.0", "c000:200::"]),
        ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db9::", "2001:db7:ffff::", "32.1.13.184"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::", "::1"]),
        ("::/0", ["::", "ffff::"], ["0.0.0.0"]),
        ("::/96", ["::1.2.3.4"], ["1.2.3.4"]),
        ("2001:db8::1", ["2001:db8::1"], ["2001:db8::2"]),
    ],
)
def test_a_network_holds_addresses_of_its_own_version(network: str, inside: list[str], outside: list[str]) -> None:
    for port in ("", ":80"):
        wanted = end((f"[{network}]" if port and ":" in network else network) + port)
        for address in (*inside, *outside):
            packed = ipaddress.ip_address(address).packed
            assert wanted.matches(packed, socket.htons(80)) is (address in inside), address
            assert wanted.matches(packed, socket.htons(81)) is (address in inside and not port), address


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
