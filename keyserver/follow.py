"""Key files, token and policy, followed while the server runs: what changes takes effect, what is broken does not.

Files are looked at every second, and all is read anew on SIGHUP; `READY=1` then says that it has been done, also when
everything stays as it was: who waits for it (`paifang up`) then learns why from a node. What changed stands in the
audit log: which keys came and went, and which policy holds.
"""

from __future__ import annotations

import asyncio
import logging

from control.node.notify import notify
from keyserver.audit import AuditLog, now_text
from keyserver.errors import KeyFilesError, StartError
from keyserver.grants import Grants, GrantsError
from keyserver.grants_file import GrantsFile
from keyserver.keyring import Keyring
from keyserver.server import KeyServer

log = logging.getLogger("keyserver")

POLL_S = 1.0  # how soon a changed file is noticed without a SIGHUP
REFRESH_TIMEOUT_S = 5.0
NAMED_FILES = 5  # in a log line


class Following:
    """What a running server follows. `stale` while something has changed that cannot be used."""

    def __init__(self, keyring: Keyring, audit: AuditLog, policy: GrantsFile | None) -> None:
        self._keyring = keyring
        self._audit = audit
        self._policy = policy
        self._bad_policy = False
        self._known: frozenset[bytes] = frozenset()

    @property
    def stale(self) -> bool:
        return self._keyring.stale or self._bad_policy

    @property
    def in_the_clear(self) -> tuple[str, ...]:
        return self._keyring.in_the_clear

    def begin(self) -> Grants | None:
        """Tell of the keys that were read, and read the policy. Raises StartError."""
        held = len(self._keyring.store)
        log.log(logging.INFO if held else logging.WARNING, "%d keys held", held)
        self._tell_of_clear_keys()
        self._record_keys()
        if self._policy is None:
            return None
        try:
            grants = self._policy.read()
        except GrantsError as error:
            raise StartError(str(error)) from None
        assert grants is not None
        self._tell_of_policy(grants)
        return grants

    async def run(self, server: KeyServer, hup: asyncio.Event) -> None:
        """For ever."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await hup.wait()
                told = True
                hup.clear()
                self._audit.reopen()
            except TimeoutError:
                told = False
            except OSError as error:
                log.error("cannot reopen the audit log, the old one stays: %s", error)
            await self._follow_keys(told)
            if self._policy is not None:
                self._follow_policy(self._policy, server, told)
            if told:
                notify("READY=1")

    def refresh(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for new keys, from another thread."""
        try:
            asyncio.run_coroutine_threadsafe(self._follow_keys(False), loop).result(REFRESH_TIMEOUT_S)
        except TimeoutError:
            log.error("key files have changed and take long to read")

    async def _follow_keys(self, always: bool) -> None:
        try:
            changes = await self._keyring.reload(always=always)
        except KeyFilesError as error:
            for file in error.files:
                log.error("the keys stay as they were: %s", file)
        except (OSError, TimeoutError) as error:  # the reader cannot be started, or does not end
            log.error("the keys stay as they were: %s", error)
        else:
            if changes is not None:
                log.info("keys read anew: %d added, %d removed, %d held", *changes, len(self._keyring.store))
                self._tell_of_clear_keys()
                self._record_keys()

    def _follow_policy(self, policy: GrantsFile, server: KeyServer, always: bool) -> None:
        try:
            grants = policy.read(always=always)
        except GrantsError as error:
            log.error("the policy stays as it was: %s", error)
            self._bad_policy = True
            return
        if grants is not None:
            self._bad_policy = False
            server.service.grants = grants
            log.info("policy read anew: %d grants", len(grants.grants))
            self._tell_of_policy(grants)
            server.cut_off()

    def _tell_of_policy(self, grants: Grants) -> None:
        assert self._policy is not None
        for key in grants.names_no_key(self._keyring.store.names):
            log.warning("%s: no key %r is held", self._policy.path, key)
        self._audit.event(now_text(), "policy", {"sha256": self._policy.digest})

    def _tell_of_clear_keys(self) -> None:
        if clear := self.in_the_clear:
            which = ", ".join(clear[:NAMED_FILES]) + (", …" if len(clear) > NAMED_FILES else "")
            log.warning("%d key files are not encrypted (%s); `paifang keyserver encrypt` does it", len(clear), which)

    def _record_keys(self) -> None:
        held = frozenset(held.key_id for held in self._keyring.store)
        for event, changed in (("key_added", held - self._known), ("key_removed", self._known - held)):
            for key_id in sorted(changed):
                names = sorted(self._keyring.store.names.get(key_id, ()))
                self._audit.event(now_text(), event, {"key": key_id.hex(), "names": names})
        self._known = held
        self._audit.flush_events()
