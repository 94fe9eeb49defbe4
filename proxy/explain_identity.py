"""Who would be found out to have sent a request, as far as that can be said without secrets: for proxy/explain_way.py.

No file of the nodes is read, and nobody is asked. A password is taken for right; a token is verified where its keys
stand in the configuration, and else taken for good; so is the word of another service.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from core import model
from proxy.actions import Changes
from proxy.admission import Case, Refusal, Verdict
from proxy.auth_forward import removed_of as removed_of_forward
from proxy.auth_jwt import Bearer
from proxy.errors import Code
from proxy.jwt_keys import read
from proxy.jwt_verify import Bad, Verifier, encoded
from proxy.passwords import Malformed, credentials


class Supposed:
    """One authentication. `notes` say what was taken for granted."""

    def __init__(self, each: model.Authentication, now: float) -> None:
        self.each, self._now = each, now
        self.notes: list[str] = []

    def ask(self, case: Case) -> Verdict:
        """See `proxy.admission.Authenticator`."""
        try:
            if self.each.basic is not None:
                return self._basic(case)
            if self.each.certificate is not None:
                return self._certificate(case)
            return self._jwt(self.each.jwt, case) if self.each.jwt is not None else self._forward(case)
        except Malformed:
            return Refusal(Code.AUTHORIZATION)

    def _basic(self, case: Case) -> Verdict:
        given = credentials(case.head)
        if given is None:
            return Refusal(Code.UNAUTHENTICATED)
        assert self.each.basic is not None
        self.notes.append(f"supposed that {self.each.basic.users_file} of the nodes has {given.name} and this password")
        user = encoded(given.name)
        field = self.each.user_field.encode("ascii")
        gone = {b"authorization"} if not self.each.pass_credentials else set()
        lines = b"%b: %b\r\n" % (field, user) if field else b""
        case.identify(user.decode("ascii"), Changes(frozenset(gone | ({field.lower()} if field else set())), lines))
        return None

    def _certificate(self, case: Case) -> Verdict:
        self.notes.append("supposed that the client's certificate is one of those that are meant")
        field = self.each.user_field.lower().encode("ascii")
        case.identify("", Changes(frozenset((field,) if field else ()), b""))
        return None

    def _jwt(self, terms: model.Jwt, case: Case) -> Verdict:
        bearer = Bearer(self.each, terms)
        token = bearer.token(case.head)
        if token is None:
            return Refusal(Code.UNAUTHENTICATED)
        user, lines = "", b""
        if terms.jwks:
            verifier = Verifier(terms, self.each.user_field)
            try:
                good = verifier.verify(token, read(terms.jwks, [each.value for each in terms.algorithms]), self._now)
            except Bad as bad:
                self.notes.append(bad.reason.value)
                return Refusal(Code.FORBIDDEN if bad.reason.of_rights else Code.UNAUTHENTICATED)
            user, lines = good.user, good.lines
        else:
            where = terms.jwks_url or f"{terms.secret_file} of the nodes"
            self.notes.append(f"supposed that the token is good: its keys are at {where}")
        case.identify(user, Changes(bearer.removed, lines))
        return None

    def _forward(self, case: Case) -> Verdict:
        assert self.each.forward is not None
        self.notes.append(f"supposed that {self.each.backend_service} lets it pass")
        case.identify("", Changes(removed_of_forward(self.each, self.each.forward), b""))
        return None


class Supposing(Mapping[str, Supposed]):
    """Those of a configuration; `asked` is the one that was."""

    def __init__(self, authentications: Mapping[str, model.Authentication], now: float) -> None:
        self._authentications, self._now = authentications, now
        self.asked: Supposed | None = None

    def __getitem__(self, name: str) -> Supposed:
        self.asked = Supposed(self._authentications[name], self._now)
        return self.asked

    def __iter__(self) -> Iterator[str]:
        return iter(self._authentications)

    def __len__(self) -> int:
        return len(self._authentications)
