"""One control node's session with etcd: a lease, writes that are made once, and who leads.

The lease is renewed as long as we live; what hangs on it goes within LEASE_S of our end.

*Writes are made once.* A call without an answer may have been carried out, and is repeated at another member. So each
transaction also writes a mark of its own under `writers/ID`, on condition that the mark before is there. If it is not,
the mark that is there says what happened: ours, then the repeated call had been carried out; the one before, then
the caller's own condition did not hold; none, then the lease has ended, and a new one is taken.

*A leader that was taken for dead writes nothing.* The mark hangs on the lease: with it ends the condition of each write
that was begun before. Whoever leads is stopped before another lease is taken.

*Who leads* has `leaders/NAME`, on the same lease. It stops GIVE_UP_S after its last renewal was sent, MARGIN before
etcd may give the name to another.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from control.etcd import CALL_S, Document, Etcd, EtcdRefusedError, encode, key_values
from control.store import LeadershipLostError, StoreUnavailableError

log = logging.getLogger(__name__)

LEASE_S = 10
GIVE_UP_S = 7.0
RENEW_EVERY_S = 2.0
RENEW_CALL_S = 3.0
AWAY_AGAIN_S = 0.5
ASK_AGAIN_S = 1.0  # who waits for a name to be free
AWAY_CALL_S = 1.0  # how long is tried while etcd is known to be away
BEGIN_S = 10.0
UNKNOWN = "it may have been written; look before you repeat it"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a transaction: its revision, or what the caller wanted to know where it was refused."""

    revision: int
    refused: tuple[Document, ...] | None = None


