"""OCSP answers for the certificates that nodes serve: fetched when first wanted, renewed in time, never stale.

Nodes ask for a chain's answer about once a minute; that is what keeps it fresh here, and a chain that nobody has asked
about for `FORGET_AFTER_S` is forgotten. An answer is renewed after half of its life (`certs.ocsp.renewal`). When that
fails the old one is given out until its end, while attempts go on with growing delays.

                    asked                    fetched                        half of its life is over
    unknown ──────────────► nothing, fetching ───────► fresh ◄──────────────► fresh, fetching
                              ▲   │ failed: wait          │ its end
                              └───┘                       ▼ as nothing
"""

from __future__ import annotations

import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from certs import ocsp
from certs.ocsp import Answer, OcspError, RevokedError, Subject
from certs.report import VOID, Staple
from control.node.tasks import Tasks

log = logging.getLogger(__name__)

MAX_CHAINS = 10_000
MAX_FETCHES = 4  # at a time, each a process; others wait for their next turn
FORGET_AFTER_S = 3600.0
RETRY_S = (10.0, 3600.0)  # the first delay after a failure and the longest
FETCHING = "its OCSP answer is being fetched"

Fetch = Callable[[str, bytes], Awaitable[bytes]]


@dataclass(slots=True, eq=False)
class _Chain:
    """One chain. `due` and `asked` are monotonic seconds."""

    key_id: bytes
    subject: Subject | None
    why: str = ""  # there is no answer, or no newer one
    answer: Answer | None = None
    fetching: bool = False
    revoked: bool = False
    due: float = 0.0
    delay_s: float = RETRY_S[0]
    asked: float = 0.0


class Staples:
    """All chains of one key server. `clock` is wall-clock time with a zone. Belongs to the loop's thread."""

    def __init__(self, fetch: Fetch, clock: Callable[[], datetime]) -> None:
        self.counters: Counter[str] = Counter()
        self._fetch = fetch
        self._clock = clock
        self._chains: OrderedDict[bytes, _Chain] = OrderedDict()  # the one that was asked for last at the end
        self._fetches = 0
        self._tasks = Tasks()

    async def close(self) -> None:
        """Give up what is being fetched."""
        await self._tasks.close()

    def key_of(self, digest: bytes) -> bytes | None:
        """The id of the key of a chain that is known, by the digest of its text."""
        chain = self._chains.get(digest)
        return None if chain is None else chain.key_id

    def add(self, digest: bytes, key_id: bytes, subject: Subject | OcspError | None) -> None:
        """Know a sound chain. `subject` is what `certs.ocsp.subject` gave or raised."""
        if isinstance(subject, OcspError):
            self._chains[digest] = _Chain(key_id, None, str(subject))
        else:
            self._chains[digest] = _Chain(key_id, subject)
        while len(self._chains) > MAX_CHAINS:
            self._chains.popitem(last=False)

    def give(self, digest: bytes, now: float) -> Staple:
        """What there is for a chain that is known; renews it where that is due. `now`: monotonic seconds."""
        chain = self._chains[digest]
        self._chains.move_to_end(digest)
        chain.asked = now
        self._forget(now)
        if chain.subject is None:
            return Staple(b"", 0, chain.why)
        if chain.answer is not None and chain.answer.ends <= self._clock():
            chain.answer = None
        if now >= chain.due and not chain.fetching and self._fetches < MAX_FETCHES:
            chain.fetching = True
            self._fetches += 1
            self._tasks.spawn(self._renew(chain, chain.subject, now), "OCSP answer")
        if chain.answer is None:
            return Staple(b"", VOID if chain.revoked else 0, chain.why or FETCHING)
        return Staple(chain.answer.der, int(chain.answer.ends.timestamp()), chain.why)

    async def _renew(self, chain: _Chain, subject: Subject, begun: float) -> None:
        try:
            der = await self._fetch(subject.url, ocsp.request(subject))
            chain.answer = ocsp.judge(der, subject, self._clock())
        except OcspError as error:
            self.counters["ocsp_failed"] += 1
            if isinstance(error, RevokedError):
                chain.answer, chain.revoked = None, True
            if chain.why != str(error):
                log.warning("OCSP answer for %s: %s", _name(subject), error)
            chain.why = str(error)
            wait_s = chain.delay_s * random.uniform(0.75, 1)  # noqa: S311 - spreads load
            chain.delay_s = min(2 * chain.delay_s, RETRY_S[1])
        else:
            self.counters["ocsp_fetched"] += 1
            log.info("OCSP answer for %s: good until %s", _name(subject), f"{chain.answer.ends:%Y-%m-%d %H:%M} UTC")
            chain.why, chain.delay_s, chain.revoked = "", RETRY_S[0], False
            wait_s = max((ocsp.renewal(chain.answer) - self._clock()).total_seconds(), RETRY_S[0])
        finally:
            chain.fetching = False
            self._fetches -= 1
        chain.due = begun + wait_s

    def _forget(self, now: float) -> None:
        while self._chains:
            digest, chain = next(iter(self._chains.items()))
            if now - chain.asked < FORGET_AFTER_S or not chain.asked:
                return
            del self._chains[digest]


def _name(subject: Subject) -> str:
    return f"{subject.leaf.subject.rfc4514_string()[:100]} (serial number {subject.leaf.serial_number:x})"
