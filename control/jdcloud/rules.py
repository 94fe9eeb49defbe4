"""What rules of a URL map say, and the rules here that say the same. Pure.

A path with a star at its end is a pattern here, `/api/*` is `/api/**`: it may start in the middle of a segment, which
a url here does not. What the star stands for can be written again with a star.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from control.jdcloud import backends
from control.jdcloud.errors import invalid, missing, unsupported
from control.jdcloud.forms import Field, Given, many, number, refused, table, text, word
from core.model import HeaderAction, HeaderChange, Model, Redirect, Rewrite, Rule

STATUSES = {f"http_{each}": each for each in (301, 302, 307, 308)}
REWRITE, MIRROR, INSERT, DELETE = 1, 2, 3, 4
OWN_VALUE = 2


def changed(rule: Rule, given: Given, model: Model) -> Rule:
    """The rule with what is given. Another action starts without the old one's further actions. Raises JdError."""
    fields: dict[str, Any] = {}
    if "host" in given:
        fields["domain"] = _domain(given.text("host"))
    if "path" in given:
        fields |= _place(given.text("path"))
    rule = dataclasses.replace(rule, **fields)
    redirects = rule.redirect is not None
    wanted = given.text("action", "Redirect" if redirects else "Forward") == "Redirect"
    if wanted is not redirects:
        rule = dataclasses.replace(
            rule, backend_service="", redirect=None, rewrite=None, request_headers=(), response_headers=()
        )
    rule = _redirected(rule, given) if wanted else _forwarded(rule, given, model)
    if "postActions" in given:
        found = [_header(each, "postActions") for each in given.tables("postActions")]
        rule = dataclasses.replace(rule, response_headers=tuple(found))
    return rule


def _domain(host: str) -> str:
    if "*" in host.removeprefix("*."):
        raise unsupported("host", "a star stands for what is before the first dot, as in *.example.com")
    return host.lower()


def _place(path: str) -> dict[str, str]:
    """Which paths: this one, or all that begin so."""
    if not path.startswith("/") or "*" in path.removesuffix("*"):
        raise invalid("path", "a path that starts with / is, with a star at its end or with none")
    if not path.endswith("*"):
        return {"path": path, "url": "/", "pattern": ""}
    above = path[: path.rindex("/")] or "/"
    return {"path": "", "url": above, "pattern": f"{path}*"}


def _redirected(rule: Rule, given: Given) -> Rule:
    for name in ("backendId", "preActions"):
        if name in given:
            raise invalid(name, "it is for action Forward")
    if "redirectActionSpec" not in given:
        if rule.redirect is None:
            raise missing("redirectActionSpec")
        return rule
    to = given.table("redirectActionSpec")
    if not set(to.values) - {"statusCode"}:
        raise missing("redirectActionSpec.path")
    return dataclasses.replace(
        rule,
        redirect=Redirect(
            STATUSES[to.text("statusCode")], to.text("protocol").lower(), to.text("host", "${host}"),
            to.number("port", 0), to.text("path", "${path}"), to.text("query", "${query}"),
        ),
    )  # fmt: skip


def _forwarded(rule: Rule, given: Given, model: Model) -> Rule:
    if "redirectActionSpec" in given:
        raise invalid("redirectActionSpec", "it is for action Redirect")
    if "backendId" in given:
        rule = dataclasses.replace(rule, backend_service=backends.find(model, given.text("backendId")).name)
    elif not rule.backend_service:
        raise missing("backendId")
    if "preActions" not in given:
        return rule
    actions = given.tables("preActions")
    rewrites = [each for each in actions if each.number("extendActionType", 0) == REWRITE]
    if len(rewrites) > 1:
        raise invalid("preActions", "one of extendActionType 1 is")
    headers = [_header(each, "preActions") for each in actions if each not in rewrites]
    rewrite = _rewritten(rule, rewrites[0]) if rewrites else None
    return dataclasses.replace(rule, rewrite=rewrite, request_headers=tuple(headers))


