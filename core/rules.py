"""Which of a listener's rules a request goes by: the first that matches, in the order that is defined here.

The order is total: priority, domain, path, number of conditions, place in the configuration. Whoever looks rules up
faster than one by one (proxy/rules.py) has to find what `first` finds; tests hold the two together. Without
priorities, no rule can hide another one unless the two ask for the same; with them it can, and `hidden` finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from core.model import Rule
from core.paths import above, below

_LAST = 1 << 32
Place = tuple[str, bool, str]  # domain, whether the path is exact, path or url


def ordered(rules: Iterable[Rule]) -> list[Rule]:
    """The rules of one listener, the first to be asked first."""
    return sorted(rules, key=_key)


def _key(rule: Rule) -> tuple[int, ...]:
    kind = 2 if not rule.domain else 1 if rule.domain.startswith("*.") else 0
    return (
        rule.priority or _LAST, kind, -len(rule.domain), 0 if rule.path else 1, -len(rule.url),
        -(bool(rule.pattern) + bool(rule.methods) + len(rule.headers) + len(rule.queries) + len(rule.cookies)
          + bool(rule.redirect_map)),
    )  # fmt: skip


def first(rules: Sequence[Rule], name: str, path: str, holds: Callable[[Rule], bool]) -> Rule | None:
    """The rule for a request of a host name and a path in normal form; `holds`: whether a rule's conditions are met."""
    return next((rule for rule in ordered(rules) if matches(rule, name, path) and holds(rule)), None)


def matches(rule: Rule, name: str, path: str) -> bool:
    """Whether a rule is for this host name (in lower case) and path, conditions aside."""
    domain = rule.domain.lower()
    if domain and domain != name and not (domain.startswith("*.") and name.endswith(domain[1:])):
        return False
    return path == rule.path if rule.path else below(path, rule.url)


def domains_of(name: str) -> Iterator[str]:
    """The domains by which a host name, or a wildcard, may be meant, the most specific first."""
    if name:
        yield name
    rest = name.removeprefix("*.").partition(".")[2]
    while rest:
        yield "*." + rest
        rest = rest.partition(".")[2]
    yield ""


def conditional(rule: Rule) -> bool:
    """Whether a rule asks for more than a domain and a path."""
    return bool(rule.pattern or rule.methods or rule.headers or rule.queries or rule.cookies or rule.redirect_map)


def fields_of(rule: Rule) -> Iterator[str]:
    """The names of the fields that a rule tells requests apart by."""
    yield from (each.name for each in rule.headers)
    for share in rule.split:
        yield from (each.name for each in share.headers)
    kind, _, name = rule.split_by.partition(":")
    if kind == "header":
        yield name


def asked(rule: Rule) -> tuple[object, ...]:
    """What a rule asks of a request: two rules with the same one match the same requests."""
    headers = frozenset((each.name.lower(), frozenset(each.values)) for each in rule.headers)
    queries, cookies = (
        frozenset((each.name, frozenset(each.values)) for each in some) for some in (rule.queries, rule.cookies)
    )
    return _place(rule), rule.pattern, frozenset(rule.methods), headers, queries, cookies, rule.redirect_map


def hidden(rules: Iterable[Rule]) -> Iterator[tuple[Rule, Rule]]:
    """Rules of one listener that are never reached, each with the one that comes first and matches all it does."""
    rules = list(rules)
    by_priority = any(rule.priority for rule in rules)
    same: dict[tuple[object, ...], Rule] = {}
    whole: dict[Place, Rule] = {}  # those without conditions
    for rule in ordered(rules):
        other = same.setdefault(asked(rule), rule)
        if other is rule and by_priority:
            other = next((whole[place] for place in _around(rule) if place in whole), rule)
        if other is not rule:
            yield rule, other
        elif by_priority and not conditional(rule):
            whole[_place(rule)] = rule


def _place(rule: Rule) -> Place:
    return rule.domain.lower(), bool(rule.path), rule.path or rule.url


def _around(rule: Rule) -> Iterator[Place]:
    """The places of rules that, without conditions, match all that this one does."""
    domain, exact, path = _place(rule)
    for each in domains_of(domain):
        if exact:
            yield each, True, path
        yield from ((each, False, url) for url in above(path))
