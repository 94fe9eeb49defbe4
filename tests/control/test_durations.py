import argparse
from datetime import timedelta

import pytest

from control.durations import duration, shown


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("30d", 2_592_000)])
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "0", "-1s", "1w", "1.5h", "h", "1 h", "99999999d", "1²"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="give a time such as"):
        duration(text)


SHOWN = [(-3, "0s"), (59, "59s"), (119, "119s"), (150, "2m"), (86_400, "24h"), (200_000, "2d")]


@pytest.mark.parametrize(("seconds", "text"), SHOWN)
def test_shown(seconds: float, text: str) -> None:
    assert shown(seconds) == text
