"""Traces: which requests become a span, and what its span tells (W3C Trace Context, OpenTelemetry).

A request's `traceparent` names the trace that it is part of and the span that it was sent in. Most requests go as they
came, with that field as it is. Of those that are chosen we are a span of our own: the server is sent our span's name in
place of the caller's, in the caller's trace or, where there is none, in a new one; `tracestate` passes as it is.

Chosen are those that a trusted client has chosen (the flag `sampled`), and of all others a share, by chance: a client
that nobody knows cannot have us write down each of its requests. A chosen request takes the common way and not the
fast lane, and some 50 µs more; the others cost the look whether they are chosen.

Spans are made, kept for a while and sent by OpenTelemetry's own library, in a thread; where the collector does not keep
up, spans are lost and the library's log says so. Source: https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from proxy.access_log import Record
from proxy.changes import Changes

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

FIELD: Final = b"traceparent"
# §3.2.2: version 00 is whole, later ones may go on behind a hyphen; `ff` is no version, and no name is all zeros.
_PARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?=-|\Z)")
_REPLACED: Final = frozenset({FIELD})
_BEGUN: Final = frozenset({FIELD, b"tracestate"})  # §3.3.1.5: what belongs to no sound parent is dropped
_SAMPLED: Final = 1
_LENGTH: Final = 55
FAILED: Final = 500


class Trace(Protocol):
    """One request's span."""

    @property
    def changes(self) -> Changes:
        """What the server is sent in place of the caller's field."""

    def end(self, record: Record) -> None:
        """The request is over."""


def parent_of(values: Sequence[bytes]) -> tuple[bytes, bool] | None:
    """The caller's span, as `traceparent` has it, and whether it is sampled; None where there is none that is sound."""
    if len(values) != 1:
        return None
    value = values[0]
    match = _PARENT.match(value)
    if match is None or (value[_LENGTH:] and value.startswith(b"00")):
        return None
    return value, int(value[_LENGTH - 2 : _LENGTH], 16) & _SAMPLED == _SAMPLED


def check(url: str, share: float) -> None:
    """Finds what would keep a `Tracer` from working. Raises ValueError with the remedy."""
    if not 0 <= share <= 1:
        raise ValueError(f"--trace-share {share:g}: give a share from 0 to 1")
    if not url:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--traces {url!r}: give the collector's URL, as http://10.0.0.9:4318/v1/traces")
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401 - as each worker does
    except ImportError:
        raise ValueError("--traces: its library is missing: pip install 'paifang[otel]'") from None


class Tracer:
    """Makes the spans of one worker. `url` is the collector's, for OTLP over HTTP; `share` from 0 to 1."""

    def __init__(
        self, url: str, share: float, node: str, *,
        exporter: SpanExporter | None = None, chance: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        """Raises ImportError where the library is missing."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": "paifang-l7", "service.instance.id": node})
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(url)))
        self._tracer = self._provider.get_tracer("paifang")
        self._propagator = TraceContextTextMapPropagator()
        self._share, self._chance = share, chance

    def chooses(self, values: Sequence[bytes], trusted: bool) -> bool:
        """Whether a request with these values of `traceparent` becomes a span; by chance, so to be asked once."""
        parent = parent_of(values) if trusted and values else None
        return (parent is not None and parent[1]) or self._chance() < self._share

    def begin(self, values: Sequence[bytes], method: str, listener: str) -> Trace:
        """The span of a request that has just come."""
        from opentelemetry.trace import SpanKind

        parent = parent_of(values)
        context = self._propagator.extract({FIELD.decode(): parent[0].decode("ascii")}) if parent else None
        name = f"{method} {listener}"  # few, as names of spans have to be
        span = self._tracer.start_span(name, context, SpanKind.SERVER, start_time=time.time_ns())
        return _Trace(span, new=parent is None)

    def close(self) -> None:
        """Blocks until what is kept has been sent, for some seconds at most."""
        self._provider.shutdown()


class _Trace:
    __slots__ = ("_span", "changes")

    def __init__(self, span: Span, new: bool) -> None:
        context = span.get_span_context()
        self._span = span
        line = f"traceparent: 00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}\r\n"
        self.changes = Changes(_BEGUN if new else _REPLACED, line.encode())

    def end(self, record: Record) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attributes(attributes(record))
        if record.status >= FAILED or record.error_code:
            self._span.set_status(StatusCode.ERROR, record.error_code)
        self._span.end()


def attributes(record: Record) -> dict[str, Any]:
    """By OpenTelemetry's conventions for HTTP. Of the target the path alone: queries hold what nobody should read."""
    told = {
        "http.request.method": record.method, "url.path": record.path.partition("?")[0], "url.scheme": "http",
        "server.address": record.host, "client.address": record.client, "http.response.status_code": record.status,
        "network.protocol.version": record.version.removeprefix("HTTP/"), "error.type": record.error_code,
        "http.response.size": record.bytes_out, "http.request.size": record.bytes_in,
        "paifang.listener": record.listener, "paifang.rule": record.way.rule, "paifang.service": record.way.service,
        "paifang.upstream": record.upstream, "paifang.request_id": record.request_id,
        "paifang.first_byte_s": record.first_byte_s,
    }  # fmt: skip
    if record.tls_version:
        told |= {"url.scheme": "https", "tls.protocol.version": record.tls_version.removeprefix("TLSv")}
    return {name: value for name, value in told.items() if value not in ("", 0, None)}
