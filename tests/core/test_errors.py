"""How errors read."""

from __future__ import annotations

import pytest

from core.errors import ConfigError, ConfigErrors

CASES = [
    (ConfigError("f.toml", 3, "listeners.web.port", "70000 is out of range", "give 1 to 65535"),
     "f.toml:3: listeners.web.port: 70000 is out of range; give 1 to 65535"),
    (ConfigError("request", 0, "listeners[1]", "name is missing"), "request: listeners[1]: name is missing"),
    (ConfigError("f.json", 1, "", "not JSON: Expecting value"), "f.json:1: not JSON: Expecting value"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "text"), CASES)
def test_one_error_is_one_line(error: ConfigError, text: str) -> None:
    assert str(error) == text


def test_several_errors_are_as_many_lines() -> None:
    errors = ConfigErrors(error for error, _ in CASES)
    assert str(errors).split("\n") == [text for _, text in CASES]
    assert errors.errors == tuple(error for error, _ in CASES)
