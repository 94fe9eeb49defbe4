"""What can go wrong in the proxy.

    ProxyError
    ├── Refused          a message breaks the policy: `code`, byte `offset`
    └── ApplyError       a configuration cannot be put into effect; the old one stays

Each reply that we make ourselves, and each exchange that we cut, has one `Code`. It is the `error_code` of the access
log and the label of the counters; its `source` says whose fault it is. docs/proxy.md has the same table for readers.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final


class Source(StrEnum):
    """Who caused it. A message rule broken by a server is the upstream's fault and becomes a 502."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    PROXY = "proxy"


class Code(Enum):
    """label, status towards the client, source, where the rule stands, what happened."""

    label: str
    status: int
    source: Source
    rule: str
    what: str

    def __init__(self, label: str, status: int, source: Source, rule: str, what: str) -> None:
        self.label, self.status, self.source, self.rule, self.what = label, status, source, rule, what

    def said(self, offset: int | None = None) -> str:
        """What happened, by which rule, and at which byte of the message where it is about one."""
        return f"{self.what} ({self.rule})" + ("" if offset is None else f", byte {offset}")

    # The shape of a message.
    REQUEST_LINE = ("bad_request_line", 400, Source.CLIENT, "RFC 9112 §3", "malformed request line")
    STATUS_LINE = ("bad_status_line", 502, Source.UPSTREAM, "RFC 9112 §4", "malformed status line")
    VERSION = ("unsupported_version", 505, Source.CLIENT, "RFC 9110 §2.5", "HTTP version other than 1.0 and 1.1")
    METHOD = ("method_not_allowed", 405, Source.CLIENT, "RFC 9110 §9.3", "CONNECT and TRACE are not served")
    TARGET = ("bad_target", 400, Source.CLIENT, "RFC 9112 §3.2", "malformed request target")
    PATH = ("ambiguous_path", 400, Source.CLIENT, "RFC 3986 §6.2.2", "path that servers could read in several ways")
    TARGET_LONG = ("request_line_too_long", 414, Source.CLIENT, "RFC 9112 §3", "request line above the limit")
    HEAD_LARGE = ("head_too_large", 431, Source.CLIENT, "RFC 6585 §5", "head above the size limit")
    FIELDS_MANY = ("too_many_fields", 431, Source.CLIENT, "RFC 6585 §5", "more fields than the limit")
    BARE_LF = ("bare_lf", 400, Source.CLIENT, "RFC 9112 §2.2", "line feed without carriage return")
    BARE_CR = ("bare_cr", 400, Source.CLIENT, "RFC 9112 §2.2", "carriage return without line feed")
    CONTROL = ("control_character", 400, Source.CLIENT, "RFC 9110 §5.5", "NUL or other control character")
    OBS_FOLD = ("obs_fold", 400, Source.CLIENT, "RFC 9112 §5.2", "field continued on a second line")
    SPACE_COLON = ("space_before_colon", 400, Source.CLIENT, "RFC 9112 §5.1", "white space before the colon")
    FIELD_NAME = ("bad_field_name", 400, Source.CLIENT, "RFC 9110 §5.1", "field name empty or not a token")
    SECOND_READER = (
        "readers_disagree",
        400,
        Source.CLIENT,
        "docs/decisions/0021",
        "h11 does not read the head as we do",
    )
    # Fields that say where the request goes and how long it is.
    HOST_MISSING = ("host_missing", 400, Source.CLIENT, "RFC 9112 §3.2", "no Host field in HTTP/1.1")
    HOST_REPEATED = ("host_repeated", 400, Source.CLIENT, "RFC 9112 §3.2", "more than one Host field")
    HOST_INVALID = ("host_invalid", 400, Source.CLIENT, "RFC 9112 §3.2", "Host is not a host and port")
    LENGTH = ("bad_content_length", 400, Source.CLIENT, "RFC 9110 §8.6", "Content-Length is not 1*DIGIT")
    LENGTHS_DIFFER = ("content_lengths_differ", 400, Source.CLIENT, "RFC 9110 §8.6", "differing Content-Length fields")
    LENGTH_AND_CODING = (
        "length_and_transfer_encoding", 400, Source.CLIENT, "RFC 9112 §6.1",
        "Content-Length together with Transfer-Encoding",
    )  # fmt: skip
    CODING_1_0 = ("transfer_encoding_in_1_0", 400, Source.CLIENT, "RFC 9112 §6.1", "Transfer-Encoding in HTTP/1.0")
    CHUNKED_NOT_LAST = ("chunked_not_last", 400, Source.CLIENT, "RFC 9112 §6.3", "chunked is not the last coding, once")
    CODING_UNKNOWN = ("unknown_transfer_coding", 501, Source.CLIENT, "RFC 9112 §6.1", "transfer coding not implemented")
    EXPECTATION = ("unknown_expectation", 417, Source.CLIENT, "RFC 9110 §10.1.1", "Expect other than 100-continue")
    UPGRADE = ("bad_upgrade", 400, Source.CLIENT, "RFC 6455 §4.1", "WebSocket opening without what it needs")
    LOOP = ("loop", 508, Source.CLIENT, "RFC 9110 §7.6.3", "our own name stands in Via")
    # What only HTTP/2 can say.
    PSEUDO = (
        "bad_pseudo_header", 400, Source.CLIENT, "RFC 9113 §8.3",
        "pseudo-header field missing, repeated, unknown or out of its place",
    )  # fmt: skip
    UPPER_CASE = ("upper_case_field", 400, Source.CLIENT, "RFC 9113 §8.2.1", "field name with upper-case letters")
    SPACE_AROUND = ("space_around_value", 400, Source.CLIENT, "RFC 9113 §8.2.1", "white space around a field's value")
    CONNECTION_FIELD = (
        "connection_field", 400, Source.CLIENT, "RFC 9113 §8.2.2", "field about a connection, which HTTP/2 has not"
    )  # fmt: skip
    AUTHORITY = ("authority_not_host", 400, Source.CLIENT, "RFC 9113 §8.3.1", ":authority and Host differ")
    PROTOCOL = ("unknown_protocol", 501, Source.CLIENT, "RFC 8441 §4", "extended CONNECT, and not for a WebSocket")
    # Bodies.
    CHUNK_SIZE = ("bad_chunk_size", 400, Source.CLIENT, "RFC 9112 §7.1", "chunk size is not hexadecimal, or too large")
    CHUNK_EXTENSION = ("bad_chunk_extension", 400, Source.CLIENT, "RFC 9112 §7.1.1", "malformed or oversized extension")
    CHUNK_END = ("bad_chunk_end", 400, Source.CLIENT, "RFC 9112 §7.1", "chunk data is not followed by CRLF")
    TRAILER = ("bad_trailer", 400, Source.CLIENT, "RFC 9112 §7.1.2", "malformed or oversized trailer section")
    LENGTH_WRONG = ("length_not_kept", 400, Source.CLIENT, "RFC 9113 §8.1.1", "body not as long as Content-Length says")
    # What the client did.
    HEAD_TIMEOUT = ("head_timeout", 408, Source.CLIENT, "head_timeout_s", "head not complete in time")
    BODY_TIMEOUT = ("body_timeout", 408, Source.CLIENT, "body_timeout_s", "body paused, or came too slowly")
    CLIENT_CLOSED = ("client_closed", 499, Source.CLIENT, "RFC 9112 §9.6", "client closed before the answer's end")
    CLIENT_STALLED = ("client_stalled", 499, Source.CLIENT, "send_timeout_s", "client reads no more of the answer")
    AUTHORIZATION = (
        "bad_authorization", 400, Source.CLIENT, "RFC 9110 §11.6.2", "credentials that cannot be read in one way",
    )  # fmt: skip
    UNAUTHENTICATED = ("unauthenticated", 401, Source.CLIENT, "docs/authentication.md", "no credentials, or wrong ones")
    FORBIDDEN = ("forbidden", 403, Source.CLIENT, "docs/authentication.md", "credentials that do not suffice")
    FAILURES = ("too_many_failures", 429, Source.CLIENT, "max_failures_per_min", "too many wrong passwords")
    CORS = ("cors_refused", 403, Source.CLIENT, "docs/response-headers.md", "a preflight asks for what is not allowed")
    RATE = ("rate_limited", 429, Source.CLIENT, "rate_limits", "more requests than a limit lets through")
    ACCESS = ("access_denied", 403, Source.CLIENT, "access_list", "the rule's access list does not admit the client")
    BODY_LARGE = ("body_too_large", 413, Source.CLIENT, "max_body_bytes", "body above the size limit")
    CLIENT_FULL = (
        "client_requests_full", 429, Source.CLIENT, "max_requests_per_client", "the client has too many under way",
    )  # fmt: skip
    # What the configuration says.
    MAINTENANCE = ("maintenance", 503, Source.PROXY, "maintenance", "closed for maintenance")
    REQUESTS_FULL = ("requests_full", 503, Source.PROXY, "max_requests", "as many requests are under way as may be")
    NO_RULE = ("no_rule", 404, Source.PROXY, "docs/proxy.md", "no rule and no default backend service")
    AUTHENTICATION = (
        "authentication_unavailable", 503, Source.PROXY, "docs/authentication.md", "nobody can say who the client is",
    )  # fmt: skip
    OVERLOADED = ("overloaded", 503, Source.PROXY, "docs/proxy.md", "too many bytes wait for their turn")
    NO_SERVER = ("no_healthy_server", 503, Source.PROXY, "docs/proxy.md", "no server is healthy and has weight")
    QUEUE_FULL = ("queue_full", 503, Source.PROXY, "server_max_queue", "all servers and their queue are full")
    SHED = ("shed", 503, Source.PROXY, "queue_target_s", "more comes than the servers do, and others go first")
    QUEUE_TIMEOUT = ("queue_timeout", 503, Source.PROXY, "queue_timeout_s", "waited in vain for a server that is full")
    TOTAL_TIMEOUT = ("total_timeout", 504, Source.PROXY, "total_timeout_s", "the whole did not end in time")
    DRAINED = ("drain_time_over", 503, Source.PROXY, "docs/proxy.md", "not finished when the drain time ended")
    # What the server did.
    CONNECT = ("connect_failed", 502, Source.UPSTREAM, "docs/proxy.md", "no server accepted the connection")
    CONNECT_TIMEOUT = ("connect_timeout", 504, Source.UPSTREAM, "connect_timeout_s", "no connection in time")
    UPSTREAM_TLS = (
        "upstream_tls",
        502,
        Source.UPSTREAM,
        "docs/upstreams.md",
        "no TLS with the server, or no trust",
    )
    UPSTREAM_TIMEOUT = ("upstream_timeout", 504, Source.UPSTREAM, "docs/upstreams.md", "no answer in time")
    UPSTREAM_CLOSED = ("upstream_closed", 502, Source.UPSTREAM, "RFC 9112 §9.5", "closed before the answer's head")
    UPSTREAM_CUT = ("upstream_cut", 502, Source.UPSTREAM, "RFC 9112 §8", "closed or silent before the answer's end")
    NO_WEBSOCKET = (
        "no_websocket", 501, Source.PROXY, "docs/upstreams.md", "a WebSocket, and its servers are spoken to in HTTP/2"
    )  # fmt: skip
    STREAM = ("bad_stream", 502, Source.UPSTREAM, "RFC 9113 §5.4.2", "frames that a stream of HTTP/2 cannot have")
    UNASKED_UPGRADE = ("unasked_upgrade", 502, Source.UPSTREAM, "RFC 9110 §7.8", "101 without a request to upgrade")
    ACCEPT = ("bad_websocket_accept", 502, Source.UPSTREAM, "RFC 6455 §4.1", "Sec-WebSocket-Accept is not of our key")


