"""Fields that tell browsers to be careful."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.model import SecurityHeaders
from proxy.head import read_response
from proxy.presets import PRESETS, Preset

PAGE = Path(__file__).parents[2] / "docs/response-headers.md"


def lines(name: SecurityHeaders, *said: bytes) -> list[bytes]:
    answer = read_response(b"HTTP/1.1 200 OK\r\n" + b"".join(each + b"\r\n" for each in said) + b"\r\n", b"GET")
    assert answer is not None
    return Preset(name).lines(answer).split(b"\r\n")[:-1]


def test_a_rule_has_the_last_word() -> None:
    assert b"X-Frame" not in Preset(SecurityHeaders.BASIC, {b"x-frame-options"}).lines()


def test_all_of_a_set_is_said() -> None:
    assert lines(SecurityHeaders.BASIC) == [
        b"X-Content-Type-Options: nosniff",
        b"Referrer-Policy: strict-origin-when-cross-origin",
        b"X-Frame-Options: SAMEORIGIN",
        b"Content-Security-Policy: frame-ancestors 'self'",
    ]


def test_a_server_knows_its_pages() -> None:
    said = b"content-security-policy: default-src 'self'", b"REFERRER-POLICY: origin"
    assert lines(SecurityHeaders.BASIC, *said) == [b"X-Content-Type-Options: nosniff", b"X-Frame-Options: SAMEORIGIN"]


def test_the_strict_one_has_every_field_of_the_other() -> None:
    assert PRESETS[SecurityHeaders.BASIC].keys() <= PRESETS[SecurityHeaders.STRICT].keys()


@pytest.mark.parametrize("name", [SecurityHeaders.BASIC, SecurityHeaders.STRICT])
def test_the_page_has_every_field(name: SecurityHeaders) -> None:
    text = PAGE.read_text()
    for field, value in PRESETS[name].items():
        assert f"`{field.decode()}`" in text
        assert f"`{value.decode()}`" in text


def test_an_answer_of_ours_has_them_all() -> None:
    assert Preset(SecurityHeaders.STRICT).lines().count(b"\r\n") == 7