class Session:
    """Made by `begin`; its owner runs `run` and, at the end, `close`."""

    def __init__(self, etcd: Etcd, prefix: str) -> None:
        self.away = ""  # why etcd cannot be reached, as far as is known
        self._etcd = etcd
        self._leaders = f"{prefix}leaders/"
        self._key = f"{prefix}writers/{secrets.token_hex(8)}"
        self._lease = ""
        self._marks: list[str] = []  # the last that is known to be there, then those that may be
        self._number = 0
        self._renewed = 0.0
        self._writing = asyncio.Lock()
        self._held: set[str] = set()  # keys of names that a task here has, or has not let go of
        self._kept: set[str] = set()  # keys that could not be let go of
        self._led: set[asyncio.Timeout] = set()

    async def begin(self) -> None:
        """Take a lease, and with it a clean slate. Raises StoreUnavailableError."""
        self._lead_until(0.0)
        loop = asyncio.get_running_loop()
        sent = loop.time()
        granted = await self._etcd.call("/v3/lease/grant", {"TTL": LEASE_S}, BEGIN_S)
        self._number += 1
        mark = f"{granted['ID']}-{self._number}"
        put = {"key": encode(self._key), "value": encode(mark), "lease": granted["ID"]}
        await self._etcd.call("/v3/kv/put", put)
        self._lease, self._marks, self._renewed = granted["ID"], [mark], sent

    async def run(self) -> None:
        """Keep the lease, until cancelled."""
        while True:
            await asyncio.sleep(AWAY_AGAIN_S if self.away else RENEW_EVERY_S)
            try:
                await self._renew()
            except StoreUnavailableError as error:
                if not self.away:
                    log.error("%s", error)
                self.away = str(error)
            else:
                if self.away:
                    log.warning("etcd answers again")
                self.away = ""

    async def commit(
        self, compare: Sequence[Document], success: Sequence[Document], failure: Sequence[Document] = ()
    ) -> Written:
        """Carry out a transaction once. Raises StoreUnavailableError."""
        try:
            async with asyncio.timeout(AWAY_CALL_S if self.away else CALL_S):
                await self._writing.acquire()
        except TimeoutError:
            raise StoreUnavailableError("etcd: too many wait to write; repeat it") from None
        try:
            return await self._commit(compare, success, failure)
        finally:
            self._writing.release()

    async def _commit(
        self, compare: Sequence[Document], success: Sequence[Document], failure: Sequence[Document]
    ) -> Written:
        while True:
            self._number += 1
            before, mark = self._marks[0], f"{self._lease}-{self._number}"
            self._marks.append(mark)
            body = {
                "compare": [*compare, is_value(self._key, before)],
                "success": [*success, put(self._key, mark.encode(), self._lease)],
                "failure": [{"request_range": {"key": encode(self._key)}}, *failure],
            }
            try:
                within_s = AWAY_CALL_S if self.away else CALL_S
                answer, tried = await self._etcd.call_counted("/v3/kv/txn", body, within_s)
            except EtcdRefusedError:
                self._marks.remove(mark)
                raise
            except StoreUnavailableError as error:
                raise StoreUnavailableError(f"{error} ({UNKNOWN})") from None
            revision = int(answer["header"]["revision"])
            if answer.get("succeeded"):
                self._marks = [mark]
                return Written(revision)
            told, *refused = answer["responses"]
            found = key_values(told["response_range"])
            present = found[0].value.decode() if found else ""
            if present == mark:  # the call had been carried out, and was then repeated
                self._marks = [mark]
                return Written(found[0].revision)
            if present == before:
                self._marks.remove(mark)
                return Written(revision, tuple(refused))
            if present:
                self._marks = [present]  # of a write whose caller had given up
                continue
            log.warning("nothing was heard of etcd for more than %d s; taking a new lease", LEASE_S)
            await self.begin()
            if tried > 1:
                raise StoreUnavailableError(f"etcd was away for more than {LEASE_S} s, and is back ({UNKNOWN})")

    @asynccontextmanager
    async def leading(self, name: str) -> AsyncIterator[None]:
        """As `control.store.Store.leading`."""
        key = self._leaders + name
        lease = await self._acquire(key)
        log.info("leads in %s", name)
        limit = asyncio.timeout_at(self._renewed + GIVE_UP_S if lease == self._lease else 0.0)
        try:
            async with limit:
                self._led.add(limit)
                try:
                    yield
                finally:
                    self._led.discard(limit)
        except TimeoutError:
            if limit.expired():
                raise LeadershipLostError(f"no longer leads in {name}: etcd has not been heard of in time") from None
            raise
        finally:
            self._kept.add(key)
            await self._let_go(key)

    async def close(self) -> None:
        """End the lease, so that another may lead at once."""
        try:
            await self._etcd.call("/v3/lease/revoke", {"ID": self._lease}, AWAY_CALL_S)
        except StoreUnavailableError as error:
            log.warning("the lease ends by itself within %d s: %s", LEASE_S, error)

    async def _renew(self) -> None:
        sent, lease = asyncio.get_running_loop().time(), self._lease
        answer = await self._etcd.call("/v3/lease/keepalive", {"ID": lease}, RENEW_CALL_S)
        if int(answer.get("result", {}).get("TTL", 0)) > 0:
            self._renewed = sent
            self._lead_until(sent + GIVE_UP_S)
            for key in tuple(self._kept):
                await self._let_go(key)
            return
        async with self._writing:
            if lease == self._lease:
                log.warning("nothing was heard of etcd for more than %d s; taking a new lease", LEASE_S)
                await self.begin()

    def _lead_until(self, when: float) -> None:
        for each in self._led:
            if not each.expired():
                each.reschedule(when)

    async def _acquire(self, key: str) -> str:
        """Wait until the name is ours, and return the lease that it hangs on."""
        while True:
            lease = self._lease
            free = {"key": encode(key), "target": "VERSION", "result": "EQUAL", "version": "0"}
            body = {
                "compare": [free],
                "success": [put(key, lease.encode(), lease)],
                "failure": [{"request_range": {"key": encode(key)}}],
            }
            try:
                answer = await self._etcd.call("/v3/kv/txn", body)
            except StoreUnavailableError as error:
                log.debug("cannot ask who leads: %s", error)
            else:
                found = () if answer.get("succeeded") else key_values(answer["responses"][0]["response_range"])
                # Already on our lease, and no task here has it: an answer was lost.
                if all(each.value.decode() == lease for each in found) and key not in self._held:
                    self._held.add(key)
                    return lease
            await asyncio.sleep(ASK_AGAIN_S)

    async def _let_go(self, key: str) -> None:
        """Let another lead; tried again with the next renewal where etcd does not answer."""
        body = {"compare": [is_value(key, self._lease)], "success": [delete(key)]}
        try:
            await self._etcd.call("/v3/kv/txn", body, AWAY_CALL_S)
        except StoreUnavailableError as error:
            log.debug("%s: cannot be let go of yet: %s", key, error)
        else:
            self._kept.discard(key)
            self._held.discard(key)


def is_value(key: str, value: str) -> Document:
    """The condition that a key has a value."""
    return {"key": encode(key), "target": "VALUE", "result": "EQUAL", "value": encode(value)}


def is_revision(key: str, revision: int) -> Document:
    """The condition that a key was last changed at a revision; 0: that there is none."""
    return {"key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def put(key: str, value: bytes, lease: str = "0") -> Document:
    return {"request_put": {"key": encode(key), "value": encode(value), "lease": lease}}


def delete(key: str, end: str | None = None) -> Document:
    """Delete a key, or all from it to before `end`."""
    return {"request_delete_range": {"key": encode(key), **({} if end is None else {"range_end": encode(end)})}}
