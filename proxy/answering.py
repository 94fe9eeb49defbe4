"""What is done about answers, by a listener or one of its rules: they are compressed. Pure.

Made with the configuration; None where nothing is done, which costs a request one look at an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from core.model import Compression, Listener, Rule
from proxy.compression import Compressing


@dataclass(frozen=True, slots=True)
class Answering:
    """What is asked for, and what is made of it."""

    compression: Compression | None = None
    compressing: Compressing | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        settings = self.compression
        object.__setattr__(self, "compressing", _compressing(settings) if settings and settings.codings else None)

    @classmethod
    def of_listener(cls, listener: Listener) -> Answering | None:
        """For requests that no rule decides about."""
        return _something(cls(listener.compression))

    @classmethod
    def of(cls, rule: Rule, listener: Answering | None) -> Answering | None:
        """A rule's own, or the listener's."""
        base = listener or _NOTHING
        return _something(cls(rule.compression or base.compression)) if rule.compression else listener


_NOTHING = Answering()


def _something(answering: Answering) -> Answering | None:
    return None if answering == _NOTHING else answering


@lru_cache(maxsize=1024)
def _compressing(settings: Compression) -> Compressing:
    """One for all who have the same: it remembers types."""
    return Compressing(settings)
