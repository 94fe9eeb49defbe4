"""Whether a program printed what a page shows.

What differs from one run to the next is compared by its form: dates, times and durations, decimal fractions,
identifiers in hexadecimal, tokens and their IDs, numbers of six digits and more, and directories of somebody's home.
`…` stands for anything. Everything else, smaller whole numbers included, is compared as it stands; only white space is
free.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# Longer forms first: what a pattern has taken, those after it do not see.
_VOLATILE: Final = (
    (r"/home/\w+/[\w./-]+?(?=/(?:ca|control|log)\b)", r"/[\w./-]+"),
    (r"pf[tj]_[0-9A-Za-z_]*…?", r"pf[tj]_[0-9A-Za-z_-]+"),
    (r"\b(?=\w*\d)(?=\w*[a-z])(?=\w*[A-Z])[0-9A-Za-z]{10}\b", r"[0-9A-Za-z]{10}"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", r"\d{4}-\d\d-\d\d \d\d:\d\d"),
    (r"\d{4}-\d\d(?:-\d\d)?", r"\d{4}-\d\d(?:-\d\d)?"),
    (r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{4,64}…?(?![\w])", r"[0-9a-f]{4,64}"),
    (r"(?<![\d.])\d+\.\d+(?: (?:ms|s)\b)?(?![\d.])", r"\d+\.\d+(?: m?s)?"),
    (r"\b\d{6,}\b", r"\d+"),
    (r"…", r".*?"),
    (r"\s+", r"\\s+"),
)
_ANY: Final = "\0"
_EITHER: Final = re.compile("|".join(f"({form})" for form, _ in _VOLATILE))


def pattern(shown: str, loose: Sequence[str] = ()) -> re.Pattern[str]:
    """What matches outputs of the shown kind; their white space is that of one line. `loose` words may be others."""
    for word in loose:
        before, shown = shown, re.sub(rf"(?<![\w.]){re.escape(word)}(?!\w|\.\d)", _ANY, shown)
        assert before != shown, f"{word} is not shown"
    found, end = "", 0
    text = " ".join(shown.split())
    for match in _EITHER.finditer(text):
        assert match.lastindex is not None
        found += _escaped(text[end : match.start()]) + _VOLATILE[match.lastindex - 1][1].replace("\\\\", "\\")
        end = match.end()
    return re.compile(found + _escaped(text[end:]), re.S)


def _escaped(text: str) -> str:
    return r"[\w.]+".join(re.escape(part) for part in text.split(_ANY))


def agree(shown: str, printed: str, loose: Sequence[str] = ()) -> bool:
    """Whether what was printed is what is shown."""
    return pattern(shown, loose).fullmatch(" ".join(printed.split())) is not None