# Error types of RFC 9209 §2.3; whatever is not named here has that of its source.
_KINDS: Final = {
    Code.LOOP: "proxy_loop_detected",
    Code.RATE: "http_request_denied",
    Code.UNAUTHENTICATED: "http_request_denied",
    Code.FORBIDDEN: "http_request_denied",
    Code.FAILURES: "http_request_denied",
    Code.CORS: "http_request_denied",
    Code.ACCESS: "http_request_denied",
    Code.CLIENT_FULL: "http_request_denied",
    Code.REQUESTS_FULL: "connection_limit_reached",
    Code.NO_RULE: "destination_not_found",
    Code.NO_SERVER: "destination_unavailable",
    Code.CONNECT: "destination_unavailable",
    Code.CONNECT_TIMEOUT: "connection_timeout",
    Code.QUEUE_FULL: "connection_limit_reached",
    Code.QUEUE_TIMEOUT: "connection_limit_reached",
    Code.SHED: "connection_limit_reached",
    Code.UPSTREAM_TIMEOUT: "http_response_timeout",
    Code.TOTAL_TIMEOUT: "http_response_timeout",
    Code.UPSTREAM_CLOSED: "connection_terminated",
    Code.UPSTREAM_CUT: "http_response_incomplete",
    Code.UPSTREAM_TLS: "tls_protocol_error",
    Code.UNASKED_UPGRADE: "http_upgrade_failed",
    Code.ACCEPT: "http_upgrade_failed",
}
# What may well succeed a little later: said with Retry-After.
LATER: Final = frozenset((Code.QUEUE_FULL, Code.QUEUE_TIMEOUT, Code.SHED))
_KINDS_OF_SOURCES: Final = {
    Source.CLIENT: "http_request_error",
    Source.PROXY: "proxy_internal_response",
    Source.UPSTREAM: "http_protocol_error",
}


def kind(code: Code, source: Source) -> str:
    """The error type that Proxy-Status gives for it (RFC 9209)."""
    return _KINDS.get(code) or _KINDS_OF_SOURCES[source]


class ProxyError(Exception):
    """Any error that this package raises on purpose."""


class Refused(ProxyError):
    """A message breaks the policy of docs/proxy.md at byte `offset`; it must not be passed on."""

    def __init__(self, code: Code, offset: int = 0) -> None:
        super().__init__(code.said(offset))
        self.code = code
        self.offset = offset


class ApplyError(ProxyError):
    """A configuration cannot be put into effect; nothing of it has been."""
