"""From a request's head that was read to the server, or to the answer of our own: the part of proxy/explain.py behind
the listener.

The exchange is the one that workers have; its commands are looked at in place of being carried out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from core.explain import (
    Explanation,
    Facts,
    Outcome,
    Place,
)
from core.fields import Kind
from core.model import Model, Rule
from core.overrides import configured
from core.resolve import L7Listener, l7_services, servers
from core.rules import conditional, matches, ordered
from proxy.actions import Forward
from proxy.admission import Means
from proxy.answering import Answering
from proxy.balance import Address
from proxy.commands import Assign, SendClient, SendUpstream
from proxy.conditions import Conditions
from proxy.cors import is_preflight
from proxy.demands import Demands
from proxy.errors import Code
from proxy.exchange import Exchange
from proxy.explain_answer import say_compression, say_pages
from proxy.explain_choice import Chooser, Health
from proxy.explain_demands import limits, reason
from proxy.explain_identity import Supposing
from proxy.headers import hsts_line
from proxy.message import RequestHead
from proxy.names import host_name
from proxy.origin import Origin
from proxy.redirect_map import Table
from proxy.rules import Router
from proxy.split import split_of
from proxy.sticky import Seal, Sticky

NEAR: Final = 8  # rules that are told of besides the one that decides
IDENTIFIER: Final = b"explained"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known besides the configuration: the nodes' reports, and the secret of sticky cookies."""

    flows: Facts = field(default_factory=Facts)
    health: Health = field(default_factory=Health)
    cookie_secret: bytes = field(default=b"", repr=False)
    node: str = ""  # of the L7 nodes, where it matters which


