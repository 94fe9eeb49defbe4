"""The matcher of access lists, against `ipaddress` network by network."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.prefixes import Prefixes, number

# Few bits vary, so that networks of all lengths lie within each other and side by side.
networks = st.builds(
    lambda bits, length: str(ipaddress.ip_network((bits << 28 | bits & 0xF, length), strict=False)),
    st.integers(0, 15), st.integers(0, 32),
)  # fmt: skip


@given(st.lists(networks, max_size=20), st.integers(0, 0xFFFFFFFF))
def test_an_address_is_in_the_set_if_it_is_in_a_network(given_networks: list[str], address: int) -> None:
    prefixes = Prefixes.of(given_networks)
    parsed = [ipaddress.ip_network(network) for network in given_networks]
    edges = {int(n[at]) + by for n in parsed for at in (0, -1) for by in (-1, 0, 1)}
    for each in {address, *edges} - {-1, 1 << 32}:
        assert (each in prefixes) == any(ipaddress.ip_address(each) in network for network in parsed)


@given(st.lists(networks, max_size=20))
def test_the_networks_kept_do_not_overlap_and_were_all_given(given_networks: list[str]) -> None:
    kept = [ipaddress.ip_network(each) for each in Prefixes.of(given_networks)]
    assert not [(a, b) for i, a in enumerate(kept) for b in kept[i + 1 :] if a.overlaps(b)]
    assert {str(each) for each in kept} <= {str(ipaddress.ip_network(each)) for each in given_networks}


@pytest.mark.parametrize(
    ("given_networks", "kept"),
    [
        ([], []),
        (["0.0.0.0/0", "10.0.0.0/8"], [("0.0.0.0", 0)]),
        (["10.1.0.0/16", "10.0.0.0/8", "10.255.255.255"], [("10.0.0.0", 8)]),
        (["10.0.0.1", "10.0.0.0/32"], [("10.0.0.0", 32), ("10.0.0.1", 32)]),
        (["255.255.255.255", "255.255.255.254"], [("255.255.255.254", 32), ("255.255.255.255", 32)]),
    ],
)
def test_what_lies_within_another_is_left_out(given_networks: list[str], kept: list[tuple[str, int]]) -> None:
    prefixes = Prefixes.of(given_networks)
    assert list(prefixes) == [(number(address), length) for address, length in kept]
    assert len(prefixes) == len(kept)
    assert prefixes == Prefixes.of(reversed(given_networks))
