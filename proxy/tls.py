"""TLS for the proxy's listeners, with private keys that the key server alone holds.

`TlsServer.configure` is given the whole desired state and replaces contexts in place: handshakes under way keep the
context they began with, connections do not notice. Each listener has one *base* context, which holds no certificate but
the session-ticket keys (tls_tickets.py); the client's SNI selects the context that has. So a session can be resumed on
every node, whatever happens to the certificates. The base lives as long as the listener's profile, which its ticket
keys depend on: no session outlives a change of what the listener demands, nor is one resumed at another listener.

A chain is served when the key server has found it sound and holds its key. One that it objects to leaves the
predecessor of the same name in service; one that could not be checked because no key server answered is served if there
is no predecessor (a node has to be able to start before its key server does). Both verdicts may change while nothing
changes here: the key arrives, the key server starts. So the caller has to ask for a `recheck` now and then.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from core.model import Certificate
from keyserver.errors import KeyServerError
from proxy import keyless, tls_waiting
from proxy.tls_admission import Terms
from proxy.tls_certificates import (
    CertificateError,
    Contexts,
    Credential,
    Group,
    TlsObject,
    base_context,
    make_context,
    read,
)
from proxy.tls_gatekeeper import Gatekeeper
from proxy.tls_handshake import Handshake, Lead, Signers
from proxy.tls_ocsp import Answers, Staples
from proxy.tls_profile import DEFAULT, Profile
from proxy.tls_stream import Buffers
from proxy.tls_tickets import Secrets, Tickets
from proxy.tls_waiting import Waiting

log = logging.getLogger(__name__)

TLS_ALERT_INTERNAL_ERROR = 80


def _quieten_bad_names() -> None:
    """A name in SNI that is not ASCII fails its handshake inside the ssl module, which prints a traceback besides.

    It cannot be caught elsewhere than in the hook, and would let any client fill the log.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        if isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes):
            log.debug("server name %r is not ASCII", unraisable.object)
        else:
            before(unraisable)

    if getattr(before, "__qualname__", "") != hook.__qualname__:
        sys.unraisablehook = hook


class Report(Protocol):
    @property
    def problems(self) -> Sequence[str]: ...


class Keys(Signers, Answers, Protocol):
    """What is used of `keyserver.client.KeyClient`."""

    async def check_chain(self, chain_pem: str, /) -> Report: ...
    async def ticket_secrets(self) -> Secrets: ...


class _Listener:
    """A listener's base context and the contexts that SNI chooses from."""

    def __init__(self, name: str, profile: Profile, tickets: Tickets) -> None:
        self.profile = profile
        self.terms = Terms()
        self.base = base_context(profile)
        if not profile.authorities:  # a ticket would stand for a client's certificate that was good once
            tickets.install(self.base, f"{name} {profile}")
        self.base.sni_callback = self._choose
        self.contexts = Contexts((), make_context)

    def _choose(self, tls: ssl.SSLObject, sni: str | None, _base: ssl.SSLContext) -> int | None:
        """Called for each ClientHello, with None where it names nobody."""
        assert isinstance(tls, TlsObject)
        tls.sni = sni or ""
        context = self.contexts.find(tls.sni)
        if context is None:
            tls.unserved = True
            return TLS_ALERT_INTERNAL_ERROR
        tls.context = context
        return None


_Made = dict[tuple[Profile, Group], ssl.SSLContext]


