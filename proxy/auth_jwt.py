"""Admission by a signed token (RFC 6750, RFC 7519).

The signature of a token takes some 50 to 200 µs to verify; a token that was good is remembered until it ends. Keys that
come from a URL are fetched by the worker itself, through a backend service: anew every `jwks_interval_s`, sooner after
a failure (FIRST_S, and twice as long each time), and when a token names a key that is not known, but not more often
than every AGAIN_S, however many such tokens come. Keys that are there stay through failures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from control.node.tasks import Tasks
from core import model
from proxy import jwt_keys
from proxy.actions import Changes
from proxy.admission import Await, Case, Refusal, Verdict
from proxy.conditions import cookie_pairs
from proxy.errand import Answer, Errand, Failure
from proxy.errors import Code
from proxy.hub import Hub
from proxy.jwt_keys import KeySet
from proxy.jwt_verify import Bad, Good, Reason, Verifier
from proxy.message import Asked
from proxy.origin import Origin, Telling
from proxy.passwords import Malformed
from proxy.remembered import Remembered, digest
from proxy.secret_file import SecretFile

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0
FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0
AGAIN_S: Final = 30.0
_SCHEME: Final = b"bearer "
_SILENT: Final = Telling(address=False, scheme=False, port=False)


class Keys:
    """Where the keys of one authentication come from. `current` None: there have never been any."""

    def __init__(self, each: model.Authentication, hub: Hub) -> None:
        assert each.jwt is not None
        terms = each.jwt
        self._name, self._service, self._url, self._hub = each.name, each.backend_service, terms.jwks_url, hub
        self._allowed = [algorithm.value for algorithm in terms.algorithms]
        self._every_s = float(terms.jwks_interval_s)
        self._file: SecretFile[KeySet] | None = None
        self._fetched: KeySet | None = None
        self._why = ""
        self._fetching: asyncio.Task[None] | None = None
        self._next_at = self._may_again_at = 0.0
        self._pause_s = FIRST_S
        if terms.secret_file:
            self._file = SecretFile(terms.secret_file, lambda data: jwt_keys.shared(data.strip(b"\r\n"), self._allowed))
        elif terms.jwks:
            self._fetched = jwt_keys.read(terms.jwks, self._allowed)

    @property
    def current(self) -> KeySet | None:
        return self._file.content if self._file is not None else self._fetched

    @property
    def problem(self) -> str:
        if self._file is not None:
            return self._file.problem
        kept = "nobody is admitted by it" if self._fetched is None else "the keys of before hold"
        return f"no keys from {self._url}: {self._why}; {kept}" if self._why else ""

    def look(self, tasks: Tasks, now: float) -> None:
        """Sees that keys are new enough."""
        if self._file is not None:
            self._file.look()
        elif self._url and now >= self._next_at:
            self.fetch(tasks, now)

    def fetch(self, tasks: Tasks, now: float) -> asyncio.Task[None]:
        """Fetches them now; the task that does so already, if one does."""
        if self._fetching is None or self._fetching.done():
            self._may_again_at = now + AGAIN_S
            self._next_at = now + LONGEST_S  # until it has ended
            self._fetching = tasks.spawn(self._fetch(), f"keys of {self._name}")
        return self._fetching

    def missing(self, tasks: Tasks, now: float) -> asyncio.Task[None] | None:
        """A token names a key that is not known: whoever fetches them is worth waiting for; None: there is no use."""
        if not self._url:
            return None
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        return self.fetch(tasks, now) if now >= self._may_again_at else None

    async def _fetch(self) -> None:
        url, hub = urlsplit(self._url), self._hub
        origin = Origin(b"", b"http", b"", False, hub.node, telling=_SILENT)
        target = (url.path + (f"?{url.query}" if url.query else "")).encode("ascii")
        errand = Errand(hub, self._service, origin, jwt_keys.MOST_BYTES)
        accept = b"Accept: application/jwk-set+json, application/json\r\n"
        told = await errand.ask(self._service, url.netloc.encode("ascii"), target, (accept,), b"", TIMEOUT_S)
        hub.count("key_sets_fetched")
        try:
            self._take(told)
        except ValueError as error:
            if str(error) != self._why:
                log.warning("%s: no keys from %s: %s", self._name, self._url, error)
            hub.count("key_sets_failed")
            self._why = str(error)
            self._next_at = hub.now() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_S)
        else:
            self._why, self._pause_s = "", FIRST_S
            self._next_at = hub.now() + self._every_s

    def _take(self, told: Answer | Failure) -> None:
        """Raises ValueError."""
        if isinstance(told, Failure):
            raise ValueError(told.why)
        if told.status != 200:
            raise ValueError(f"status {told.status}")
        keys = jwt_keys.read(told.body, self._allowed)
        if self._fetched is None or keys.names != self._fetched.names:
            log.info("%s: keys from %s: %s", self._name, self._url, ", ".join(keys.names))
        self._fetched = keys


class Bearer:
    """Where requests have their token. `removed`: names (lower case) of fields of clients that servers do not get."""

    def __init__(self, each: model.Authentication, terms: model.Jwt) -> None:
        self._kind, _, name = terms.token.partition(":")
        self._name = name.encode("ascii")
        fields = (each.user_field, *(field for _, field in terms.claim_fields))
        self.removed = frozenset(field.lower().encode("ascii") for field in fields if field)
        if not each.pass_credentials and self._kind != "cookie":  # cookies are the servers' own business
            self.removed |= {self._name.lower() if self._kind == "header" else b"authorization"}

    def token(self, asked: Asked) -> bytes | None:
        """None: there is none. Raises Malformed where there are several."""
        if self._kind == "cookie":
            values = [value for name, value in cookie_pairs(asked) if name == self._name]
        else:
            values = asked.values(self._name.lower() if self._kind == "header" else b"authorization")
        if len(values) > 1:
            raise Malformed
        if not values or self._kind != "authorization":
            return values[0] if values and values[0] else None
        scheme, token = values[0][: len(_SCHEME)], values[0][len(_SCHEME) :]
        return token.lstrip(b" ") if scheme.lower() == _SCHEME else None


class JwtAuth:
    """One authentication by `jwt`."""

    def __init__(self, each: model.Authentication, hub: Hub, wall_clock: Callable[[], float]) -> None:
        assert each.jwt is not None
        terms = each.jwt
        self.keys = Keys(each, hub)
        self._tasks, self._now, self._wall_clock = hub.tasks, hub.now, wall_clock
        self._verifier = Verifier(terms, each.user_field)
        self._realm = terms.realm.encode("ascii")
        self._bearer = Bearer(each, terms)
        self._good: Remembered[Good] = Remembered()
        self._good_by: KeySet | None = None

    @property
    def problem(self) -> str:
        return self.keys.problem

    def look(self) -> None:
        """Sees that keys are new enough."""
        self.keys.look(self._tasks, self._now())

    def ask(self, case: Case) -> Verdict:
        """What becomes of a request."""
        try:
            token = self._bearer.token(case.head)
        except Malformed:
            return Refusal(Code.AUTHORIZATION, self._challenge("invalid_request", "the token is given in several ways"))
        if token is None:
            return Refusal(Code.UNAUTHENTICATED, self._challenge())
        return self._verify(case, token, again=True)

    def _verify(self, case: Case, token: bytes, *, again: bool) -> Verdict:
        keys, now = self.keys.current, self._wall_clock()
        if keys is not self._good_by:
            self._good_by = keys
            self._good.clear()
        if keys is None:
            return self._wait(case, token) if again else Refusal(Code.AUTHENTICATION)
        name = digest(token)
        good = self._good.get(name, now)
        if good is None:
            try:
                case.means.count("tokens_verified")
                good = self._verifier.verify(token, keys, now)
            except Bad as bad:
                return self._refuse(case, token, bad.reason, again=again)
            self._good.put(name, good, good.until)
        case.identify(good.user, Changes(self._bearer.removed, good.lines))
        return None

    def _wait(self, case: Case, token: bytes) -> Verdict:
        """For keys, if it is of use."""
        task = self.keys.missing(self._tasks, case.means.now())
        if task is None:
            return Refusal(Code.AUTHENTICATION)
        return Await(lambda: self._verify_after(task, case, token))

    async def _verify_after(self, task: asyncio.Task[None], case: Case, token: bytes) -> Verdict:
        await asyncio.wait([task])
        return self._verify(case, token, again=False)

    def _refuse(self, case: Case, token: bytes, reason: Reason, *, again: bool) -> Verdict:
        if reason is Reason.KEY and again:
            task = self.keys.missing(self._tasks, case.means.now())
            if task is not None:
                return Await(lambda: self._verify_after(task, case, token))
        if reason.of_rights:
            return Refusal(Code.FORBIDDEN, self._challenge("insufficient_scope", reason.value))
        return Refusal(Code.UNAUTHENTICATED, self._challenge("invalid_token", reason.value))

    def _challenge(self, error: str = "", why: str = "") -> bytes:
        """RFC 6750 §3: nothing but the realm for whoever gave no token."""
        told = f', error="{error}", error_description="{why}"' if error else ""
        return b'WWW-Authenticate: Bearer realm="%b"%b\r\n' % (self._realm, told.encode("ascii"))
