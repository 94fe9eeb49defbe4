"""Admission by name and password (RFC 7617).

A bcrypt hash takes some 50 ms on purpose. It is computed by one thread of the worker, so that requests of others go on
meanwhile; at most WAITING wait for it, and what was right once is remembered for REMEMBER_S. A client that fails
`max_failures_per_min` times in a minute has to wait, whether it would be right or not. An attempt counts as failed
until it has succeeded: so nobody gains by many at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from core import model
from proxy.actions import Changes
from proxy.admission import Await, Case, Refusal, Verdict, retry_after
from proxy.errors import Code
from proxy.jwt_verify import encoded
from proxy.passwords import Credentials, Failures, Malformed, Users, credentials, read
from proxy.remembered import Remembered, digest
from proxy.secret_file import SecretFile
from proxy.tls_admission import Terms, client_of

WAITING: Final = 64
BUSY_S: Final = 1.0
REMEMBER_S: Final = 300.0
_CREDENTIALS: Final = frozenset((b"authorization",))
_NETWORK: Final = Terms(0.0, 1, ())


class Thread:
    """Who computes hashes, and for how many it is to do so."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.waiting = 0

    async def run(self, work: Callable[[], bool]) -> bool:
        """The caller has asked whether it is `busy`."""
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self.waiting -= 1

    @property
    def busy(self) -> bool:
        return self.waiting >= WAITING


class BasicAuth:
    """One authentication by `basic`."""

    def __init__(self, each: model.Authentication, thread: Thread) -> None:
        assert each.basic is not None
        self.file: SecretFile[Users] = SecretFile(each.basic.users_file, read)
        self._thread = thread
        self._challenge = b'WWW-Authenticate: Basic realm="%b", charset="UTF-8"\r\n' % each.basic.realm.encode("ascii")
        self._removed = _CREDENTIALS if not each.pass_credentials else frozenset[bytes]()
        self._field = each.user_field.encode("ascii")
        if self._field:
            self._removed |= {self._field.lower()}
        self._failures = Failures(each.basic.max_failures_per_min)
        self._right: Remembered[bool] = Remembered()

    @property
    def problem(self) -> str:
        return self.file.problem

    def look(self) -> None:
        """Whether the file is another one."""
        self.file.look()

    def ask(self, case: Case) -> Verdict:
        """What becomes of a request."""
        users, now = self.file.content, case.means.now()
        try:
            given = credentials(case.head)
        except Malformed:
            return Refusal(Code.AUTHORIZATION)
        if given is None:
            return Refusal(Code.UNAUTHENTICATED, self._challenge)
        if users is None:
            return Refusal(Code.AUTHENTICATION)
        key = digest(given.name.encode("utf-8"), given.password, users.hash_of(given.name))
        if self._right.get(key, now):
            self._admit(case, given)
            return None
        client = b""
        if not case.origin.trusted:  # whoever is brings many clients
            client = client_of(case.origin.client.decode("ascii"), _NETWORK).encode("ascii")
        if client and (wait_s := self._failures.locked_s(client, now)):
            return Refusal(Code.FAILURES, retry_after(wait_s))
        if self._thread.busy:
            return Refusal(Code.OVERLOADED, retry_after(BUSY_S))
        if client:
            self._failures.failed(client, now)
        return Await(lambda: self._check(case, users, given, key, client))

    async def _check(self, case: Case, users: Users, given: Credentials, key: bytes, client: bytes) -> Verdict:
        case.means.count("passwords_checked")
        if not await self._thread.run(lambda: users.admits(given)):
            return Refusal(Code.UNAUTHENTICATED, self._challenge)
        if client:
            self._failures.forgive(client)
        self._right.put(key, True, case.means.now() + REMEMBER_S)
        self._admit(case, given)
        return None

    def _admit(self, case: Case, given: Credentials) -> None:
        said = encoded(given.name)
        lines = b"%b: %b\r\n" % (self._field, said) if self._field else b""
        case.identify(said.decode("ascii"), Changes(self._removed, lines))
