"""OCSP answers in handshakes: the latest that the key server gave for each leaf, unless its time is over.

OpenSSL asks by a callback of the context, once for each client that wants to know (RFC 6066 section 8), when it has
chosen the certificate. The callback looks the leaf up and gives OpenSSL a copy of the answer, which it frees. It runs
on the stack of `do_handshake`, so it never waits, and never raises: without an answer the handshake goes on.

`Staples` asks the key server for each chain that names a responder: in seconds while there is no answer, at last every
minute. It is told when an answer ends and looks at the clock in each handshake, so that nobody gets a stale one even
where the key server has long gone.
"""

from __future__ import annotations

import ctypes as c
import logging
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from keyserver.errors import ErrorCode, KeyServerError
from proxy.keyless_abi import immortal, open_libcrypto
from proxy.tls_certificates import Credential
from proxy.tls_native import NativeUnavailable, libssl, ssl_ctx

log = logging.getLogger(__name__)

ASK_AGAIN_S = 60.0
ASK_SOON_S = 2.0  # without an answer; doubled each time, up to the above
SET_STATUS_CALLBACK, SET_STATUS_ANSWER = 63, 71  # tls1.h: SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB, …_REQ_OCSP_RESP
OK, NO_ANSWER = 0, 3  # SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK
MAX_LEAF_BYTES = 1 << 16
_Callback = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p)


class Given(Protocol):
    @property
    def answer(self) -> bytes: ...
    @property
    def ends(self) -> int: ...
    @property
    def why(self) -> str: ...


class Answers(Protocol):
    """What is used of `keyserver.client.KeyClient`."""

    async def staple(self, chain_pem: str, /) -> Given: ...


@dataclass(slots=True)
class _Leaf:
    """What is known for one leaf. `ends` is wall-clock time, `asked` monotonic."""

    answer: bytes = b""
    ends: float = 0.0
    why: str = ""
    asked: float = 0.0
    wait_s: float = ASK_AGAIN_S


class Staples:
    """The answers of one process. Belongs to its loop's thread, but for handshakes, which read.

    Where OpenSSL cannot be reached (`proxy.tls_native`) nothing is asked or stapled, and the log has said so.
    """

    def __init__(self, keys: Answers, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock
        self._leaves: dict[bytes, _Leaf] = {}  # by the leaf in DER; replaced whole
        self.stapled = 0
        try:
            self._ssl = libssl()
            ssl_ctx(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        except NativeUnavailable as error:
            log.warning("OCSP answers are not stapled: %s", error)
            self._callback = None
            return
        self._crypto = open_libcrypto()
        self._crypto.CRYPTO_malloc.argtypes = [c.c_size_t, c.c_char_p, c.c_int]
        self._crypto.CRYPTO_malloc.restype = c.c_void_p
        self._crypto.i2d_X509.argtypes = [c.c_void_p, c.c_void_p]
        self._callback = immortal(_Callback(self._staple))  # contexts may outlive us

    def attach(self, context: ssl.SSLContext) -> None:
        """Let a context's handshakes staple."""
        if self._callback is not None:
            self._ssl.SSL_CTX_callback_ctrl(ssl_ctx(context), SET_STATUS_CALLBACK, c.cast(self._callback, c.c_void_p))

    def has(self, credential: Credential) -> bool:
        """Whether there is an answer to staple now."""
        return self._known(credential).ends > self._clock()

    def why_not(self, credential: Credential) -> str:
        """What keeps an answer from coming, or from being renewed."""
        return self._known(credential).why

    async def ask(self, credentials: Iterable[Credential], now: float) -> None:
        """Ask for what is missing or a minute old; forget what is not of these. `now`: monotonic seconds."""
        wanted = {each.leaf: each for each in credentials if each.responder} if self._callback is not None else {}
        self._leaves = {leaf: known for leaf, known in self._leaves.items() if leaf in wanted}
        for leaf, credential in wanted.items():
            known = self._leaves.get(leaf)
            if known is None or now - known.asked >= known.wait_s:
                await self.ask_for(credential, now)

    async def ask_for(self, credential: Credential, now: float) -> None:
        """Ask about one. An answer that is here is kept where no other comes."""
        if self._callback is None or not credential.responder:
            return
        before = self._known(credential)
        try:
            given = await self._keys.staple(credential.chain)
        except KeyServerError as error:
            why = (
                "the key server is of a version that has none"
                if error.code is ErrorCode.UNKNOWN_REQUEST
                else str(error)
            )
            after = _Leaf(before.answer, before.ends, why)
        else:
            # A key server that has none yet says nothing against the answer of another one, or of its predecessor.
            kept = before if not given.answer and given.ends >= 0 and before.ends > self._clock() else given
            after = _Leaf(kept.answer, kept.ends, given.why)
        after.asked = now
        if after.ends <= self._clock():
            after.wait_s = min(ASK_SOON_S if before.asked == 0 or before.answer else 2 * before.wait_s, ASK_AGAIN_S)
        self._leaves[credential.leaf] = after

    def _known(self, credential: Credential) -> _Leaf:
        return self._leaves.get(credential.leaf) or _Leaf()

    def _staple(self, tls: int, _argument: int | None) -> int:
        try:
            known = self._leaves.get(self._leaf_of(tls))
            if known is None or known.ends <= self._clock():
                return NO_ANSWER
            size = len(known.answer)
            copy = self._crypto.CRYPTO_malloc(size, None, 0)
            if not copy:
                return NO_ANSWER
            c.memmove(copy, known.answer, size)
            self._ssl.SSL_ctrl(tls, SET_STATUS_ANSWER, size, copy)
            self.stapled += 1
        except Exception:
            log.exception("an OCSP answer could not be stapled")
            return NO_ANSWER
        return OK

    def _leaf_of(self, tls: int) -> bytes:
        """The certificate that OpenSSL has chosen, in DER."""
        leaf = self._ssl.SSL_get_certificate(tls)
        size = self._crypto.i2d_X509(leaf, None) if leaf else 0
        if not 0 < size <= MAX_LEAF_BYTES:
            return b""
        buffer = c.create_string_buffer(size)
        end = c.c_void_p(c.addressof(buffer))
        self._crypto.i2d_X509(leaf, c.byref(end))
        return buffer.raw
