"""What `bench h2` makes of what h2load says."""

from __future__ import annotations

import pytest

from bench.h2 import CALL, requests

SAID = (
    "requests: 6 total, 6 started, 6 done, {} succeeded, {} failed, 0 errored, 0 timeout\nstatus codes: {} 2xx, 0 3xx"
)


def test_what_was_answered_counts() -> None:
    assert requests(SAID.format(6, 0, 6)) == 6


@pytest.mark.parametrize("said", ["", SAID.format(5, 1, 5), SAID.format(0, 0, 0), SAID.format(6, 0, 5)])
def test_a_figure_with_errors_is_none(said: str) -> None:
    with pytest.raises(RuntimeError, match="nginx: "):
        requests(said, "nginx")


def test_a_call_is_one_message() -> None:
    assert (CALL[0], int.from_bytes(CALL[1:5], "big")) == (0, len(CALL) - 5)