def _rewritten(rule: Rule, given: Given) -> Rewrite:
    if "rewriteSpec" not in given:
        raise missing("preActions.rewriteSpec")
    to = given.table("rewriteSpec")
    path = to.text("path", "${path}")
    if path.count("*") > 1 or ("*" in path and not rule.pattern):
        raise invalid("preActions.rewriteSpec.path", "one star is, for what the star of the rule's path stands for")
    return Rewrite(to.text("host", "${host}"), path.replace("*", "${1}"), to.text("query", "${query}"))


def _header(given: Given, name: str) -> HeaderChange:
    kind = given.number("extendActionType", 0)
    needed = {INSERT: "insertHeaderSpec", DELETE: "deleteHeaderSpec"}.get(kind)
    if needed is None:
        raise invalid(f"{name}.extendActionType", "3 and 4 are" if name == "postActions" else "1, 3 and 4 are")
    if needed not in given:
        raise missing(f"{name}.{needed}")
    spec = given.table(needed)
    if kind == DELETE:
        return HeaderChange(spec.text("key"), HeaderAction.REMOVE)
    return HeaderChange(spec.text("key"), HeaderAction.SET, spec.text("value"))


# --- looking


def row(rule: Rule, identity: str) -> dict[str, object]:
    """A rule as answers tell of it."""
    found: dict[str, object] = {"ruleId": identity, "host": rule.domain, "path": _shown(rule)}
    if rule.redirect is None:
        found |= {"action": "Forward", "backendId": rule.backend_service}
    else:
        to = rule.redirect
        found["action"] = "Redirect"
        found["redirectAction"] = {
            "protocol": to.protocol.capitalize(), "port": to.port, "host": to.host, "path": to.path,
            "query": to.query, "statusCode": f"http_{to.status}",
        }  # fmt: skip
    before = [_shown_header(each) for each in rule.request_headers]
    if rule.rewrite is not None:
        to_path = rule.rewrite.path.replace("${1}", "*")
        rewrite = {"host": rule.rewrite.host, "path": to_path, "query": rule.rewrite.query}
        before.insert(0, {"extendActionType": REWRITE, "rewrite": rewrite})
    return {**found, "preActions": before, "postActions": [_shown_header(each) for each in rule.response_headers]}


def _shown(rule: Rule) -> str:
    if rule.path:
        return rule.path
    return rule.pattern.removesuffix("*") if rule.pattern else f"{rule.url.rstrip('/')}/*"


def _shown_header(change: HeaderChange) -> dict[str, object]:
    if change.action is HeaderAction.REMOVE:
        return {"extendActionType": DELETE, "deleteHeader": {"key": change.name}}
    inserted = {"valueType": OWN_VALUE, "key": change.name, "value": change.value}
    return {"extendActionType": INSERT, "insertHeader": inserted}


_OWN = "values of the load balancer's own are set by listeners of the REST API (x_forwarded_for and others)"
_INSERT = table(
    "insertHeaderSpec",
    (
        word("valueType", str(OWN_VALUE), required=True, others={"1": _OWN}), text("key", 40, required=True),
        text("value", 128, required=True),
    ),
)  # fmt: skip
_DELETE = table("deleteHeaderSpec", (text("key", 40, required=True),))
_REWRITE = table("rewriteSpec", (text("host", 110), text("path", 128), text("query", 128)))
_KIND = number("extendActionType", REWRITE, DELETE, required=True)
_NO_MIRROR = refused("mirrorBackendId", "rules of the REST API may mirror requests")
FIELDS: tuple[Field, ...] = (
    text("host", 110), text("path", 128), word("action", "Forward", "Redirect"), text("backendId"),
    table(
        "redirectActionSpec",
        (
            word("protocol", "Http", "Https"), number("port", 1, 65535), text("host", 110), text("path", 128),
            text("query", 128), word("statusCode", *STATUSES, required=True),
        ),
    ),
    many("preActions", (_KIND, _NO_MIRROR, _INSERT, _DELETE, _REWRITE)),
    many("postActions", (_KIND, _INSERT, _DELETE)),
)  # fmt: skip
