"""How the demonstration tells what it does: plain lines of at most 96 columns, and the same as facts for scripts."""

from __future__ import annotations

import json
import textwrap
import time
from typing import IO

WIDTH = 96
PATH_WIDTH = 56
_INDENT = " " * 8
_BOLD, _GREEN, _RED, _OFF = "\033[1m", "\033[32m", "\033[31m", "\033[0m"


class Story:
    """Chapters with lines; each line is told when it is known. With `as_json` only `end` prints."""

    def __init__(self, out: IO[str], *, as_json: bool, colour: bool) -> None:
        self._out = out
        self._as_json = as_json
        self._colour = colour
        self._began = time.monotonic()
        self._facts: dict[str, object] = {}

    def chapter(self, title: str) -> None:
        seconds = f"{time.monotonic() - self._began:5.1f} s"
        self._print(f"\n{seconds} {self._paint(title, _BOLD)}")

    def line(self, text: str) -> None:
        """A sentence; long ones go on in the next line."""
        for part in textwrap.wrap(text, WIDTH - len(_INDENT), subsequent_indent="  ", break_long_words=False):
            self._print(_INDENT + part)

    def path(self, what: str, hops: list[str], result: str) -> None:
        """The way of one exchange, in columns."""
        self._print(f"{_INDENT}{what:<7}{' → '.join(hops):<{PATH_WIDTH}} {result}")

    def fact(self, name: str, value: object) -> None:
        """What scripts get to know of a chapter."""
        self._facts[name] = value

    def end(self, failures: list[str]) -> None:
        """The verdict."""
        seconds = time.monotonic() - self._began
        if self._as_json:
            document = {"ok": not failures, "failures": failures, "seconds": round(seconds, 1), **self._facts}
            print(json.dumps(document), file=self._out)
            return
        self._print("")
        for failure in failures:
            self._print(self._paint(f"NOT SO: {failure}", _RED))
        verdict = f"{len(failures)} of the claims above are not so" if failures else "everything above was checked"
        self._print(self._paint(f"{seconds:5.1f} s {verdict}", _RED if failures else _GREEN))

    def _print(self, text: str) -> None:
        if not self._as_json:
            print(text, file=self._out, flush=True)

    def _paint(self, text: str, code: str) -> str:
        return f"{code}{text}{_OFF}" if self._colour else text
