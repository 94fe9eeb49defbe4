"""Several configuration files as one, as `haproxy -f DIR` and `kubectl apply -f` have it: objects may stand in any.

The files are put one behind the other, in the order that was given, those of a directory by name; TOML's lists of
tables go on where they were left off. Each is parsed by itself before, so that a string that one leaves open does not
swallow the next, and messages get the file and line back that they are about. JSON cannot be joined so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import ConfigError, ConfigErrors
from core.syntax import parse

SUFFIX = ".toml"


@dataclass(frozen=True, slots=True)
class Joined:
    """The text of all files, and the first line of each in it."""

    text: str
    files: tuple[Path, ...]
    starts: tuple[int, ...]

    def placed(self, error: ConfigError) -> ConfigError:
        """An error of the text as one of the file that the line is from."""
        if not error.line:
            return error
        index = bisect_right(self.starts, error.line) - 1
        return replace(error, path=str(self.files[index]), line=error.line - self.starts[index] + 1)

    def errors(self, errors: Iterable[ConfigError]) -> ConfigErrors:
        """All errors, each of its file."""
        return ConfigErrors(self.placed(error) for error in errors)


def listed(paths: Sequence[Path]) -> list[Path]:
    """The files that are meant: of a directory those that end in .toml. Raises ConfigErrors."""
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not found:
            raise _error(path, 0, f"has no file that ends in {SUFFIX}", "give a file, or another directory")
        files += found
    if len(files) > 1:
        for file in files:
            if file.suffix != SUFFIX:
                raise _error(file, 0, "cannot be one of several", f"give files that end in {SUFFIX}, or this one alone")
            if file.parent != files[0].parent:
                why = f"is not in the directory of {files[0]}, to which paths like chain_file would be relative"
                raise _error(file, 0, why, "put the files into one directory")
        if repeated := next((file for index, file in enumerate(files) if file in files[:index]), None):
            raise _error(repeated, 0, "is given twice", "give it once")
    return files


def join(files: Sequence[Path], texts: Sequence[str]) -> Joined:
    """The files as one text. Raises ConfigErrors."""
    parts: list[str] = []
    starts: list[int] = []
    line = 1
    for file, text in zip(files, texts, strict=True):
        parse(text, path=str(file), format="toml", repeated=[])
        if starts and (found := _bare_key(text)):
            raise _error(file, found, "a key stands before the first table", "begin with a line [[KIND]]")
        whole = text if text.endswith("\n") else text + "\n"
        parts.append(whole)
        starts.append(line)
        line += whole.count("\n")
    return Joined("".join(parts), tuple(files), tuple(starts))


def _bare_key(text: str) -> int:
    """The line of a key that belongs to no table of the file, and would go to the last one of the file before; or 0."""
    for number, line in enumerate(text.splitlines(), 1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            return 0 if stripped.startswith("[") else number
    return 0


def _error(file: Path, line: int, why: str, remedy: str) -> ConfigErrors:
    return ConfigErrors([ConfigError(str(file), line, "", why, remedy)])