class Way:
    """From the head that was read to the server, or to the answer of our own."""

    def __init__(
        self, told: Explanation, model: Model, each: L7Listener, origin: Origin, head: RequestHead, known: Known,
        node: str,
    ) -> None:  # fmt: skip
        self._told, self._model, self._each, self._origin, self._head = told, model, each, origin, head
        self._known, self._node = known, node
        self._target = head.target
        self._stickies = self._make_stickies()
        self._supposing = Supposing(model.authentications, time.time())
        listener = each.listener
        self._made_of = (each.rules, listener.backend_service, listener.https_redirect_port)
        self._rules = {rule.name: rule for rule in each.rules}
        self._tables = {made.name: Table.of(made) for made in each.maps}

    def go(self) -> None:
        exchange = self._exchange(self._each.rules)
        commands = exchange.start()
        self._target = exchange.target
        self._say_rule(exchange)
        if exchange.error is None:
            for what, text, place in limits(self._each.listener, self._rules.get(exchange.rule)):
                self._told.say(what, text, place)
        self._say_identity(exchange)
        command = commands[0]
        if isinstance(command, Assign):
            self._forward(exchange, command)
        else:
            assert isinstance(command, SendClient)
            self._answer(exchange, command.data)

    def _exchange(self, rules: Sequence[Rule]) -> Exchange:
        _, default, https_port = self._made_of
        listener, guards, tables = self._each.listener, self._each.guards, tuple(self._tables.values())
        more = Demands.of_listener(listener), guards, tables, Answering.of_listener(listener)
        router = Router(rules, default, https_port, self._stickies, *more)
        hsts = hsts_line(self._each.listener)
        return Exchange(
            self._head, self._origin, router, IDENTIFIER, lambda: b"now", hsts=hsts,
            means=Means(authenticators=self._supposing),
        )  # fmt: skip

    def _make_stickies(self) -> dict[str, Sticky]:
        made = {}
        for name, service in l7_services(self._model).items():
            if service.sticky_session is not None:
                sticky = made[name] = Sticky(Seal(self._known.cookie_secret or bytes(32), time.time))
                sticky.update(service.sticky_session, [(s.address, s.port) for s in servers(self._model, service)])
        return made

    def _say_identity(self, exchange: Exchange) -> None:
        """Who it is, where that is asked for; a refusal is told of at the end."""
        supposed = self._supposing.asked
        if supposed is None:
            return
        self._told.result["user"] = exchange.user
        if exchange.error is None:
            user = exchange.user or "somebody that it knows"
            place = Place(Kind.AUTHENTICATIONS, supposed.each.name)
            self._told.say("identity", f"{supposed.each.name} finds {user}", place, *supposed.notes)

    # -- the rule

    def _say_rule(self, exchange: Exchange) -> None:
        told, listener = self._told, self._each.listener
        path = exchange.target.partition(b"?")[0].decode("ascii")
        if exchange.target != self._head.target and exchange.error is None:
            before = self._head.target.partition(b"?")[0].decode("ascii")
            told.say("path", f"{before} is {path} in its normal form, by which it is routed and forwarded")
        told.result |= {"rule": exchange.rule, "path": path}
        routed = exchange.error is None or exchange.error.label != "ambiguous_path"
        near = list(self._near(exchange.rule, path))[:NEAR] if routed else []
        rule = self._rules.get(exchange.rule)
        if rule is not None:
            told.say("rule", f"{rule.name}: {_asks(rule)}", Place(Kind.RULES, rule.name), *near)
        elif exchange.error is None or exchange.error.label == "no_rule":
            what = "none matches" if self._rules else f"{listener.name} has none"
            place = Place(Kind.LISTENERS, listener.name, "backend_service" if listener.backend_service else "")
            told.say("rule", f"{what}: what the listener itself says", place, *near)

    def _near(self, winner: str, path: str) -> Iterator[str]:
        """Rules that were asked before, or are for the same place, and why they are not the one."""
        name = host_name(self._head.host)
        after = False
        beside: list[str] = []
        for rule in ordered(self._each.rules):
            if rule.name == winner:
                after = True
                continue
            if matches(rule, name, path):
                missing = list(self._missing(rule))
                if missing:
                    yield f"not {rule.name}: {'; '.join(missing)}"
                elif after:
                    yield f"not {rule.name}, which matches too: {winner} comes first"
            elif matches(replace(rule, path="", url="/"), name, "/"):
                where = f"path {rule.path}" if rule.path else f"url {rule.url}"
                beside.append(f"not {rule.name}: its {where} is not that of {path}")
        yield from beside

    def _missing(self, rule: Rule) -> Iterator[str]:
        """Which of a rule's conditions do not hold, each asked by itself."""
        bare = replace(rule, pattern="", methods=(), headers=(), queries=(), cookies=(), redirect_map="")
        alone = (
            [(f"its pattern {rule.pattern} does not match", replace(bare, pattern=rule.pattern))]
            if rule.pattern
            else []
        )
        if rule.methods:
            alone.append((f"its methods are {', '.join(rule.methods)}", replace(bare, methods=rule.methods)))
        for attribute, what in (("headers", "header"), ("queries", "query"), ("cookies", "cookie")):
            for condition in getattr(rule, attribute):
                values = " or ".join(condition.values) or "any value"
                text = f"the {what} {condition.name} is not {values}"
                changes: dict[str, Any] = {attribute: (condition,)}
                alone.append((text, replace(bare, **changes)))
        for text, only in alone:
            conditions = Conditions.of(only)
            if conditions is not None and not conditions.hold(self._head, self._target):
                yield text
        if rule.redirect_map and self._tables[rule.redirect_map].find(self._head.host, self._target) < 0:
            yield f"its map {rule.redirect_map} has no entry for it"

    # -- the ends

    def _answer(self, exchange: Exchange, data: bytes) -> None:
        """One of our own."""
        told, rule = self._told, self._rules.get(exchange.rule)
        status = int(data.split(b" ", 2)[1])
        told.result["status"] = status
        lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        location = next((line.partition(": ")[2] for line in lines if line.startswith("Location: ")), "")
        if exchange.error is not None:
            told.result["error"] = exchange.error.label
            text = f"{status} {exchange.error.label}: {exchange.error.said(exchange.offset)}"
            step, place = self._refuser(exchange)
            say_pages(told, exchange, self._each.listener, rule, status)
            supposed = self._supposing.asked
            told.end(Outcome.REFUSED, step, text, place, *(supposed.notes if supposed is not None else ()))
        elif exchange.browsers is not None and exchange.browsers.cors is not None and is_preflight(self._head):
            _, place = self._cors(rule)
            text = f"{status}: the browser is told that the script may send its request"
            told.end(Outcome.ANSWERED, "preflight", text, place, *[line for line in lines if _is_cors(line)])
        elif location:
            told.result["location"] = location
            place = Place(Kind.RULES, rule.name, "redirect") if rule is not None else \
                Place(Kind.LISTENERS, self._each.listener.name, "https_redirect_port")  # fmt: skip
            if rule is not None and rule.redirect_map:
                place = Place(Kind.REDIRECT_MAPS, rule.redirect_map, "entries")
                self._say_entry(rule.redirect_map, place)
            told.end(Outcome.REDIRECTED, "redirect", f"{status} to {location}", place, *_responds(rule))
        else:
            assert rule is not None
            told.end(
                Outcome.ANSWERED, "fixed reply", f"{status}, with the text of the rule",
                Place(Kind.RULES, rule.name, "fixed_reply"), *_responds(rule),
            )  # fmt: skip

    def _refuser(self, exchange: Exchange) -> tuple[str, Place | None]:
        """The step at which a request was refused, and what has it so."""
        assert exchange.error is not None
        rule = self._rules.get(exchange.rule)
        if exchange.error is Code.CORS:
            return self._cors(rule)
        if self._supposing.asked is not None:
            return "identity", Place(Kind.AUTHENTICATIONS, self._supposing.asked.each.name)
        return reason(exchange.error, self._each.listener, rule)

    def _cors(self, rule: Rule | None) -> tuple[str, Place]:
        if rule is not None and rule.cors is not None:
            return "preflight", Place(Kind.RULES, rule.name, "cors")
        return "preflight", Place(Kind.LISTENERS, self._each.listener.name, "cors")

    def _to_browsers(self, exchange: Exchange) -> Iterator[str]:
        """What browsers are told besides."""
        browsers = exchange.browsers
        if browsers is None:
            return
        for line in browsers.lines(self._head).decode("ascii").splitlines():
            yield f"+ {line}" if _is_cors(line) else f"+ {line}, unless the server says it"
        if browsers.cors is not None and self._head.values(b"origin") and not browsers.cors.allows(self._head):
            yield "no Access-Control-Allow-Origin: scripts of this origin may not read it"

    def _say_entry(self, name: str, place: Place) -> None:
        table = self._tables[name]
        line, source, to, status = table.entry(table.find(self._head.host, self._target))
        entry = f"{source} {to}{f' {status}' if status else ''}"
        self._told.result["entry"] = entry
        self._told.say("redirect map", f"{name} has an entry for it in line {line}: {entry}", place)

    def _forward(self, exchange: Exchange, command: Assign) -> None:
        told, rule = self._told, self._rules.get(exchange.rule)
        names = [command.service]
        if rule is not None and rule.split:
            names = self._say_split(rule, exchange, command)
        self._say_cookie(command)
        server: Address | None = None
        for name in names:
            chooser = Chooser(self._model, self._node, self._known.health)
            prefer = command.prefer if name == command.service else None
            server = chooser.choose(told, name, self._head, exchange.target, self._origin.client, prefer)
        if len(names) > 1:
            told.result |= {"server": "", "service": ""}
        elif not told.result["candidates"] and not told.result["server"]:
            told.result |= {"status": 503, "error": "no_healthy_server"}
            told.end(Outcome.REFUSED, "answer", "503 no_healthy_server: no server is healthy and has weight")
            return
        sent = exchange.assigned(server or ("0.0.0.0", 0), reused=False)
        assert isinstance(sent[0], SendUpstream)
        self._say_request(sent[0].data, rule)
        self._say_introduction(told.result["service"])
        self._say_times(told.result["service"])
        say_pages(told, exchange, self._each.listener, rule)
        say_compression(told, exchange, self._each.listener, rule)
        if rule is not None and rule.mirror is not None and rule.mirror.percent:
            text = f"{rule.mirror.percent:g} % of them go to {rule.mirror.backend_service} too, which nobody waits for"
            told.say("mirror", text, Place(Kind.RULES, rule.name, "mirror"))
        if notes := [*_responds(rule), *self._cookies_set(command), *self._hsts(), *self._to_browsers(exchange)]:
            told.say("response", "on its way back it changes", None, *notes)

    def _say_split(self, rule: Rule, exchange: Exchange, command: Assign) -> list[str]:
        """The services that it may go to."""
        told, place = self._told, Place(Kind.RULES, rule.name, "split")
        split = split_of([Forward(share.backend_service) for share in rule.split], rule.split, rule.split_by)
        parts = ", ".join(f"{share.backend_service} ({share.weight})" for share in rule.split)
        if split.claimed(self._head) is not None:
            told.say("split", f"{command.service}: a field or cookie of the request says so, not the weights", place)
        elif command.prefer is not None:
            told.say("split", f"{command.service}: the client has its server there", place)
        elif rule.split_by:
            missing = rule.split_by != "source" and not split.key(self._head, exchange.target)
            by = f"the client's address, as the request has no {rule.split_by}" if missing else rule.split_by
            where = Place(Kind.RULES, rule.name, "split_by")
            told.say("split", f"{command.service}: by {by}, always the same at these weights: {parts}", where)
        else:
            told.say("split", f"whose turn it is, by their weights: {parts}", place)
            told.result["services"] = [share.backend_service for share in rule.split if share.weight]
            return list(told.result["services"])
        return [command.service]

    def _say_cookie(self, command: Assign) -> None:
        service = l7_services(self._model)[command.service]
        if service.sticky_session is None or command.prefer is not None:
            return
        name = service.sticky_session.cookie
        place = Place(Kind.BACKEND_SERVICES, configured(service.name), "sticky_session")
        if not any(name.encode() in value for value in self._head.values(b"cookie")):
            self._told.say("cookie", f"the request has no {name}: it gets a server by the scheduler", place)
        elif not self._known.cookie_secret:
            self._told.say("cookie", f"which server its {name} names is known to the L7 nodes alone", place)
        else:
            self._told.say("cookie", f"its {name} is none that names a server now: the scheduler decides", place)

    def _cookies_set(self, command: Assign) -> Iterator[str]:
        service = l7_services(self._model)[command.service]
        sticky = service.sticky_session
        if sticky is not None and sticky.type == "insert" and command.prefer is None:
            yield f"+ Set-Cookie: {sticky.cookie}=…, for {sticky.cookie_timeout_s} s"

    def _hsts(self) -> Iterator[str]:
        if line := hsts_line(self._each.listener):
            yield f"+ {line.decode().strip()}"

    def _say_request(self, data: bytes, rule: Rule | None) -> None:
        """What the server gets, where that is not what the client sent."""
        lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        first = f"{self._head.method.decode()} {self._head.target.decode()} HTTP/1.1"
        had = [f"{each.name.decode()}: {each.value.decode('latin-1')}" for each in self._head.block.fields]
        changed = [f"- {line}" for line in [first, *had] if line not in lines]
        changed += [f"+ {line}" for line in lines if line not in [first, *had]]
        self._told.result["upstream_head"] = lines
        place = None
        if rule is not None and (rule.rewrite is not None or rule.request_headers):
            place = Place(Kind.RULES, rule.name, "rewrite" if rule.rewrite is not None else "request_headers")
        self._told.say("request", f"the server gets {lines[0]}; it differs from what came in", place, *changed)

    def _say_introduction(self, name: str) -> None:
        service = l7_services(self._model).get(name)
        if service is None or not service.proxy_protocol.version:
            return
        text = (
            f"the connection begins with a header of version {service.proxy_protocol.version}, which tells the "
            f"client's address, {self._origin.client.decode('ascii')}; no other client's requests use it"
        )
        place = Place(Kind.BACKEND_SERVICES, configured(name), "proxy_protocol")
        self._told.say("PROXY header", text, place)

    def _say_times(self, name: str) -> None:
        service, listener = l7_services(self._model).get(name), self._each.listener
        if service is None:
            return
        first = service.first_byte_timeout_s or listener.request_timeout_s
        text = f"{service.connect_timeout_s:g} s to connect, {first:g} s to the first byte of the answer"
        whole = f", {service.total_timeout_s:g} s altogether" if service.total_timeout_s else ""
        self._told.say("times", text + whole, Place(Kind.BACKEND_SERVICES, configured(name)))


def _is_cors(line: str) -> bool:
    return line.startswith(("Access-Control-", "Vary: "))


def _asks(rule: Rule) -> str:
    """What a rule is for, in words."""
    where = f"path {rule.path}" if rule.path else f"url {rule.url}"
    parts = [f"domain {rule.domain or 'any'}", where, *([f"priority {rule.priority}"] if rule.priority else ())]
    if conditional(rule):
        parts.append("and all its conditions hold")
    return ", ".join(parts)


def _responds(rule: Rule | None) -> list[str]:
    changes = rule.response_headers if rule is not None else ()
    return [f"{each.action} {each.name}{f': {each.value}' if each.value else ''}" for each in changes]
