"""The matcher of access lists, against `ipaddress` network by network."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.prefixes import BITS, Prefixes, number

# Few bits vary, so that networks of all lengths lie within each other and side by side.
networks = st.builds(
    lambda version, bits, length: (
        str(ipaddress.IPv4Network((bits << 28 | bits & 0xF, length % 33), strict=False))
        if version == 4
        else str(ipaddress.IPv6Network((bits << 124 | bits & 0xF, length), strict=False))
    ),
    st.sampled_from((4, 6)), st.integers(0, 15), st.integers(0, 128),
)  # fmt: skip
ADDRESS = {4: ipaddress.IPv4Address, 6: ipaddress.IPv6Address}


@given(st.lists(networks, max_size=20), st.integers(0, (1 << 128) - 1))
def test_an_address_is_in_the_set_if_it_is_in_a_network(given_networks: list[str], address: int) -> None:
    for version, bits in BITS.items():
        prefixes = Prefixes.of(given_networks, version)
        parsed = [each for each in map(ipaddress.ip_network, given_networks) if each.version == version]
        edges = {int(n[at]) + by for n in parsed for at in (0, -1) for by in (-1, 0, 1)}
        for each in {address >> 128 - bits, *edges} - {-1, 1 << bits}:
            assert (each in prefixes) == any(ADDRESS[version](each) in network for network in parsed)


@given(st.lists(networks, max_size=20), st.sampled_from((4, 6)))
def test_the_networks_kept_do_not_overlap_and_were_all_given(given_networks: list[str], version: int) -> None:
    kept = [
        ipaddress.ip_network((ADDRESS[version](start), length))
        for start, length in Prefixes.of(given_networks, version)
    ]
    assert not [(a, b) for i, a in enumerate(kept) for b in kept[i + 1 :] if a.overlaps(b)]
    assert {str(each) for each in kept} <= {str(ipaddress.ip_network(each)) for each in given_networks}


def test_a_number() -> None:
    assert number("10.0.0.1") == 0x0A000001
    assert number("2001:db8::1") == 0x20010DB8000000000000000000000001
    assert number("fe80::1%eth0") == number("fe80::1")


@pytest.mark.parametrize(
    ("given_networks", "kept"),
    [
        ([], []),
        (["::/0", "2001:db8::/32", "10.0.0.0/8"], [("::", 0)]),
        (["2001:db8::1", "2001:db8::/127", "2001:db8::2"], [("2001:db8::", 127), ("2001:db8::2", 128)]),
        (["0.0.0.0/0", "10.0.0.0/8"], [("0.0.0.0", 0)]),
        (["10.1.0.0/16", "10.0.0.0/8", "10.255.255.255"], [("10.0.0.0", 8)]),
        (["10.0.0.1", "10.0.0.0/32"], [("10.0.0.0", 32), ("10.0.0.1", 32)]),
        (["255.255.255.255", "255.255.255.254"], [("255.255.255.254", 32), ("255.255.255.255", 32)]),
    ],
)
def test_what_lies_within_another_is_left_out(given_networks: list[str], kept: list[tuple[str, int]]) -> None:
    version = 6 if kept and ":" in kept[0][0] else 4
    prefixes = Prefixes.of(given_networks, version)
    assert list(prefixes) == [(number(address), length) for address, length in kept]
    assert len(prefixes) == len(kept)
    assert prefixes == Prefixes.of(reversed(given_networks), version)
