"""One TLS handshake: the protocol of a socket until the connection is established or has failed.

    TCP accepted ─► admitted? ─► ClientHello … Finished ─► TlsStream takes the socket over, the application is told
                     └► refused     ├► failed: alert sent, counted by reason
                                    └► of an ACME CA: led to the issuer, if the listener has one (acme_passage.py)

`do_handshake` runs as a *step* (`tls_waiting`) until it has asked for its one signature, directly from then on. A
step takes its turn (`tls_admission.Turns`). From its beginning to its end OpenSSL's objects are not touched; what
arrives meanwhile is set aside, up to a limit. The application hears nothing of a handshake that fails.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Protocol, cast

from proxy import keyless
from proxy.tls_admission import Terms
from proxy.tls_certificates import TlsObject
from proxy.tls_failures import Failure, error_text, failure_of
from proxy.tls_hello import Look, look
from proxy.tls_stream import Buffers, TlsStream
from proxy.tls_verify import verifies
from proxy.tls_waiting import Signed, Step, Waiting

log = logging.getLogger(__name__)

# Bytes that may arrive while a signature is awaited. An honest client has nothing to say then.
ASIDE_LIMIT = 65536
PLAIN_HTTP_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 40\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTPS, not plain HTTP.\n"
)
# Alerts as they stand in a record before anything is encrypted (RFC 8446 §6): fatal, and why.
_ALERT = b"\x15\x03\x03\x00\x02\x02%c"
INTERNAL_ERROR, NO_APPLICATION_PROTOCOL = 80, 120


class Signers(Protocol):
    """What a handshake needs of `keyserver.client.KeyClient`."""

    def sign_soon(
        self, key_id: bytes, scheme: int, content: bytes, sni: str, done: Callable[[bytes | Exception], None], /
    ) -> object: ...

    def distrust(self, asked: object, /) -> None:
        """The signature that this `sign_soon` led to is wrong."""


class Gate(Protocol):
    """Who counts handshakes and bounds their number and time: `tls_gatekeeper`."""

    def admit(self, handshake: Handshake, address: str, terms: Terms) -> bool:
        """False: too many; counted as refused. True: `left` has to follow, and `expire` may come before it."""

    def left(self, handshake: Handshake, failure: Failure | None) -> None: ...

    def led(self, handshake: Handshake) -> None:
        """As `left`: it was the issuer's, and is over."""

    def signed(self, handshake: Handshake, took_s: float) -> None:
        """The key server has answered, whatever it said."""

    def begin(self, handshake: Handshake) -> bool:
        """Whether work may be done now; if not, `go_on` follows when it may."""


# Leads a client's connection, which began with these bytes, to the ACME issuer; False: there is none. What it calls at
# the end, before it closes the connection, gets the reason why it could not; empty if it could.
Lead = Callable[[asyncio.Transport, bytes, Callable[[str], None]], bool]


class Supervisor(Protocol):
    """What handshakes share."""

    waiting: Waiting
    buffers: Buffers
    close_timeout_s: float
    loop: asyncio.AbstractEventLoop

    @property
    def keys(self) -> Signers: ...

    @property
    def gate(self) -> Gate: ...


