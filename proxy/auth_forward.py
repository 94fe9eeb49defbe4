"""Admission by another service's word: nginx's auth_request, Traefik's forwardAuth.

It is asked with a GET without a body: what the client asks for stands in X-Forwarded-Method, -Host, -Uri, -Proto and
-For, of the client's fields those that the configuration names. 2xx: the request goes on, with the fields that are to
be copied, and what the service says by Set-Cookie goes to the client. Anything else is its answer to the client. When
it does not answer, nobody passes, unless `fail_open` says otherwise.
"""

from __future__ import annotations

from typing import Final

from core import model
from proxy.actions import Changes, Reply
from proxy.admission import Await, Case, Refusal, Verdict
from proxy.errand import Answer, Errand
from proxy.errors import Code
from proxy.hub import Hub

ANSWER_BYTES: Final = 65_536
USER_BYTES: Final = 256


class ForwardAuth:
    """One authentication by `forward`."""

    problem = ""

    def __init__(self, each: model.Authentication, hub: Hub) -> None:
        assert each.forward is not None
        terms = each.forward
        self._hub, self._service, self._terms = hub, each.backend_service, terms
        self._host, self._path = terms.host.encode("ascii"), terms.path.encode("ascii")
        self._passed = frozenset(name.lower().encode("ascii") for name in terms.request_fields)
        self._user_field = each.user_field.lower().encode("ascii")
        self._copied = _copied(each, terms)
        self._removed = removed_of(each, terms)

    def look(self) -> None:
        """There is nothing that could be old."""

    def ask(self, case: Case) -> Verdict:
        """What becomes of a request: nobody knows before the service has said so."""
        return Await(lambda: self._ask(case))

    async def _ask(self, case: Case) -> Verdict:
        head, origin, terms = case.head, case.origin, self._terms
        fields = [each.line for each in head.block.fields if each.lower in self._passed and not each.acted_on]
        told = b"X-Forwarded-Method: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Uri: %b\r\n" % (
            head.method, head.host, case.target,
        )  # fmt: skip
        errand = Errand(self._hub, self._service, origin, ANSWER_BYTES)
        host = self._host or head.host
        answer = await errand.ask(self._service, host, self._path, fields, told, terms.timeout_s)
        if not isinstance(answer, Answer):
            case.means.count("forward_auth_failures")
            if not terms.fail_open:
                return Refusal(Code.AUTHENTICATION)
            case.identify("", Changes(self._removed, b""))
            return None
        cookies = b"".join(each.line for each in answer.block.fields if each.lower == b"set-cookie")
        if not 200 <= answer.status < 300:
            return _relayed(answer)
        lines = b"".join(
            b"%b: %b\r\n" % (name, value) for name in self._copied for value in answer.block.values(name.lower())
        )
        users = answer.block.values(self._user_field) if self._user_field else []
        user = users[0][:USER_BYTES].decode("latin-1") if users else ""
        case.identify(user, Changes(self._removed, lines), cookies)
        return None


def _copied(each: model.Authentication, terms: model.ForwardAuth) -> list[bytes]:
    return [name.encode("ascii") for name in (*terms.copied_fields, each.user_field) if name]


def removed_of(each: model.Authentication, terms: model.ForwardAuth) -> frozenset[bytes]:
    """Names (lower case) of fields of clients that servers do not get: those that are copied, and what was to prove
    something to the service alone."""
    removed = frozenset(name.lower() for name in _copied(each, terms))
    shown = any(name.lower() == "authorization" for name in terms.request_fields)
    return removed | {b"authorization"} if shown and not each.pass_credentials else removed


def _relayed(answer: Answer) -> Reply:
    """The service's answer for the client, framed anew."""
    lines = b"".join(
        each.line for each in answer.block.fields if not each.acted_on and each.lower not in answer.block.connection
    )
    return Reply.of(answer.status, lines, answer.body)
