"""What has been made of a model, for as long as the kinds of object are the same that it was made of. Pure.

A change leaves most kinds alone, and those that it leaves alone stay the same mappings (core/delta.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from core.model import Kind, Model, Object

T = TypeVar("T")


class Remembered(Generic[T]):
    """`make` of the last model, which looks at `kinds` and at nothing else. Who gets the result does not change it."""

    def __init__(self, make: Callable[[Model], T], *kinds: Kind) -> None:
        self._make, self._kinds = make, kinds
        self._last: tuple[list[Mapping[str, Object]], T] | None = None

    def __call__(self, model: Model) -> T:
        parts = [model.of(kind) for kind in self._kinds]
        if self._last is None or any(one is not other for one, other in zip(self._last[0], parts, strict=True)):
            self._last = parts, self._make(model)
        return self._last[1]
