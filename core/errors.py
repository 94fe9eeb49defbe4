"""What may be wrong with a configuration, and how it is said.

    ConfigErrors(Exception)     every fault found in one reading
    └─ errors: ConfigError…     one fault: where, what is wrong, what would be right

`Problem` is a fault before its place in a file is known: the checks of `core` make problems, `core.config` turns them
into errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Where a value stands in the parsed document: keys and list positions, such as ("listeners", 0, "port").
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault at `path`. `why` says what is wrong, `suggestion` what would be right; neither ends in a full stop."""

    path: Path
    why: str
    suggestion: str = ""


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One fault of a configuration. `line` counts from 1; 0 where the configuration has no lines (a request's body)."""

    path: str
    line: int
    object_path: str
    why: str
    suggestion: str = ""

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        subject = f" {self.object_path}:" if self.object_path else ""
        remedy = f"; {self.suggestion}" if self.suggestion else ""
        return f"{place}:{subject} {self.why}{remedy}"


class ConfigErrors(Exception):
    """A configuration that cannot be used, with every fault found, in the order of the file."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__(self.errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)
