"""What is asked of a request before it is forwarded, for `paifang explain`: what depends on how many others come, and
where what keeps it out is configured."""

from __future__ import annotations

from collections.abc import Iterator

from core.explain import Place
from core.fields import Kind
from core.model import Listener, RateLimit, Rule
from proxy.errors import Code

# Refusals that a rule or a listener is the reason of, and by which attribute of theirs.
_FIELDS = {
    Code.ACCESS: "access_list",
    Code.BODY_LARGE: "max_body_bytes",
    Code.HEAD_LARGE: "max_head_bytes",
    Code.MAINTENANCE: "maintenance",
}


def limits(listener: Listener, rule: Rule | None) -> Iterator[tuple[str, str, Place]]:
    """What may keep it out or make it wait: what kind of limit, in words, where it stands."""
    owners: list[tuple[Listener | Rule, Place]] = [(listener, Place(Kind.LISTENERS, listener.name))]
    owners += [(rule, Place(Kind.RULES, rule.name))] if rule is not None else []
    for owner, place in owners:
        for limit in owner.rate_limits:
            yield "rate limit", _rate(limit), Place(place.kind, place.name, "rate_limits")
        for field, whose, beyond in (
            ("max_requests", "of the whole cluster", "503"),
            ("max_requests_per_client", "of one client in each worker", "429"),
        ):
            if most := getattr(owner, field):
                text = f"{most} requests at a time {whose}; {beyond} beyond"
                yield "requests at a time", text, Place(place.kind, place.name, field)


def reason(code: Code, listener: Listener, rule: Rule | None) -> tuple[str, Place | None]:
    """The step that refuses, and the attribute that says so."""
    field = _FIELDS.get(code, "")
    if not field:
        return ("answer" if code is Code.NO_RULE else "HTTP policy"), None
    what = {Code.ACCESS: "access list", Code.MAINTENANCE: "maintenance"}.get(code, "size")
    if rule is not None and getattr(rule, field, None):
        return what, Place(Kind.RULES, rule.name, field)
    return what, Place(Kind.LISTENERS, listener.name, field)


def _rate(limit: RateLimit) -> str:
    each = f" for each {limit.key}" if limit.key else ""
    if limit.key == "source":
        each = f" for each client (/{limit.prefix}, IPv6 /{limit.prefix_v6})"
    beyond = f"429 beyond, after waiting {limit.max_delay_s:g} s at most" if limit.max_delay_s else "429 beyond"
    burst = f", {limit.burst} at once" if limit.burst else ""
    beyond = "more is only counted" if limit.dry_run else beyond
    return f"{limit.rate_per_s:g} requests a second{each}{burst}, of the whole cluster; {beyond}"
