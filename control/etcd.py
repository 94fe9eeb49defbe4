"""A client of etcd's JSON gateway (`/v3/…`, etcd 3.4 and later): https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/

One request a call, keys and values in base64, 64-bit numbers as text. Members are tried in turn, first the one that has
answered last, until one answers or the time is up. A call that got no answer may have been carried out all the same and
is then made twice: whoever writes has to bear that (`control.etcd_session` does).

etcd is asked for a leader with each call (`hasleader`), so that a member that is cut off from the others says so at
once. Its gateway knows no progress of a watch: who follows one has to look now and then whether it has missed anything.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from control.node.addresses import is_loopback
from control.store import StoreError, StoreUnavailableError

log = logging.getLogger(__name__)

CALL_S = 6.0  # by then a call has been answered or has failed: an election takes 1 to 2 s
ATTEMPT_S = 3.0  # so long one member may take over an answer
CONNECT_S = 1.5
DOWN_S = 2.0  # so long a call goes on where nobody listens at any member's address
AGAIN_S = 0.1  # between two rounds through all members
BEGIN_S = 2.0  # by then all parts of a watch have begun
LINE_LIMIT_BYTES = 1 << 26  # one event of a watch

# gRPC's status codes, https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_CANCELLED, _UNKNOWN, _DEADLINE, _PERMISSION, _EXHAUSTED, _UNAVAILABLE, _UNAUTHENTICATED = 1, 2, 4, 7, 8, 14, 16
_AGAIN = frozenset({_CANCELLED, _UNKNOWN, _DEADLINE, _UNAVAILABLE})

Document = dict[str, Any]  # as etcd's rpc.proto has it, fields at their default left out


class EtcdRefusedError(StoreUnavailableError):
    """etcd has understood and says no, so that nothing was done; `code` is gRPC's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class _MemberError(Exception):
    """This member cannot answer now; another one may. `down`: nobody listens there."""

    def __init__(self, why: str, down: bool = False) -> None:
        super().__init__(why)
        self.down = down


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key with its value; `revision` is that of its last change."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Event:
    """A key that was put or, without a value, deleted, at a revision."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Tls:
    """How members are known, and how we are known to them; all PEM files. Without `ca`: the system's."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises StoreError."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "reason", None) or error.strerror or error
            given = ", ".join(str(file) for file in (self.ca, self.cert, self.key) if file is not None)
            raise StoreError(f"etcd: {given}: {why}; give PEM files by --etcd-ca, --etcd-cert, --etcd-key") from None
        return context


