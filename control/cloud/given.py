"""What an action is given, by the names of its fields; and how single values are read, whatever cloud asks. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Read = Callable[[str, object], object]


class FieldError(Exception):
    """A field that is not taken, and why; each cloud has words of its own for it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name, self.why = name, why


class WrongFieldError(FieldError):
    """Its value is none that it may have."""


class LackingFieldError(FieldError):
    """It means something that there is not here."""


@dataclass(frozen=True, slots=True)
class Given:
    """The fields of a request by name, as their table says; those that were not given are missing."""

    values: Mapping[str, object] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str, default: str = "") -> str:
        """A field that is text."""
        return str(self.values.get(name, default))

    def number(self, name: str, default: int) -> int:
        """A field that is a number."""
        found = self.values.get(name, default)
        assert isinstance(found, int)
        return found

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        found = self.values.get(name, ())
        assert isinstance(found, tuple)
        return found


def line(most: int) -> Read:
    """Text of one line."""

    def read(name: str, given: object) -> str:
        if not isinstance(given, str) or len(given) > most or any(character < " " for character in given):
            raise WrongFieldError(name, f"a line of at most {most} characters is")
        return given

    return read


def block_of(most: int) -> Read:
    """Text of several lines."""

    def read(name: str, given: object) -> str:
        if not isinstance(given, str) or len(given) > most:
            raise WrongFieldError(name, f"text of at most {most} characters is")
        return given

    return read


def whole(low: int, high: int, also: Sequence[int] = ()) -> Read:
    """A whole number of a range, or one of a few others, as a number or as text."""

    def read(name: str, given: object) -> int:
        what = f"{low} to {high}" + "".join(f" or {each}" for each in also)
        if isinstance(given, str) and re.fullmatch(r"-?[0-9]{1,9}", given, re.ASCII):
            given = int(given)
        if not isinstance(given, int) or isinstance(given, bool) or not (low <= given <= high or given in also):
            raise WrongFieldError(name, f"{what} is")
        return given

    return read


def one_of(words: Sequence[str], others: Mapping[str, str]) -> Read:
    """One of a few words. `others` are further ones of the API, which there are not here, and why."""

    def read(name: str, given: object) -> str:
        told = str(given).lower()
        for other, why in others.items():
            if told == other.lower():
                raise LackingFieldError(name, why)
        for each in words:
            if told == each.lower():
                return each
        raise WrongFieldError(name, f"{', '.join(words)} is")

    return read
