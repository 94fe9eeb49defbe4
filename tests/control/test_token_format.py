"""Tokens as texts: their form, what is told of typing errors, and that nothing shows their secret."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.token_format import (
    ID_RANGE,
    SECRET_RANGE,
    again,
    digest,
    fault,
    id_of,
    made,
    old_id,
    without_secrets,
)

ID, TOKEN = made(1, 2)
SCANNED = r"pft_[0-9A-Za-z]{10}_[0-9A-Za-z]{49}"  # as docs/access.md gives it to scanners


def test_the_form_is_the_one_that_is_documented() -> None:
    """Tokens are out there: a change of these bytes makes all of them void."""
    assert ID == "0000000001"
    assert TOKEN == "pft_0000000001_000000000000000000000000000000000000000000244Qc88"
    assert len(TOKEN) == 64


@given(st.integers(0, ID_RANGE - 1), st.integers(0, SECRET_RANGE - 1))
def test_a_token_says_its_id_and_others_do_not_meet_it(number: int, secret: int) -> None:
    identity, text = made(number, secret)
    assert re.fullmatch(SCANNED, text)
    assert id_of(text) == identity
    assert again(identity, secret) == text
    assert again(identity, (secret + 1) % SECRET_RANGE) != text
    assert digest(text) not in text


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("0Aaz9Zq"))
def test_one_wrong_character_is_found(place: int, other: str) -> None:
    wrong = TOKEN[:place] + other + TOKEN[place + 1 :]
    assert (id_of(wrong) == ID) == (wrong == TOKEN)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TOKEN[:-1], r"is cut off or has something besides: a token has 64 letters and digits, this one 63"),
        (TOKEN + "x", r"cut off or .* this one 65"),
        (TOKEN[:20] + "x" + TOKEN[21:], r"has a typing error"),
        ("pft_", r"cut off"),
        ("pft_schlüssel", r"cut off"),
        ("schlüssel", r"begin with pft_"),
        ("x" * 101, r"begin with pft_"),
        ("\udcff" * 40, r"begin with pft_"),
    ],
    ids=["cut", "longer", "typo", "prefix", "accent", "other", "long", "bytes"],
)
def test_what_is_no_token_is_told_why(text: str, told: str) -> None:
    assert id_of(text) is None
    assert re.search(told, fault(text))
    assert fault(TOKEN) == ""


def test_those_of_earlier_releases_are_known_by_their_hash() -> None:
    text = "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE"
    assert id_of(text) == old_id(digest(text)) == f"old-{digest(text)[:10]}"
    assert fault(text) == ""


@pytest.mark.parametrize("cut", [64, 63, 40, 31])
def test_secrets_are_taken_out_of_text(cut: int) -> None:
    text = f"see {TOKEN[:cut]}, and /v1/tokens/{TOKEN}"
    assert without_secrets(text) == f"see pft_{ID}_…, and /v1/tokens/pft_{ID}_…"
    assert without_secrets("pft_0000000001") == "pft_0000000001"


def test_the_secret_of_an_invitation_is_left_out_too() -> None:
    token = "pfj_" + "a-_Z" * 8
    assert without_secrets(f"/v1/joins/{token} {token[:30]}/x") == "/v1/joins/pfj_… pfj_…/x"
