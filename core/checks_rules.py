"""Rules of http and https listeners: what they may ask, where they may lead, and that each can be reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from core import checks_answers
from core.behind import Groups
from core.checks_listeners import L4_PROTOCOLS, servers_fit
from core.checks_shaping import access_problems, rate_problems
from core.errors import Path, Problem
from core.model import (
    L7_BACKENDS,
    BackendService,
    Condition,
    HeaderAction,
    HeaderChange,
    Kind,
    Listener,
    Model,
    Redirect,
    Rewrite,
    Rule,
)
from core.overrides import FIELDS, overridden, services_of
from core.paths import fault, pattern_fault, stars
from core.reader import in_words, show
from core.redirects import STATUSES
from core.rules import asked, conditional, hidden

Places = Mapping[tuple[Kind, str], Path]

ACTIONS = ("backend_service", "split", "redirect", "redirect_map", "fixed_reply")
FORWARDING = ("backend_service", "split")
EMPTY = (204, 205)  # RFC 9110 §15.3.5, §15.3.6: no content
# Those with an underscore do not come so far, or are passed on untouched: see docs/proxy.md.
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+")
# What the tier itself acts on, in both directions: head.py and headers.py of the proxy.
OURS = frozenset((
    "connection", "content-length", "date", "expect", "forwarded", "host", "keep-alive", "proxy-connection", "slb-id",
    "slb-ip", "te", "trailer", "transfer-encoding", "upgrade", "via", "x-real-ip", "x-request-id",
))  # fmt: skip
OURS_BEGIN = ("client-cert", "x-forwarded-", "x-ssl-client")
_INSTEAD = {"host": "rewrite host instead", "strict-transport-security": "give hsts_max_age_s of the listener instead"}
_NUMBER = re.compile(r"\$\{(\d)\}")
_VARIABLE = re.compile(r"\$\{\w+\}")
_NEVER_SERVED = ("CONNECT", "TRACE")


# Every problem of a backend service, as if it stood at a path.
CheckService = Callable[[BackendService, Model, Path], Iterator[Problem]]


def check(model: Model, places: Places, service_problems: CheckService) -> Iterator[Problem]:
    """Every problem of rules."""
    groups = Groups(model)
    of_listener: dict[str, list[Rule]] = {}
    for rule in model.rules.values():
        path = places[Kind.RULES, rule.name]
        listener = model.listeners.get(rule.listener)
        if listener is not None and listener.protocol in L4_PROTOCOLS:
            why = f"{listener.name} is a listener of {listener.protocol}, which has no requests to look into"
            yield Problem((*path, "listener"), why, "refer to a listener of http or https")
        yield from _conditions(rule, path)
        yield from _actions(rule, listener, groups, path)
        yield from _overrides(rule, model, path, service_problems)
        if rule.shed_first and not any(
            service.queue_target_s
            for name in services_of(rule)
            if (service := model.backend_services.get(name)) is not None
        ):
            why = "nothing is shed: no backend service of the rule has queue_target_s"
            yield Problem((*path, "shed_first"), why, "give the backend service queue_target_s, or remove it")
        if rule.mirror is not None:
            where = (*path, "mirror", "backend_service")
            yield from _service(rule.mirror.backend_service, listener, groups, where)
            if rule.mirror.backend_service in services_of(rule):
                why = f"{rule.mirror.backend_service} gets these requests already"
                yield Problem(where, why, "name another backend service")
        yield from access_problems(rule, path)
        yield from rate_problems(rule.rate_limits, (*path, "rate_limits"))
        yield from checks_answers.of_rule(rule, listener, path)
        of_listener.setdefault(rule.listener, []).append(rule)
    for rules in of_listener.values():
        for rule, other in hidden(rules):
            yield _hidden(rule, other, places[Kind.RULES, rule.name])


def _hidden(rule: Rule, other: Rule, path: Path) -> Problem:
    if asked(rule) != asked(other):
        why = f"rule {other.name} of the same listener comes before it and matches all that it does"
        smaller = f"give it a priority below {other.priority}, or remove it"
        return Problem(path, why, smaller if other.priority > 1 else f"give {other.name} a larger one, or remove this")
    match = f"path {show(rule.path)}" if rule.path else f"url {show(rule.url)}"
    match = f"domain {show(rule.domain)} and {match}" if rule.domain else match
    match += " and the same conditions" * conditional(rule)
    return Problem(path, f"rule {other.name} of the same listener has {match} too", "remove or change one")


def _conditions(rule: Rule, path: Path) -> Iterator[Problem]:
    for name in ("url", "path"):
        if why := fault(getattr(rule, name)):
            yield Problem((*path, name), f"no request is for it: {why}", "give the path as it is forwarded")
    if rule.path and rule.url != "/":
        why = "path is the whole path, and url what it starts with: they exclude each other"
        yield Problem((*path, "url"), why, "give one of them")
    if rule.path and rule.pattern:
        yield Problem((*path, "pattern"), "path is the whole path already", "give one of them")
    elif rule.pattern and (why := pattern_fault(rule.pattern)):
        yield Problem((*path, "pattern"), why, "give a path such as /users/*/photos, or url or path instead")
    for index, method in enumerate(rule.methods):
        if method in _NEVER_SERVED:
            yield Problem((*path, "methods", index), f"{method} is never served", "remove it")
    yield from _headers(rule.headers, (*path, "headers"))


def _headers(headers: tuple[Condition, ...], path: Path) -> Iterator[Problem]:
    for index, header in enumerate(headers):
        where = (*path, index, "name")
        if not _HEADER_NAME.fullmatch(header.name):
            why = f"{show(header.name)} is not the name of a field that is passed on"
            yield Problem(where, why, "give one of letters, digits and '-'")
        elif header.name.lower() in ("host", "cookie"):
            instead = "domain" if header.name.lower() == "host" else "cookies"
            yield Problem(where, f"{header.name} has an attribute of its own", f"give {instead} instead")


def _actions(rule: Rule, listener: Listener | None, groups: Groups, path: Path) -> Iterator[Problem]:
    given = [name for name in ACTIONS if getattr(rule, name)]
    if not given:
        yield Problem(path, "nothing happens to what it matches", f"give {in_words(ACTIONS, 'or')}")
    for name in given[1:]:
        yield Problem((*path, name), f"{given[0]} and {name} exclude each other", "give one of them")
    yield from _service(rule.backend_service, listener, groups, (*path, "backend_service"))
    yield from _split(rule, listener, groups, (*path, "split"))
    for name in ("rewrite", "request_headers", "compression", "error_pages", "mirror", *FIELDS):
        if getattr(rule, name) and given and not set(given) & set(FORWARDING):
            why = f"{name} is for what is forwarded, and {given[0]} is not"
            yield Problem((*path, name), why, f"remove it, or give {in_words(FORWARDING, 'or')}")
    yield from _captures(rule, path)
    if rule.rewrite is not None:
        if why := fault(_VARIABLE.sub("", rule.rewrite.path)):
            yield Problem((*path, "rewrite", "path"), why, "write it as it is forwarded")
        if rule.rewrite == Rewrite():
            yield Problem((*path, "rewrite"), "changes nothing", "give host, path or query")
    for name in ("request_headers", "response_headers"):
        yield from _changes(getattr(rule, name), (*path, name))
    if rule.redirect is not None:
        yield from _redirect(rule, rule.redirect, listener, (*path, "redirect"))
    if rule.fixed_reply is not None:
        reply = rule.fixed_reply
        if reply.status in EMPTY and reply.body:
            yield Problem((*path, "fixed_reply", "body"), f"an answer of status {reply.status} has none", "remove it")
        if 300 <= reply.status < 400:
            why = "a 3xx without a Location leads nowhere"
            yield Problem((*path, "fixed_reply", "status"), why, "give redirect instead")


def _captures(rule: Rule, path: Path) -> Iterator[Problem]:
    """`${3}` needs a third star."""
    count = len(stars(rule.pattern))
    for name in ("redirect", "rewrite"):
        table = getattr(rule, name)
        for field in ("path", "query") if table is not None else ():
            for number in _NUMBER.findall(getattr(table, field)):
                if int(number) > count:
                    why = f"${{{number}}} stands for nothing: pattern has {count or 'no'} *"
                    yield Problem((*path, name, field), why, "give a pattern with so many, or remove it")


def _overrides(rule: Rule, model: Model, path: Path, service_problems: CheckService) -> Iterator[Problem]:
    """What the services that the rule makes have against what it overrides."""
    for name in services_of(rule):
        service = model.backend_services.get(name)
        if service is None or service.protocol not in L7_BACKENDS or service == overridden(service, rule):
            continue
        known = {problem.why for problem in service_problems(service, model, path)}
        for problem in service_problems(overridden(service, rule), model, path):
            if problem.why not in known:
                field = next((each for each in problem.path[len(path) :] if each in FIELDS), None)
                yield problem if field else Problem((*path, "scheduler"), problem.why, "give another scheduler")


def _split(rule: Rule, listener: Listener | None, groups: Groups, path: Path) -> Iterator[Problem]:
    names = [share.backend_service for share in rule.split]
    for index, name in enumerate(names):
        where = (*path, index, "backend_service")
        if name in names[:index]:
            yield Problem(where, f"{name} has a share already", "give each service one")
        yield from _service(name, listener, groups, where)
        yield from _headers(rule.split[index].headers, (*path, index, "headers"))
    yield from _claims(rule, path)
    if names and not any(share.weight for share in rule.split):
        yield Problem(path, "all weights are 0, so that nothing is forwarded", "give one of them a weight")
    if rule.split_by and not names:
        yield Problem((*path[:-1], "split_by"), "there is no split", "remove it, or give split")


def _claims(rule: Rule, path: Path) -> Iterator[Problem]:
    """What sends requests to a part has to be told apart from what sends them to another one."""
    for kind in ("headers", "cookies"):
        owners: dict[tuple[str, str | None], str] = {}
        for index, share in enumerate(rule.split):
            for place, each in enumerate(getattr(share, kind)):
                name = each.name.lower() if kind == "headers" else each.name
                for value in each.values or (None,):
                    owner = owners.get((name, None)) or owners.setdefault((name, value), share.backend_service)
                    if owner != share.backend_service:
                        what = each.name if value is None else f"{each.name} with the value {show(value)}"
                        why = f"{what} sends requests to {owner} already"
                        yield Problem((*path, index, kind, place), why, "remove it from one of the two")


def _changes(changes: tuple[HeaderChange, ...], path: Path) -> Iterator[Problem]:
    put: set[str] = set()
    for index, change in enumerate(changes):
        lower, where = change.name.lower(), (*path, index)
        if not _HEADER_NAME.fullmatch(change.name):
            why = f"{show(change.name)} is not the name of a field that is passed on"
            yield Problem((*where, "name"), why, "give one of letters, digits and '-'")
        elif lower in OURS or lower.startswith(OURS_BEGIN) or lower in _INSTEAD:
            why = f"{change.name} is what the L7 tier itself says, and others rely on it"
            yield Problem((*where, "name"), why, _INSTEAD.get(lower, "remove it"))
        if change.action is HeaderAction.REMOVE and change.value:
            yield Problem((*where, "value"), "what is removed has no value", 'remove it, or give action = "set"')
        if change.action is HeaderAction.SET and lower in put:
            yield Problem(where, f"{change.name} is set or added already", 'give action = "add" to the later one')
        if change.action is not HeaderAction.REMOVE:
            put.add(lower)


def _service(name: str, listener: Listener | None, groups: Groups, where: Path) -> Iterator[Problem]:
    model = groups.model
    service = model.backend_services.get(name)
    if service is not None and service.protocol not in L7_BACKENDS:
        why = f"{service.name} is a {service.protocol} service, and rules forward to http"
        yield Problem(where, why, "refer to one of protocol http, h2 or h2c")
    if listener is not None and service is not None:
        yield from servers_fit(listener, model.instances.get(listener.instance), service, groups, where)


def _redirect(rule: Rule, redirect: Redirect, listener: Listener | None, path: Path) -> Iterator[Problem]:
    if redirect.status not in STATUSES:
        why = f"{redirect.status} redirects no request"
        yield Problem((*path, "status"), why, f"give {in_words([str(each) for each in STATUSES], 'or')}")
    if why := fault(_VARIABLE.sub("", redirect.path)):
        yield Problem((*path, "path"), why, "write it as it is forwarded")
    same_path = redirect.path in ("${path}", rule.path) or (rule.url, redirect.path) == ("/", "${rest}")
    same_query = redirect.query == "${query}" or not rule.queries
    if (
        listener is not None
        and redirect.protocol in ("", listener.protocol)
        and redirect.port in (0, listener.port)
        and redirect.host in ("${host}", rule.domain)
        and same_path
        and same_query
    ):
        yield Problem(path, "leads back to where it came from", "give protocol, host, port, path or query")
