"""What one request has moved and how long it took: for the access log, the metrics and the bill.

A client's connection has one account, which begins anew with each request. Bytes are counted as they move. Those of a
request that goes on for long are billed ahead of its end, so that an hour's bytes are billed in that hour; its record
then has all of them, and what was billed ahead is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from core.endpoints import endpoint
from proxy.access_log import Record, Visitor
from proxy.actions import Way
from proxy.exchange import Exchange
from proxy.log_shape import LogField


class Account:
    """Times are on the monotonic clock: it is finer than the loop's, which stands still for a whole turn.

    `bytes_in` are those that came, of which the exchange may hold some that are of a next request. `assigned_at`: when
    a server was last asked for; `first_at`: when it was first heard, 0 until then. `number`: of requests so far.
    """

    __slots__ = ("assigned_at", "bytes_in", "bytes_out", "first_at", "number", "started_at", "told_in", "told_out")

    def __init__(self) -> None:
        self.started_at = self.assigned_at = self.first_at = 0.0
        self.bytes_in = self.bytes_out = self.number = 0
        self.told_in = self.told_out = 0  # billed ahead

    def begin(self, bytes_in: int) -> None:
        """A request has come, whose head and whatever came with it are so long."""
        self.started_at, self.first_at = monotonic(), 0.0
        self.bytes_in, self.bytes_out = bytes_in, 0
        self.number += 1

    def ahead(self, waiting_bytes: int) -> tuple[int, int]:
        """What has moved in and out since this was last asked, but for bytes that wait; it is billed ahead."""
        bytes_in, bytes_out = self.bytes_in - waiting_bytes, self.bytes_out
        more = bytes_in - self.told_in, bytes_out - self.told_out
        self.told_in, self.told_out = bytes_in, bytes_out
        return more

    def take_back(self) -> tuple[int, int]:
        """What was billed ahead, with its sign turned, since the record tells of all."""
        told = -self.told_in, -self.told_out
        self.told_in = self.told_out = 0
        return told

    def record(self, visitor: Visitor, exchange: Exchange, service: str, fields: Sequence[LogField]) -> Record:
        """The record of an exchange that is over. `service`: the one that was asked last, a fallback perhaps."""
        head, now = exchange.head, monotonic()
        record = Record(
            visitor.listener,
            visitor.client,
            head.method.decode("ascii"),
            head.host.decode("ascii"),
            exchange.target.decode("ascii"),
            exchange.status,
            self.bytes_in - len(exchange.rest),
            self.bytes_out,
            (now - self.started_at) * 1000,
        )
        if exchange.upstream is not None:
            record.upstream = endpoint(*exchange.upstream)
            record.upstream_ms = (now - self.assigned_at) * 1000
            if self.first_at:
                record.first_byte_s = self.first_at - self.assigned_at
        record.way = Way(exchange.rule, service)
        record.request_id = exchange.identifier.decode("ascii")
        record.tls_version, record.sni = visitor.tls_version, visitor.sni
        record.user = exchange.user
        record.version = f"HTTP/{head.block.version.decode('ascii')}"
        if fields:
            block, answer, told = head.block, exchange.answer, exchange.grpc_status
            record.fields = tuple(each.value(block, answer, record.way, told) for each in fields)
        return record
