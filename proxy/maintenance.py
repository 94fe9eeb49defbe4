"""Closed for maintenance: who gets in all the same, and what all others get. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from core.endpoints import version
from core.model import Condition, ErrorPage, Maintenance, Rule
from core.prefixes import Prefixes, number
from proxy.conditions import Conditions
from proxy.message import Asked
from proxy.pages import Pages


@dataclass(frozen=True)
class Closed:
    """Made with the configuration; two are equal that were made of the same."""

    settings: Maintenance
    pages: Pages | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        given = self.settings
        page = ErrorPage("503", given.content_type, given.body)
        object.__setattr__(self, "pages", Pages([[page]]) if given.body else None)

    @classmethod
    def of(cls, settings: Maintenance | None) -> Closed | None:
        """None where it is open."""
        return _closed(settings) if settings is not None and settings.enabled else None

    def admits(self, asked: Asked, target: bytes, client: bytes) -> bool:
        """Whether this is a tester. `client`: an address, or what a trusted proxy calls one."""
        if any(each.hold(asked, target) for each in self._conditions):
            return True
        if not self.settings.clients:
            return False
        try:
            address = client.decode("latin-1")
            return number(address) in self._clients[version(address)]
        except ValueError:
            return False

    @cached_property
    def _clients(self) -> dict[int, Prefixes]:
        return {ip: Prefixes.of(self.settings.clients, ip) for ip in (4, 6)}

    @cached_property
    def _conditions(self) -> Sequence[Conditions]:
        rules = [*map(_with_header, self.settings.headers), *map(_with_cookie, self.settings.cookies)]
        return [made for rule in rules if (made := Conditions.of(rule)) is not None]


def _with_header(condition: Condition) -> Rule:
    return Rule("tester", "", headers=(condition,))


def _with_cookie(condition: Condition) -> Rule:
    return Rule("tester", "", cookies=(condition,))


@lru_cache(maxsize=1024)
def _closed(settings: Maintenance) -> Closed:
    """One for all rules that have the same."""
    return Closed(settings)
