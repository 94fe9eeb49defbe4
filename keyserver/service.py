"""Requests to replies: the key server without its sockets.

A SIGN passes five gates, the cheapest first: the client's rate, the key's existence, the policy for client and key,
shape and scheme of the content, the rates of the grant and of the key. What passes is signed here (`sign`), or by a
crew's worker, whose answer is then recorded (`signed`). Each SIGN leaves one audit line, except those over a rate: a
flood must not fill the disk, so these are only counted.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from certs import ocsp
from certs.chain import inspect
from certs.ocsp import OcspError
from certs.report import ChainReport, Staple
from keyserver.audit import AuditLog
from keyserver.chains import answer
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.grants import EVERY_SHAPE, Grants, Permission
from keyserver.policy import KeyType, Shape, TokenBucket, check
from keyserver.protocol import Failed, Find, Found, Sign, Signed, Tickets, TicketSecrets
from keyserver.staples import Staples
from keyserver.store import Held, KeyStore, Signer
from keyserver.tickets import MIN_MASTER_BYTES, Master

log = logging.getLogger(__name__)

EVERYTHING = Permission(EVERY_SHAPE, None)
TICKETS_UNITS = 1000  # of the client's rate: a node asks every few minutes, and each time is an audit line
CHAIN_UNITS = 100  # of the client's rate: a chain check costs about as much CPU as this many ECDSA signatures


class Service:
    """The keys, who uses them how much, and the record of it.

    rate, key_rate: signatures a second for each client, and for each key. grants: None lets every client use every key.
    staples: None where no OCSP answers are fetched.
    tickets: the master secret of session tickets; None for one that ends with this process. refresh: looks for new
    keys; called outside the loop's thread. clock: wall-clock time, for audit, expiry and tickets.
    """

    def __init__(
        self,
        store: KeyStore,
        audit: AuditLog,
        *,
        rate: float,
        key_rate: float | None = None,
        grants: Grants | None = None,
        staples: Staples | None = None,
        tickets: Master | None = None,
        refresh: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.store = store
        self.counters: Counter[str] = Counter()
        self.answers: Counter[tuple[str, str]] = Counter()  # (client, result) of SIGN requests
        self._audit = audit
        self.grants = grants
        self._rate = rate
        self._key_rate = key_rate
        self._staples = staples
        if staples is not None:
            staples.counters = self.counters
        self._tickets = tickets or Master(os.urandom(MIN_MASTER_BYTES))
        self._refresh = refresh
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}  # as many as there are identities: uids allowed, names issued
        self._key_buckets: dict[bytes, TokenBucket] = {}
        self._time = ""

    def begin_turn(self) -> None:
        """To be called before a group of requests: it fixes the time on their audit lines."""
        self._time = self._clock().isoformat(timespec="milliseconds")

    def end_turn(self) -> None:
        """To be called before the group's replies are sent. Raises OSError: then none of them may be."""
        self._audit.flush()

    def admit(self, client: str, request: Sign, now: float) -> tuple[Held, Shape]:
        """The key to use, if `client` may have this. `now`: monotonic seconds. Raises KeyServerError."""
        if not self._bucket(client, now).take(now):
            raise KeyServerError(ErrorCode.RATE_LIMITED)
        key_id = request.key_id
        held = self.store.get(key_id)
        if held is None:
            raise KeyServerError(ErrorCode.UNKNOWN_KEY)
        permission = self._permission(client, key_id, now)
        if permission is None:
            raise KeyServerError(ErrorCode.REFUSED_CLIENT)
        shape = check(held.key_type, request.scheme, request.content)
        if shape not in permission.tls:
            raise KeyServerError(ErrorCode.REFUSED_SHAPE)
        if not permission.take(now) or not (self._key_rate is None or self._key_bucket(key_id, now).take(now)):
            raise KeyServerError(ErrorCode.RATE_LIMITED)
        return held, shape

    def record(self, event: str, fields: Mapping[str, object]) -> None:
        """An audit line on something other than a signature."""
        self._audit.event(self._clock().isoformat(timespec="milliseconds"), event, fields)
        self._audit.flush_events()

    def why_not(self, client: str, serial: int | None) -> str:
        """Why the policy does not let a client in; empty: it does. `serial`: of its certificate, if it has one."""
        return "" if self.grants is None else self.grants.why_not(client, serial)

    def keys_changed(self) -> None:
        """To be called when the store holds another set: answers and buckets of keys that have gone are forgotten."""
        if self.grants is not None:
            self.grants.forget()
        self._key_buckets = {key_id: bucket for key_id, bucket in self._key_buckets.items() if key_id in self.store}

    def sign(self, client: str, request: Sign, signer: Signer, shape: Shape) -> Signed | Failed:
        """The reply to a request that was admitted."""
        try:
            signature = signer.sign(request.scheme, request.content)
        except Exception:
            log.exception("key %s cannot sign with 0x%04x", request.key_id.hex()[:16], request.scheme)
            return self.refuse(client, request, ErrorCode.INTERNAL)
        return self.signed(client, request, signer.key_type, shape, signature)

    def signed(self, client: str, request: Sign, key_type: KeyType, shape: Shape, signature: bytes) -> Signed:
        """The reply with a signature that was made."""
        request_id, key_id, scheme, sni, _ = request
        self.counters[key_type] += 1
        self.answers[client, "ok"] += 1
        self._audit.record(self._time, client, key_id, sni, scheme, shape, "ok")
        return Signed(request_id, signature)

    def refuse(self, client: str, request: Sign, code: ErrorCode) -> Failed:
        """The reply to a request that is not served."""
        result = code.name.lower()
        self.counters[result] += 1
        self.answers[client, result] += 1
        if code is not ErrorCode.RATE_LIMITED:
            self._audit.record(self._time, client, request.key_id, request.sni, request.scheme, "", result)
        return Failed(request.request_id, code)

    def find(self, client: str, request: Find, now: float) -> Found | Failed:
        """The keys and chains for a server name that `client` may use."""
        if not self._bucket(client, now).take(now):
            return self._not_found(request, ErrorCode.RATE_LIMITED)
        chains = self.store.chains.find(request.name)
        allowed = [chain for chain in chains if self._permission(client, chain.key_id, now) is not None]
        if not allowed:
            return self._not_found(request, ErrorCode.UNKNOWN_KEY)
        self.counters["found"] += 1
        return Found(request.request_id, answer(allowed))

    def _not_found(self, request: Find, code: ErrorCode) -> Failed:
        self.counters["not_found"] += 1
        return Failed(request.request_id, code)

    def ticket_secrets(self, client: str, request: Tickets, now: float) -> TicketSecrets | Failed:
        """The secrets of session tickets, for every client that is let in. Each time leaves an audit line."""
        if not self._bucket(client, now).take(now, min(TICKETS_UNITS, self._rate)):
            return Failed(request.request_id, ErrorCode.RATE_LIMITED)
        self.counters["tickets"] += 1
        self.record("ticket_secrets", {"client": client})
        return TicketSecrets(request.request_id, self._tickets.secrets(int(self._clock().timestamp())))

    def admit_chain(self, client: str, now: float) -> None:
        """Charge a chain check to the client's rate. Raises KeyServerError."""
        if not self._bucket(client, now).take(now, min(CHAIN_UNITS, self._rate)):
            raise KeyServerError(ErrorCode.RATE_LIMITED)

    def check_chain(self, pem: str) -> ChainReport:
        """The findings on a chain. Takes milliseconds and may read key files: not for the loop's thread."""
        return inspect(pem, self._clock(), self._holds)

    def judged(self, client: str, report: ChainReport, now: float) -> ChainReport:
        """The findings with what the policy says of this client and the chain's key."""
        if report.key_id not in self.store or self._permission(client, report.key_id, now) is not None:
            return report
        return replace(
            report, problems=(*report.problems, f"the key server's policy does not let {client} use its key")
        )

    def staple(self, client: str, pem: str, now: float) -> Staple | None:
        """The OCSP answer for a chain; None where the chain has to be checked first. Cheap."""
        if self._staples is None:
            return Staple(b"", 0, "")
        digest = ocsp.chain_digest(pem)
        key_id = self._staples.key_of(digest)
        if key_id is None or key_id not in self.store or self._permission(client, key_id, now) is None:
            return None
        return self._staples.give(digest, now)

    def new_staple(self, pem: str, key_id: bytes, now: float) -> Staple:
        """The same for a chain that has been checked and found to be sound, and for this client."""
        assert self._staples is not None
        digest = ocsp.chain_digest(pem)
        try:
            subject: ocsp.Subject | OcspError | None = ocsp.subject(pem)
        except OcspError as error:
            subject = error
        if self._staples.key_of(digest) is None:
            self._staples.add(digest, key_id, subject)
        return self._staples.give(digest, now)

    def _permission(self, client: str, key_id: bytes, now: float) -> Permission | None:
        if self.grants is None:
            return EVERYTHING
        return self.grants.permission(client, key_id, self.store.names.get(key_id, ()), now)

    def _holds(self, key_id: bytes) -> bool:
        """Whether the key is held; one that is not may have been put there a moment ago."""
        if key_id not in self.store:
            self._refresh()
        return key_id in self.store

    def _bucket(self, client: str, now: float) -> TokenBucket:
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = TokenBucket(self._rate, self._rate, now)
        return bucket

    def _key_bucket(self, key_id: bytes, now: float) -> TokenBucket:
        bucket = self._key_buckets.get(key_id)
        if bucket is None:
            assert self._key_rate is not None
            bucket = self._key_buckets[key_id] = TokenBucket(self._key_rate, self._key_rate, now)
        return bucket
