"""Session tickets that every L7 node takes from every other, in TLS 1.2 and 1.3.

OpenSSL seals a session into the ticket with keys that it makes up for each context. Here a callback gives it the keys
(SSL_CTX_set_tlsext_ticket_key_evp_cb(3)): AES-256-CBC with HMAC-SHA256, which is what OpenSSL itself uses, made by HKDF
(RFC 5869) of the key servers' secrets (keyserver/tickets.py) and of the *domain*: listener and profile. So no session
is resumed at another listener, nor after what the listener demands has changed. A ticket's first 16 bytes name its
key; tickets of the period before are taken and renewed. Listeners that ask clients for certificates give no tickets.

The callback belongs to an SSL_CTX, which the ssl module does not show (tls_native.py). Where it cannot be reached, each
process keeps to its own tickets, and says so.
"""

from __future__ import annotations

import ctypes as c
import hashlib
import logging
import os
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.keyless_abi import Param, Type, immortal, open_libcrypto
from proxy.tls_native import NativeUnavailable, libssl, ssl_ctx

log = logging.getLogger(__name__)

NAME_BYTES: Final = 16
IV_BYTES: Final = 16
KEY_BYTES: Final = 32
TAKEN, RENEWED, UNKNOWN, FAILED = 1, 2, 0, -1  # what the callback may return

Secrets = Sequence[tuple[int, bytes]]  # (beginning in seconds since 1970, secret), oldest first
_Callback = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p, c.c_void_p, c.c_void_p, c.c_void_p, c.c_int)


@dataclass(frozen=True, slots=True)
class TicketKey:
    """One key of one domain."""

    name: bytes
    cipher: bytes
    mac: bytes

    @classmethod
    def derive(cls, secret: bytes, domain: str) -> TicketKey:
        size = NAME_BYTES + 2 * KEY_BYTES
        made = HKDF(SHA256(), size, None, b"ticket keys of " + hashlib.sha256(domain.encode()).digest()).derive(secret)
        return cls(made[:NAME_BYTES], made[NAME_BYTES : NAME_BYTES + KEY_BYTES], made[NAME_BYTES + KEY_BYTES :])

    def __repr__(self) -> str:
        return f"<TicketKey {self.name.hex()}>"


class Domain:
    """The keys of one listener and profile. `wall_clock`: seconds since 1970. `counts`: of what is done with them."""

    def __init__(
        self, domain: str, secrets: Secrets, wall_clock: Callable[[], float], counts: Counter[str] | None = None
    ) -> None:
        self._domain = domain
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._wall_clock = wall_clock
        self.replace(secrets)

    def replace(self, secrets: Secrets) -> None:
        """Use these from now on."""
        self._keys = [(begins, TicketKey.derive(secret, self._domain)) for begins, secret in secrets]

    def current(self) -> TicketKey:
        """The key of the last period that has begun; with a clock far behind, of the first."""
        now = self._wall_clock()
        begun = [key for begins, key in self._keys if begins <= now]
        return begun[-1] if begun else self._keys[0][1]

    def find(self, name: bytes) -> TicketKey | None:
        return next((key for _, key in self._keys if key.name == name), None)


class Tickets:
    """All domains of one process. Until the key servers' secrets come, tickets are this process's own."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._secrets: Secrets = ((0, os.urandom(KEY_BYTES)),)
        self._domains: dict[str, Domain] = {}
        self.counts: Counter[str] = Counter(dict.fromkeys(("given", "taken", "unknown"), 0))
        self._abi = _abi()

    @property
    def shared(self) -> bool:
        """Whether contexts can be given keys at all."""
        return self._abi is not None

    def install(self, context: ssl.SSLContext, domain: str) -> None:
        """Let connections that begin with `context` use the keys of a domain."""
        if self._abi is None:
            return
        if domain not in self._domains:
            self._domains[domain] = Domain(domain, self._secrets, self._wall_clock, self.counts)
        self._abi.install(context, self._domains[domain])

    def replace(self, secrets: Secrets) -> None:
        """Use the key servers' secrets from now on."""
        self._secrets = secrets
        for domain in self._domains.values():
            domain.replace(secrets)


class _Abi:
    """The functions of OpenSSL that are called here."""

    def __init__(self, libssl: c.CDLL, crypto: c.CDLL) -> None:
        pointer = c.c_void_p
        libssl.SSL_CTX_set_tlsext_ticket_key_evp_cb.argtypes = [pointer, _Callback]
        crypto.EVP_aes_256_cbc.restype = pointer
        for function in (crypto.EVP_EncryptInit_ex, crypto.EVP_DecryptInit_ex):
            function.argtypes = [pointer, pointer, pointer, c.c_char_p, pointer]
        crypto.EVP_MAC_CTX_set_params.argtypes = [pointer, c.POINTER(Param)]
        self._libssl, self._crypto = libssl, crypto
        self._cipher = crypto.EVP_aes_256_cbc()

    def install(self, context: ssl.SSLContext, domain: Domain) -> None:
        def keys(_ssl: int, name: int, iv: int, cipher: int, mac: int, sealing: int) -> int:
            try:
                return self._keys(domain, name, iv, cipher, mac, bool(sealing))
            except Exception:
                log.exception("session tickets")
                return FAILED

        # A connection may outlive its Python context: the callback stays for ever. A listener has one for each profile.
        self._libssl.SSL_CTX_set_tlsext_ticket_key_evp_cb(ssl_ctx(context), immortal(_Callback(keys)))

    def _keys(self, domain: Domain, name: int, iv: int, cipher: int, mac: int, sealing: bool) -> int:
        current = domain.current()
        if sealing:
            key = current
            c.memmove(name, key.name, NAME_BYTES)
            c.memmove(iv, os.urandom(IV_BYTES), IV_BYTES)
            begin = self._crypto.EVP_EncryptInit_ex
        else:
            found = domain.find(c.string_at(name, NAME_BYTES))
            if found is None:
                domain.counts["unknown"] += 1
                return UNKNOWN
            key, begin = found, self._crypto.EVP_DecryptInit_ex
        if begin(cipher, self._cipher, None, key.cipher, iv) != 1 or not self._set_mac(mac, key.mac):
            return FAILED
        domain.counts["given" if sealing else "taken"] += 1
        return TAKEN if sealing or key is current else RENEWED

    def _set_mac(self, mac: int, key: bytes) -> bool:
        secret, digest = c.create_string_buffer(key, len(key)), c.create_string_buffer(b"SHA256")
        parameters = (Param * 3)(
            Param(b"key", Type.OCTET_STRING, c.addressof(secret), len(key), 0),
            Param(b"digest", Type.UTF8_STRING, c.addressof(digest), len(b"SHA256"), 0),
            Param(),
        )
        return bool(self._crypto.EVP_MAC_CTX_set_params(mac, parameters) == 1)


def _abi() -> _Abi | None:
    """None, with a warning, where the ssl module's contexts cannot be reached."""
    try:
        ssl_ctx(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        return _Abi(libssl(), open_libcrypto())
    except (NativeUnavailable, OSError, AttributeError) as error:
        log.warning("sessions are resumed by the process alone that made them: %s", error)
        return None
