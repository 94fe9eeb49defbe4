"""What is done about answers, by a listener or one of its rules: they are compressed, errors have pages. Pure.

Made with the configuration; None where nothing is done, which costs a request one look at an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from core.model import Compression, ErrorPage, Listener, Rule
from proxy.compression import Compressing
from proxy.pages import Pages


@dataclass(frozen=True, slots=True)
class Answering:
    """What is asked for, and what is made of it."""

    compression: Compression | None = None
    error_pages: tuple[tuple[ErrorPage, ...], ...] = ()  # in the order in which they are asked
    compressing: Compressing | None = field(init=False, compare=False)
    pages: Pages | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        settings = self.compression
        object.__setattr__(self, "compressing", _compressing(settings) if settings and settings.codings else None)
        object.__setattr__(self, "pages", Pages(self.error_pages) if self.error_pages else None)

    @classmethod
    def of_listener(cls, listener: Listener) -> Answering | None:
        """For requests that no rule decides about."""
        return _something(cls(listener.compression, (listener.error_pages,) if listener.error_pages else ()))

    @classmethod
    def of(cls, rule: Rule, listener: Answering | None) -> Answering | None:
        """A rule's own, or the listener's."""
        if not rule.compression and not rule.error_pages:
            return listener
        base = listener or _NOTHING
        pages = (rule.error_pages, *base.error_pages) if rule.error_pages else base.error_pages
        return _something(cls(rule.compression or base.compression, pages))


_NOTHING = Answering()


def _something(answering: Answering) -> Answering | None:
    return None if answering == _NOTHING else answering


@lru_cache(maxsize=1024)
def _compressing(settings: Compression) -> Compressing:
    """One for all who have the same: it remembers types."""
    return Compressing(settings)
