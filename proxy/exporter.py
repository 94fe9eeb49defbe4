"""What an L7 node says under /metrics, made of what its supervisor knows (`Supervisor.measured`). Pure.

Labels are bounded: by the configuration (listeners, services, rules, servers), of which SERIES_MOST of a kind are told
one by one and the rest as `other`, and by the program (error codes, reasons). Nothing that a client sends becomes a
label. A histogram is 18 series, so that these have a bound of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from control.node.metrics import Family, Histogram, Sample, counter, gauge, only
from proxy import grpc, meters
from proxy.meters import BOUNDS, CLASSES, OTHER, SERIES_MOST, SIGNATURE_BOUNDS

Document = Mapping[str, Any]

L7: Final = "paifang_l7"
HISTOGRAMS_MOST: Final = 500

# Counters of the workers that have no label: name → metric, help.
PLAIN: Final = {
    "connections": ("connections", "Connections of clients that began, TLS handshakes done."),
    "connections_denied": ("denied_connections", "Connections that an access list denied."),
    "introductions_refused": ("refused_introductions", "Connections without the PROXY header that they needed."),
    "connections_over_limit": ("limited_connections", "Connections beyond a listener's limits."),
    "client_certificates_refused": ("refused_client_certificates", "Certificates of clients that were not taken."),
    "connect_failures": ("connect_failures", "Attempts to connect to a server that failed."),
    "retries": ("retries", "Requests that were sent again, to the same server or another."),
    "rate_limit_dry_runs": ("requests_beyond_dry_runs", "Requests beyond a rate limit that only counts."),
    "forgotten_rate_keys": ("forgotten_rate_keys", "Keys of rate limits that others drove out while they counted."),
    "mirrored_requests": ("mirrored_requests", "Copies of requests that were sent."),
    "mirrors_failed": ("failed_mirrored_requests", "Copies that no server answered with less than 500."),
    "mirrors_dropped": ("dropped_mirrored_requests", "Copies that were not sent: too long, or too many."),
    "delayed_requests": ("delayed_requests", "Requests that a rate limit made wait."),
    "retries_denied": ("denied_retries", "Requests that could have been sent again but for the limit of retries."),
    "queued_requests": ("queued_requests", "Requests that had to wait for a connection to a server."),
    "fallback_requests": ("fallback_requests", "Requests that went to a fallback service."),
    "passwords_checked": ("password_checks", "Passwords that were hashed."),
    "tokens_verified": ("token_checks", "Tokens whose signatures were verified, or refused before that."),
    "key_sets_fetched": ("key_set_fetches", "Attempts to fetch the keys of tokens."),
    "key_sets_failed": ("failed_key_set_fetches", "Attempts to fetch the keys of tokens that failed."),
    "forward_auth_failures": ("failed_auth_requests", "Requests to an authenticating service without an answer."),
    "underscored_fields": ("dropped_fields", "Fields of requests dropped because of an underscore in their name."),
    "replaced_answers": ("replaced_answers", "Answers of servers in whose place a page of ours went."),
    "compressed_answers": ("compressed_answers", "Answers that were compressed."),
    "compression_bytes_in": ("compression_bytes_in", "Bytes of bodies that went into compression."),
    "compression_bytes_out": ("compression_bytes_out", "Bytes of bodies that came out of compression."),
    "http2_connections": ("http2_connections", "Connections of clients that spoke HTTP/2."),
    "http2_streams": ("http2_streams", "Requests by HTTP/2, those included that were refused."),
    "http2_resets_in": ("http2_received_resets", "Streams of HTTP/2 that clients have reset."),
    "http2_resets_out": ("http2_sent_resets", "Streams of HTTP/2 that were reset towards clients."),
    "http2_goaways": ("http2_goaways", "Connections of HTTP/2 that clients were told to leave."),
    "http2_errors": ("http2_connection_errors", "Connections of HTTP/2 ended because a client broke the protocol."),
    "http2_floods": ("http2_floods", "Connections of HTTP/2 ended because a client asked for too much work."),
    "log_lines_lost": ("lost_log_lines", "Lines of the access log that were lost: the disk or pipe did not keep up."),
}
LEVELS: Final = {
    "connections_open": ("connections", "Open connections of clients."),
    "requests_open": ("requests_in_flight", "Requests that a server works on."),
    "requests_waiting": ("requests_waiting", "Requests that wait for a connection to a server."),
    "tls_in_flight": ("tls_handshakes_in_flight", "TLS handshakes that go on."),
}
SERVER: Final = {
    "requests": ("requests", "Requests sent to a server, once for each attempt."),
    "failures": ("failures", "Requests that a server failed: no connection, or none that lasted."),
    "errors": ("error_answers", "Answers of a server with a status of 500 and above."),
    "ejections": ("ejections", "How often a server was ejected for failing requests."),
}
SERVER_LEVELS: Final = {
    "active": ("requests_in_flight", "Requests that a server works on."),
    "idle": ("idle_connections", "Connections to a server that wait for a request."),
    "ejected": ("ejected", "Workers that have ejected a server."),
}
HANDSHAKE: Final = "tls_"
TICKETS: Final = "tls_tickets_"
NO_HANDSHAKE: Final = ("tls_in_flight", "tls_stapled", TICKETS)
FAILED: Final = "failed"


def families(node: Document) -> Iterator[Family | Histogram]:
    """All that there is to tell."""
    counters = node["counters"]
    yield gauge(f"{L7}_ready", "1 while new connections should come here.", only(node["ready"]))
    help = "The version of the configuration that runs; 0 before the first."
    yield gauge(f"{L7}_configuration_version", help, only(node["configuration"]))
    help = "Problems that somebody should look at; `paifang status` has their text."
    yield gauge(f"{L7}_problems", help, only(len(node["problems"])))
    yield gauge(f"{L7}_workers", "Worker processes that run.", only(node["workers"]))
    help = "Worker processes that ended and were started again."
    yield counter(f"{L7}_worker_restarts_total", help, only(node["worker_restarts"]))
    yield from _listeners(node["listeners"])
    yield from _services(node["services"])
    yield from _rules(node["rules"], node["listener_of"])
    yield from _parts(node["parts"], node["listener_of"])
    for name, (metric, help) in PLAIN.items():
        yield counter(f"{L7}_{metric}_total", help, only(counters.get(name, 0)))
    calls = [((name,), counters.get(grpc.COUNTED + name, 0)) for name in (*grpc.NAMES, grpc.NO_STATUS)]
    help = f"Calls of gRPC, by the status that the client was told; {grpc.NO_STATUS}: cut off, or without one."
    yield counter(f"{L7}_grpc_calls_total", help, calls, ("status",))
    for name, (metric, help) in LEVELS.items():
        yield gauge(f"{L7}_{metric}", help, only(counters.get(name, 0)))
    results = {
        name.removeprefix(HANDSHAKE): number
        for name, number in counters.items()
        if name.startswith(HANDSHAKE) and not name.startswith(NO_HANDSHAKE)
    }
    help = "TLS handshakes that ended: ok, or why they did not come about."
    yield counter(f"{L7}_tls_handshakes_total", help, [((each,), n) for each, n in results.items()], ("result",))
    help = "Handshakes with an OCSP response."
    yield counter(f"{L7}_tls_stapled_handshakes_total", help, only(counters.get("tls_stapled", 0)))
    yield from _tls(node["listeners"], counters)
    yield from _servers(node["upstreams"])
    help = "1 if a server passes its health checks, 0 if not; of servers that have any."
    health = [((each["service"], each["server"]), each["healthy"]) for each in node["health"][:SERIES_MOST]]
    yield gauge(f"{L7}_server_up", help, health, ("service", "server"))


def _bounded(kind: str, rows: Mapping[str, Document], most: int) -> dict[str, Document]:
    """So many of them, and the sum of the rest."""
    names = [name for name in rows if name != OTHER]
    found = {name: rows[name] for name in names[:most]}
    if rest := [*names[most:], *({OTHER} & rows.keys())]:
        found[OTHER] = meters.together(kind, (rows[name] for name in rest))
    return found


def _statuses(rows: Mapping[str, Document], names: Callable[[str], tuple[str, ...]]) -> list[Sample]:
    return [
        ((*names(name), each), number)
        for name, row in rows.items()
        for each, number in zip(CLASSES, row["statuses"], strict=True)
    ]


def _only(name: str) -> tuple[str, ...]:
    return (name,)


def _listeners(listeners: Mapping[str, Document]) -> Iterator[Family | Histogram]:
    help = "Requests answered, those refused or cut included, by the first digit of the status."
    yield counter(f"{L7}_requests_total", help, _statuses(listeners, _only), ("listener", "status"))
    both: list[Sample] = [
        ((name, way), row[f"bytes_{way}"]) for name, row in listeners.items() for way in ("in", "out")
    ]
    help = "Bytes from clients (in) and to them (out), heads included, without TLS."
    yield counter(f"{L7}_bytes_total", help, both, ("listener", "direction"))
    errors: list[Sample] = [
        ((name, *key.split(" ")), number) for name, row in listeners.items() for key, number in row["errors"].items()
    ]
    help = "Requests that were refused, cut or could not be served, by whose fault it was and why."
    yield counter(f"{L7}_request_errors_total", help, errors, ("listener", "source", "code"))
    yield from _durations("listeners", listeners, "", "listener")


def _durations(kind: str, rows: Mapping[str, Document], prefix: str, label: str) -> Iterator[Histogram]:
    bounded = _bounded(kind, rows, HISTOGRAMS_MOST)
    help = "From the complete head of a request to its end. Without WebSockets."
    whole = [((name,), row["buckets"], row["seconds"]) for name, row in bounded.items()]
    yield Histogram(f"{L7}_{prefix}request_duration_seconds", help, BOUNDS, whole, (label,))
    help = "From the choice of a server to the first byte of its answer, connecting included; of requests that got one."
    first = [((name,), row["firsts"], row["first_seconds"]) for name, row in bounded.items()]
    yield Histogram(f"{L7}_{prefix}first_byte_seconds", help, BOUNDS, first, (label,))


def _services(services: Mapping[str, Document]) -> Iterator[Family | Histogram]:
    help = "Requests for a backend service, by the first digit of the status that the client got."
    yield counter(f"{L7}_service_requests_total", help, _statuses(services, _only), ("service", "status"))
    yield from _durations("services", services, "service_", "service")


def _rules(rules: Mapping[str, Document], listener_of: Mapping[str, str]) -> Iterator[Family]:
    help = "Requests that a rule decided about, by the first digit of the status that the client got."
    samples = _statuses(rules, lambda name: (listener_of[name], name))
    yield counter(f"{L7}_rule_requests_total", help, samples, ("listener", "rule", "status"))


def _parts(parts: Mapping[str, Document], listener_of: Mapping[str, str]) -> Iterator[Family]:
    def labels(name: str) -> tuple[str, ...]:
        rule, _, service = name.partition(" ")
        return listener_of.get(rule, OTHER), rule, service or OTHER

    help = "Requests that a rule with a split sent to a backend service, by the first digit of the status."
    names = ("listener", "rule", "service", "status")
    yield counter(f"{L7}_rule_service_requests_total", help, _statuses(parts, labels), names)


def _tls(listeners: Mapping[str, Document], counters: Mapping[str, float]) -> Iterator[Family | Histogram]:
    ended = [((name, *how.split(" ")), n) for name, row in listeners.items() for how, n in row.get("tls", {}).items()]
    help = "TLS handshakes that came about, of new sessions and of resumed ones, which need no signature."
    done = [each for each in ended if each[0][1] != FAILED]
    yield counter(f"{L7}_listener_tls_handshakes_total", help, done, ("listener", "version", "session"))
    help = "TLS handshakes that did not come about, and why."
    failed = [((name, why), n) for (name, how, why), n in ended if how == FAILED]
    yield counter(f"{L7}_listener_tls_failures_total", help, failed, ("listener", "reason"))
    help = "Session tickets: given, taken from clients, unknown (of a key that is not in use any more)."
    tickets = [((name.removeprefix(TICKETS),), n) for name, n in counters.items() if name.startswith(TICKETS)]
    yield counter(f"{L7}_tls_tickets_total", help, tickets, ("what",))
    help = "From asking a key server for a signature to its answer, also to that it gives none."
    whole = meters.together("listeners", listeners.values())
    buckets = whole.get("signatures", [0] * (len(SIGNATURE_BOUNDS) + 1))
    rows = [((), buckets, whole.get("signature_seconds", 0.0))]
    yield Histogram(f"{L7}_tls_signature_seconds", help, SIGNATURE_BOUNDS, rows)


def _servers(rows: Sequence[Document]) -> Iterator[Family]:
    labels = ("service", "server")
    for name, (metric, help) in SERVER.items():
        yield counter(f"{L7}_server_{metric}_total", help, _column(rows, name), labels)
    for name, (metric, help) in SERVER_LEVELS.items():
        yield gauge(f"{L7}_server_{metric}", help, _column(rows, name), labels)

    slowest = [((row["service"], row["server"]), row["latency_ms"] / 1000) for row in rows if "latency_ms" in row]
    help = "Time to an answer's head as the worker sees it that finds the server slowest; with the scheduler p2c."
    yield gauge(f"{L7}_server_latency_seconds", help, slowest[:SERIES_MOST], labels)


def _column(rows: Sequence[Document], name: str) -> Iterator[Sample]:
    for row in rows[:SERIES_MOST]:
        yield (row["service"], row["server"]), row[name]
    if rest := rows[SERIES_MOST:]:
        yield (OTHER, OTHER), sum(row[name] for row in rest)