class Handshake(asyncio.BufferedProtocol):
    __slots__ = (
        "_aside",
        "_asked",
        "_asked_at",
        "_context",
        "_ended",
        "_heard",
        "_incoming",
        "_inner",
        "_key_error",
        "_lead",
        "_outgoing",
        "_over",
        "_raw",
        "_raw_paused",
        "_signature",
        "_signed",
        "_step",
        "_supervisor",
        "_terms",
        "_tls",
        "busy",
        "client",
        "listener",
    )

    def __init__(
        self,
        supervisor: Supervisor,
        context: ssl.SSLContext,
        terms: Terms,
        inner: asyncio.Protocol,
        lead: Lead | None = None,
        listener: str = "",
    ) -> None:
        self._supervisor = supervisor
        self.listener = listener  # by its name
        self._context = context
        self._terms = terms
        self.client = ""  # whose limit it counts towards
        self._inner = inner
        self._lead = lead
        self._heard: bytes | None = b""  # of the ClientHello, until it is known whose it is
        self._aside = b""
        self.busy = False  # a step runs or waits, or it has to wait for its turn: it is not the client that is slow
        self._step: Step | None = None
        self._ended = False
        self._signed = False
        self._key_error: Exception | None = None
        self._asked: tuple[bytes, int, bytes, object] | None = None  # key id, scheme, content, who was asked
        self._signature = b""
        self._asked_at = 0.0
        self._over = True
        self._raw_paused = False

    # Protocol towards the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        peer = self._raw.get_extra_info("peername")
        if not self._supervisor.gate.admit(self, peer[0] if peer else "", self._terms):
            self._raw.abort()
            return
        self._over = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        assert isinstance(tls, TlsObject)
        self._tls = tls

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._supervisor.buffers.cipher

    def buffer_updated(self, nbytes: int) -> None:
        if self._over:
            return
        data = self._supervisor.buffers.cipher[:nbytes]
        if self._heard is not None:
            self._hear(bytes(data))
        elif not self.busy:
            self._incoming.write(data)
            self._advance()
        elif len(self._aside) + nbytes <= ASIDE_LIMIT:
            self._aside += data
        else:
            self._fail(Failure.NOT_TLS, "sends without waiting for the server")

    def eof_received(self) -> bool:
        """A step that has not come to its signature may still find out what the client sent instead of a hello."""
        self._ended = True
        if self.busy and not self._signed:
            return True
        self._fail(Failure.CLOSED, "closed by the client")
        return False

    def pause_writing(self) -> None:
        self._raw_paused = True

    def resume_writing(self) -> None:
        self._raw_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(Failure.CLOSED, "lost")

    @property
    def held_up(self) -> bool:
        """Whether it is for the listener's limits that nothing moves (proxy/throttle.py)."""
        throttle = self._raw.get_extra_info("throttle")
        return throttle is not None and throttle.waits

    def expire(self, failure: Failure) -> None:
        """For the supervisor: the time is over, or the process ends."""
        self._fail(failure, "given up")
        self._raw.abort()

    # The first bytes

    def _hear(self, data: bytes) -> None:
        """Whose handshake it is; OpenSSL gets it unless it is an ACME CA's."""
        heard = self._heard + data if self._heard else data
        match look(heard):
            case Look.MORE:
                self._heard = heard
            case Look.OTHER:
                self._heard = None
                self._incoming.write(heard)
                self._advance()
            case Look.ACME:
                self._heard = None
                if self._lead is None or not self._lead(self._raw, heard, self._led):
                    self._raw.write(_ALERT % NO_APPLICATION_PROTOCOL)
                    self._fail(Failure.NO_PROTOCOL, "an ACME CA's, and the listener has no acme_backend_service")

    def _led(self, why: str) -> None:
        """The passage to the issuer has ended."""
        if self._over:
            return
        if why:
            self._raw.write(_ALERT % INTERNAL_ERROR)
            self._fail(Failure.ACME, why)
        else:
            self._over = True
            self._supervisor.gate.led(self)

    # The handshake

    def _advance(self) -> None:
        if self._signed:
            try:
                self._tls.do_handshake()
            except ssl.SSLError as error:
                self._stepped(error)
            else:
                self._stepped(None)
            return
        self.busy = True
        if self._supervisor.gate.begin(self):
            self._run_step()

    def go_on(self) -> None:
        """It is its turn."""
        if not self._over:
            self._incoming.write(self._aside)
            self._aside = b""
            self._run_step()

    def _run_step(self) -> None:
        step = self._supervisor.waiting.run(self._tls.do_handshake, self._ask, self._stepped)
        if self.busy:
            self._step = step

    def _ask(self, key_id: bytes, scheme: int, content: bytes, reply: Callable[[Signed], None]) -> None:
        def answered(signed: Signed) -> None:
            self._supervisor.gate.signed(self, monotonic() - self._asked_at)
            if isinstance(signed, bytes):
                self._signature = signed
            else:
                self._key_error = signed
            reply(signed)

        self._signed = True
        self._asked_at = monotonic()
        try:
            asked = self._supervisor.keys.sign_soon(key_id, scheme, content, self._tls.sni, answered)
            self._asked = key_id, scheme, content, asked
        except Exception as error:
            log.exception("key %s: cannot be asked for", key_id.hex()[:16])
            answered(error)

    def _stepped(self, error: Exception | None) -> None:
        """A call of do_handshake has ended: done, in need of more data, or failed."""
        self.busy = False
        self._step = None
        if self._over:
            return
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())
        if error is None:
            self._finish()
        elif not isinstance(error, ssl.SSLWantReadError):
            self._failed(error)
        elif self._ended:
            self._fail(Failure.CLOSED, "closed by the client")
        elif self._aside:
            self._incoming.write(self._aside)
            self._aside = b""
            self._advance()

    @property
    def session(self) -> str:
        """Version and kind of the session that came about."""
        return f"{self._tls.version()} {'resumed' if self._tls.session_reused else 'new'}"

    def _finish(self) -> None:
        self._over = True
        self._asked = None  # or the question, which knows us, and all that OpenSSL holds would live until a collection
        self._supervisor.gate.left(self, None)
        stream = TlsStream(
            self._raw,
            self._tls,
            self._incoming,
            self._outgoing,
            self._inner,
            loop=self._supervisor.loop,
            buffers=self._supervisor.buffers,
            sni=self._tls.sni,
            raw_paused=self._raw_paused,
            close_timeout_s=self._supervisor.close_timeout_s,
        )
        self._raw.set_protocol(stream)
        stream.start(self._aside)

    def _failed(self, error: Exception) -> None:
        """What OpenSSL raised; its alert, if there is one, has been written."""
        if self._key_error is not None:
            failure, detail = Failure.KEYSERVER, str(self._key_error)
        elif self._tls.unserved:
            failure, detail = Failure.NO_CERTIFICATE, "the listener has no certificate that can be served"
        else:
            failure, detail = failure_of(error), getattr(error, "verify_message", None) or error_text(error)
            if failure in (Failure.ALERT, Failure.OTHER) and self._was_deceived():
                failure, detail = Failure.KEYSERVER, "the signature that the key server gave is wrong"
        if failure is Failure.PLAIN_HTTP:
            self._raw.write(PLAIN_HTTP_REPLY)
        self._fail(failure, detail)

    def _was_deceived(self) -> bool:
        """Whether it failed because of a signature that is none; whoever gave it is asked last then."""
        if self._asked is None or self._key_error is not None:
            return False
        key_id, scheme, content, asked = self._asked
        spki = keyless.spki_of(key_id)
        if spki is None or verifies(spki, scheme, content, self._signature):
            return False
        self._supervisor.keys.distrust(asked)
        return True

    def _fail(self, failure: Failure, detail: str) -> None:
        """Counts the first failure of this handshake and closes; lets a step that waits unwind."""
        if self._over:
            return
        self._over = True
        self._asked = None
        self._supervisor.gate.left(self, failure)
        peer = self._raw.get_extra_info("peername")
        log.log(
            logging.WARNING if failure in (Failure.KEYSERVER, Failure.NO_CERTIFICATE) else logging.DEBUG,
            "handshake with %s for %r failed: %s: %s", peer, self._tls.sni, failure.value, detail,
        )  # fmt: skip
        if self._step is not None:
            self._step.abandon()
        self._raw.close()
        if self._raw.get_write_buffer_size():
            self._supervisor.loop.call_later(self._supervisor.close_timeout_s, self._raw.abort)
