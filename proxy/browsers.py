"""What browsers are told besides what servers say: CORS and fields of a preset, of a rule or its listener. Pure.

Every answer has it, a server's and those of our own: a script may read why it was refused, and a page of ours is as
careful as the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from core import model
from core.model import HeaderChange, Listener, Rule, SecurityHeaders
from proxy.cors import OURS, Cors
from proxy.message import Asked, Fields
from proxy.presets import Preset

_NOTHING: Final = frozenset[bytes]()


class Browsers:
    """Made with the configuration; two are equal that were made of the same. `removed`: names (lower case) of fields of
    servers' answers whose place is taken."""

    __slots__ = ("_preset", "cors", "made_of", "removed")

    def __init__(self, cors: model.Cors | None, preset: SecurityHeaders, changes: Iterable[HeaderChange] = ()) -> None:
        """`changes`: what a rule does to answers besides."""
        changed = frozenset(each.name.lower().encode("ascii") for each in changes)
        self.made_of = cors, preset, changed
        self.cors = None if cors is None else Cors(cors)
        self.removed = _NOTHING if cors is None else OURS
        self._preset = Preset(preset, changed)

    @classmethod
    def of(cls, listener: Listener) -> Browsers | None:
        """What a listener has said to all; None: nothing."""
        return cls(listener.cors, listener.security_headers)._something()

    @classmethod
    def over(cls, listeners: Browsers | None, rule: Rule) -> Browsers | None:
        """What a rule has said: its own in place of its listener's."""
        cors, preset, _ = listeners.made_of if listeners is not None else (None, SecurityHeaders.OFF, _NOTHING)
        if rule.security_headers is not None:
            preset = rule.security_headers
        return cls(rule.cors or cors, preset, rule.response_headers)._something()

    def _something(self) -> Browsers | None:
        return None if self.cors is None and self.made_of[1] is SecurityHeaders.OFF else self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Browsers) and self.made_of == other.made_of

    def __hash__(self) -> int:
        return hash(self.made_of)

    def lines(self, asked: Asked, answer: Fields | None = None) -> bytes:
        """What is added to the head of a server's answer; without one, of an answer of our own."""
        lines = self._preset.lines(answer)
        return lines if self.cors is None else lines + self.cors.lines(asked, answer)
