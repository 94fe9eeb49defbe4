"""Secrets of session tickets: which period, which secret, and that they do not lead to each other."""

import hmac

import pytest

from keyserver.tickets import PERIOD_S, Master

MASTER = Master(bytes(range(32)))


@pytest.mark.parametrize("offset_s", [0, 1, PERIOD_S - 1])
def test_three_periods(offset_s: int) -> None:
    begin = 1000 * PERIOD_S
    secrets = MASTER.secrets(begin + offset_s)
    assert [begins for begins, _ in secrets] == [begin - PERIOD_S, begin, begin + PERIOD_S]
    assert {len(secret) for _, secret in secrets} == {32}
    assert len({secret for _, secret in secrets}) == 3


def test_the_next_becomes_the_one_that_is() -> None:
    before, after = MASTER.secrets(1000 * PERIOD_S), MASTER.secrets(1001 * PERIOD_S)
    assert before[1:] == after[:2]


def test_who_has_the_same_master_secret_agrees() -> None:
    assert Master(bytes(range(32))).secrets(5) == MASTER.secrets(5)
    assert Master(bytes(32)).secrets(5) != MASTER.secrets(5)


def test_it_is_hkdf() -> None:
    """RFC 5869, by hand."""
    key = hmac.digest(b"paifang session tickets", bytes(range(32)), "sha256")
    assert MASTER.secrets(0)[1][1] == hmac.digest(key, bytes(8) + b"\1", "sha256")


def test_short_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="a secret of 31 bytes; 32 or more are wanted"):
        Master(bytes(31))
    assert repr(MASTER) == "<Master>"
