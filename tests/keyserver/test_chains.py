"""Chains by server name."""

import pytest

from keyserver.chains import MAX_FOUND, MAX_FOUND_BYTES, Chain, Chains, answer

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))
EC = Chain(A, ("Shop.test", "www.shop.test"), 100, "ec")
RSA = Chain(B, ("shop.test",), 100, "rsa")
WILD = Chain(C, ("*.shop.test", "10.0.0.1"), 100, "wild")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("shop.test", [EC, RSA]),
        ("SHOP.test.", [EC, RSA]),
        ("www.shop.test", [EC]),  # exact goes before wildcard
        ("api.shop.test", [WILD]),
        ("a.b.shop.test", []),
        ("*.shop.test", [WILD]),
        ("10.0.0.1", [WILD]),
        ("test", []),
        ("", []),
        (".", []),
        (".shop.test", [WILD]),
    ],
)
def test_names(name: str, found: list[Chain]) -> None:
    assert Chains([EC, RSA, WILD]).find(name) == found


def test_the_chain_that_lasts_longest_counts() -> None:
    renewed = Chain(A, ("shop.test", "new.test"), 200, "renewed")
    for order in ([EC, renewed], [renewed, EC]):
        chains = Chains(order)
        assert chains.find("shop.test") == chains.find("new.test") == [renewed]
        assert chains.find("www.shop.test") == []
        assert len(chains) == 1


def test_a_name_that_stands_twice_in_a_certificate() -> None:
    assert Chains([Chain(A, ("a.test", "A.test"), 1, "")]).find("a.test") == [Chain(A, ("a.test", "A.test"), 1, "")]


def test_answers_are_bounded() -> None:
    assert answer([EC, RSA]) == ((A, "ec"), (B, "rsa"))
    assert answer([]) == ()
    many = [Chain(bytes([n]) * 32, ("a.test",), 1, "x") for n in range(20)]
    assert len(answer(many)) == MAX_FOUND
    long = [Chain(bytes([n]) * 32, ("a.test",), 1, "x" * (MAX_FOUND_BYTES // 2)) for n in range(3)]
    assert len(answer(long)) == 2
    assert Chains([Chain(A, ("a.test",), 1, "x" * (MAX_FOUND_BYTES + 1))]).find("a.test") == []