class Etcd:
    """The members of one etcd. Raises StoreError for an endpoint that cannot be. Belongs to one event loop."""

    def __init__(self, endpoints: Sequence[str], tls: Tls) -> None:
        self.endpoints = tuple(_checked(endpoint) for endpoint in endpoints)
        if not self.endpoints:
            raise StoreError("no etcd; give --etcd https://HOST:2379")
        self._preferred = 0
        secured = any(endpoint.startswith("https://") for endpoint in self.endpoints)
        connector = aiohttp.TCPConnector(ssl=tls.context() if secured else True)
        self._http = aiohttp.ClientSession(
            connector=connector, headers={"Grpc-Metadata-hasleader": "true"}, read_bufsize=1 << 20
        )

    @property
    def preferred(self) -> str:
        """The member that is asked first."""
        return self.endpoints[self._preferred]

    async def call(self, path: str, body: Mapping[str, object], within_s: float = CALL_S) -> Document:
        """The answer of the first member that has one. Raises EtcdRefusedError, StoreUnavailableError."""
        return (await self.call_counted(path, body, within_s))[0]

    async def call_counted(
        self, path: str, body: Mapping[str, object], within_s: float = CALL_S
    ) -> tuple[Document, int]:
        """As `call`, and how often it was tried. At the first, nothing can have been done before that answer."""
        tried = 0
        loop = asyncio.get_running_loop()
        begun = loop.time()
        end = begun + within_s
        data = json.dumps(body).encode()
        errors: dict[str, str] = {}
        while True:
            down = loop.time() - begun > DOWN_S
            for offset in range(len(self.endpoints)):
                index = (self._preferred + offset) % len(self.endpoints)
                left_s = end - loop.time()
                if left_s <= 0:
                    raise StoreUnavailableError(self._unreachable(errors))
                tried += 1
                try:
                    answer = await self._ask(self.endpoints[index], path, data, min(ATTEMPT_S, left_s))
                except _MemberError as error:
                    errors[self.endpoints[index]] = str(error)
                    down = down and error.down
                    continue
                self._prefer(index)
                return answer, tried
            if down:
                raise StoreUnavailableError(self._unreachable(errors))
            await asyncio.sleep(min(AGAIN_S, max(end - loop.time(), 0.0)))

    async def range(
        self, key: str, end: str | None = None, *, limit: int = 0, descending: bool = False, within_s: float = CALL_S
    ) -> tuple[tuple[KeyValue, ...], int]:
        """The keys from `key` to before `end` (without: that key) in order, and the revision that this is of."""
        body: Document = {"key": encode(key), "limit": str(limit)}
        if end is not None:
            body["range_end"] = encode(end)
        if descending:
            body |= {"sort_order": "DESCEND", "sort_target": "KEY"}
        answer = await self.call("/v3/kv/range", body, within_s)
        return key_values(answer), int(answer["header"]["revision"])

    @asynccontextmanager
    async def watch(
        self, ranges: Sequence[tuple[str, str]], start_revision: int
    ) -> AsyncIterator[AsyncIterator[tuple[Event, ...]]]:
        """The changes to keys in `ranges` (from, to before) from a revision on, by the member that is asked first.

        They end where the member does, is cut off, or no longer has that revision. Raises StoreUnavailableError.
        """
        member = self.preferred
        creates = [
            {"create_request": {"key": encode(key), "range_end": encode(end), "start_revision": str(start_revision)}}
            for key, end in ranges
        ]
        # The gateway loses the last request now and then, when the body ends behind it: one is sent that none misses.
        body = "\n".join(map(json.dumps, [*creates, creates[0]])).encode()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        try:
            async with self._http.post(f"{member}/v3/watch", data=body, timeout=timeout) as response:
                yield _events(response, len(creates))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise StoreUnavailableError(f"etcd: {member}: {_why(error)}") from None

    async def close(self) -> None:
        await self._http.close()

    async def _ask(self, member: str, path: str, data: bytes, within_s: float) -> Document:
        timeout = aiohttp.ClientTimeout(total=within_s, sock_connect=CONNECT_S)
        try:
            async with self._http.post(member + path, data=io.BytesIO(data), timeout=timeout) as response:
                text = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            down = isinstance(getattr(error, "os_error", error), ConnectionRefusedError)
            raise _MemberError(_why(error), down) from None
        try:
            answer: Document = json.loads(text)
            if response.status == 200:
                return answer
            code, message = int(answer["code"]), str(answer["message"])
        except (ValueError, KeyError, TypeError):
            raise _MemberError(f"answers {response.status}, as no etcd does: {text[:80]!r}") from None
        if code in _AGAIN:
            raise _MemberError(message)
        if code in (_PERMISSION, _UNAUTHENTICATED):
            raise EtcdRefusedError(code, f"etcd: {member}: {message}; let this client read and write below its prefix")
        if code == _EXHAUSTED and "space exceeded" in message:
            remedy = "`etcdctl defrag` and `etcdctl alarm disarm`, or a larger --quota-backend-bytes"
            raise EtcdRefusedError(code, f"etcd: {member}: {message}; {remedy}")
        raise EtcdRefusedError(code, f"etcd refuses it: {message}")

    def _prefer(self, index: int) -> None:
        if index != self._preferred:
            log.warning("etcd: %s does not answer; %s does", self.preferred, self.endpoints[index])
            self._preferred = index

    def _unreachable(self, errors: Mapping[str, str]) -> str:
        told = "; ".join(f"{member}: {why}" for member, why in errors.items()) or "no answer in time"
        return f"no etcd member answers ({told}); see that most of its members run and can be reached from here"


async def _events(response: aiohttp.ClientResponse, watches: int) -> AsyncIterator[tuple[Event, ...]]:
    """The events of each line; first, for each watch, an empty line which says that it has begun. They end where so
    many have not begun in time."""
    if response.status != 200:
        return
    buffer, begun = bytearray(), 0
    deadline = asyncio.get_running_loop().time() + BEGIN_S
    while True:
        try:
            async with asyncio.timeout_at(deadline if begun < watches else None):
                chunk = await response.content.readany()
        except TimeoutError:
            log.warning("etcd: %d of %d watches have not begun; asking again", watches - begun, watches)
            return
        if not chunk:
            return
        buffer += chunk
        if len(buffer) > LINE_LIMIT_BYTES:
            return
        *lines, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            result = json.loads(line).get("result", {"canceled": True})
            if result.get("canceled"):
                return
            begun += bool(result.get("created"))
            yield tuple(map(_event, result.get("events", ())))


def _event(told: Document) -> Event:
    kept = told["kv"]
    value = None if told.get("type") == "DELETE" else decode(kept.get("value", ""))
    return Event(decode(kept["key"]).decode(), value, int(kept["mod_revision"]))


def key_values(answer: Document) -> tuple[KeyValue, ...]:
    """What a range has found."""
    return tuple(
        KeyValue(decode(kept["key"]).decode(), decode(kept.get("value", "")), int(kept["mod_revision"]))
        for kept in answer.get("kvs", ())
    )


def encode(data: str | bytes) -> str:
    """Bytes, or a key, as the gateway takes them."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def decode(text: str) -> bytes:
    return base64.b64decode(text)


def behind(prefix: str) -> str:
    """The end of the range of all keys that begin with `prefix`, whose last character is ASCII."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _checked(endpoint: str) -> str:
    """Raises StoreError."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise StoreError(f"--etcd {endpoint}: give https://HOST:2379")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise StoreError(f"--etcd {endpoint}: plain HTTP is for loopback only, since tokens pass; give https://")
    return endpoint.rstrip("/")


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"{error.certificate_error} (--etcd-ca)"
    inner = getattr(error, "os_error", None) or error.__cause__ or error
    if isinstance(inner, ssl.SSLError):
        return f"TLS: {inner.reason or inner} (--etcd-cert)"
    if isinstance(inner, OSError) and inner.errno:
        return os.strerror(inner.errno)
    return str(error) or type(error).__name__