class TlsServer:
    """The TLS side of all listeners of one process. Raises KeylessUnavailable where keyless TLS cannot work.

    handshake_timeout_s: from the accepted connection to the client's Finished, where `terms` do not say.
    max_handshakes: in flight at once; see `tls_admission` for who gives way. close_timeout_s: for a client that does
    not take the last bytes. waiting: how handshakes wait for the key server; greenlets if there are any. To be made in
    the running loop, and for its thread only.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        handshake_timeout_s: float = 10.0,
        max_handshakes: int = 4096,
        close_timeout_s: float = 10.0,
        waiting: Waiting | None = None,
    ) -> None:
        keyless.load()
        _quieten_bad_names()
        self.keys = keys
        self._tickets = Tickets(time.time)
        self.waiting = waiting or tls_waiting.choose()
        self.buffers = Buffers()
        self.close_timeout_s = close_timeout_s
        self.loop = asyncio.get_running_loop()
        self.gate = Gatekeeper(self.loop, max_handshakes)
        self._default_terms = Terms(handshake_timeout_s)
        self._listeners: dict[str, _Listener] = {}
        self._former: dict[str, _Listener] = {}  # removed: whoever had connected by then is still served
        self._served: dict[str, Credential] = {}  # by certificate name
        self._unchecked: set[str] = set()  # chains of them that no key server has seen yet
        self._wanted: Mapping[str, Sequence[Certificate]] = {}
        self._profiles: Mapping[str, Profile] = {}
        self._terms: Mapping[str, Terms] = {}
        self._unsettled = False  # a verdict may change by itself
        self._made: _Made = {}
        self._staples = Staples(keys)
        self._problems: list[str] = []  # of the last `configure`
        log.info("TLS handshakes wait for the key server by %s", self.waiting.name)

    def protocol(self, listener: str, inner: asyncio.Protocol, lead: Lead | None = None) -> asyncio.BaseProtocol:
        """For an accepted socket of `listener`. `inner` sees a transport once the handshake is done, else nothing.

        `lead`: where the handshakes of an ACME CA go.
        """
        found = self._listeners.get(listener) or self._former[listener]
        return Handshake(self, found.base, found.terms, inner, lead, listener)

    def counters(self) -> dict[str, int]:
        """`ok`, `acme_led`, `failed_REASON` for each reason (see `Failure`), `stapled`; `in_flight` is a level."""
        return {**self.gate.counters(), "stapled": self._staples.stapled}

    def tickets(self) -> dict[str, int]:
        """Those `given`, `taken` from clients, and `unknown`: of keys that are not here, or not any more."""
        return dict(self._tickets.counts)

    async def close(self) -> None:
        """Gives up all handshakes in flight. Established connections stay."""
        self.gate.close()
        self.waiting.close()
        await asyncio.sleep(0)  # steps that ended in threads report

    # Configuration

    async def configure(
        self,
        listeners: Mapping[str, Sequence[Certificate]],
        profiles: Mapping[str, Profile] | None = None,
        terms: Mapping[str, Terms] | None = None,
    ) -> list[str]:
        """Puts the whole desired state into effect: listener name → its certificates, the first one the default.

        A listener that `profiles` or `terms` leave out has the default ones. Returns what is wrong, readable, one line
        each; a bad certificate keeps its predecessor of the same name. Not to be called again, nor `recheck`, before it
        has returned.
        """
        problems: list[str] = []
        self._wanted, self._profiles, self._terms = listeners, profiles or {}, terms or {}
        self._unsettled = False
        wanted = {certificate.name: certificate for group in listeners.values() for certificate in group}
        judged = await asyncio.gather(*(self._judge(each, problems) for each in wanted.values()))
        self._served = {each.name: each for each in judged if each is not None}
        self._unchecked &= {each.chain for each in self._served.values()}
        made: _Made = {}
        for name, certificates in listeners.items():
            credentials = [self._served[each.name] for each in certificates if each.name in self._served]
            try:
                listener = self._listener(name, self._profiles.get(name, DEFAULT))
            except CertificateError as error:
                problems.append(f"listener {name!r}: {error}; {self._without_authorities(name)}")
                continue
            listener.contexts = Contexts(credentials, partial(self._context, profile=listener.profile, made=made))
            listener.terms = self._terms.get(name, self._default_terms)
            self._listeners[name] = listener
            await asyncio.sleep(0)  # making a context takes a millisecond: others get their turn in between
            if not credentials:
                problems.append(f"listener {name!r}: no certificate can be served")
        self._former = {name: self._listeners.pop(name) for name in self._listeners.keys() - listeners.keys()}
        self._made = made
        await self._staples.ask(self._served.values(), self.loop.time())
        self._problems = problems
        return problems + self._staple_problems()

    async def recheck(self) -> list[str] | None:
        """Judges again what the key server objected to or has not seen, and renews OCSP answers.

        Returns the problems that are left; None: nothing can have changed.
        """
        if self._unsettled:
            return await self.configure(self._wanted, self._profiles, self._terms)
        if not any(each.responder for each in self._served.values()):
            return None
        await self._staples.ask(self._served.values(), self.loop.time())
        return self._problems + self._staple_problems()

    def _staple_problems(self) -> list[str]:
        problems = []
        for each in self._served.values():
            why = self._staples.why_not(each)
            if each.must_staple and not self._staples.has(each):
                why = f"clients insist on a stapled OCSP answer, and there is none: {why or 'it names no responder'}"
            elif why:
                until = "renewed" if self._staples.has(each) else "stapled"
                why = f"no OCSP answer is {until}: {why}"
            if why:
                problems.append(f"certificate {each.name!r}: {why}")
        return problems

    async def refresh_tickets(self) -> None:
        """Have the secrets of session tickets; to be done every few minutes. Raises KeyServerError."""
        self._tickets.replace(await self.keys.ticket_secrets())

    def _context(self, group: Group, profile: Profile, made: _Made) -> ssl.SSLContext:
        """The context of a group: the one that is in service, if there is one."""
        key = profile, group
        if key not in made:
            if key not in self._made:
                self._made[key] = make_context(group, profile)
                self._staples.attach(self._made[key])
            made[key] = self._made[key]
        return made[key]

    def _without_authorities(self, name: str) -> str:
        """Goes on by the authorities that a listener had, or refuses everybody: never without any. What it does."""
        before = self._listeners.get(name)
        if before is not None and before.profile.authorities:
            return "clients are asked as before"
        self._listeners[name] = _Listener(name, DEFAULT, self._tickets)
        return "every client is refused"

    def _listener(self, name: str, profile: Profile) -> _Listener:
        """The listener in service if its profile has not changed, else a new one."""
        listener = self._listeners.get(name)
        if listener is not None and listener.profile == profile:
            return listener
        return _Listener(name, profile, self._tickets)

    async def _judge(self, certificate: Certificate, problems: list[str]) -> Credential | None:
        """What is to be served under this certificate's name; None for nothing. Adds to `problems`."""
        before = self._served.get(certificate.name)
        same = before is not None and before.chain == certificate.chain
        if same and certificate.chain not in self._unchecked:
            return before
        if same:
            stays = "; it is served all the same"
        else:
            stays = "; its predecessor stays in service" if before is not None else "; it is not served"
        try:
            credential = read(certificate)
            self._context((credential,), DEFAULT, self._made)
            report = await self.keys.check_chain(certificate.chain)
        except CertificateError as error:
            problems.append(f"certificate {certificate.name!r}: {error}{stays}")
            return before
        except KeyServerError as error:
            why = f"certificate {certificate.name!r}: could not be checked: {error}"
            self._unsettled = True
            if before is not None and not same:
                problems.append(why + stays)
                return before
            problems.append(why + "; it is served unchecked")
            self._unchecked.add(certificate.chain)
            return credential
        if report.problems:
            self._unsettled = True
            problems.append(f"certificate {certificate.name!r}: {'; '.join(report.problems)}{stays}")
            return before
        self._unchecked.discard(certificate.chain)
        if credential.must_staple and before is not None and not same:
            await self._staples.ask_for(credential, self.loop.time())
            if not self._staples.has(credential):
                self._unsettled = True
                why = self._staples.why_not(credential) or "it names no responder"
                problems.append(
                    f"certificate {certificate.name!r}: clients insist on a stapled OCSP answer, "
                    f"and there is none yet: {why}{stays}"
                )
                return before
        return credential
