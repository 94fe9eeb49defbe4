"""What a key server says under /metrics. Pure.

Labels are bounded: by the identities that were issued or allowed (clients), by the program (results, kinds) and by the
command line (crews).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from control.node.metrics import Family, counter, gauge, only
from keyserver.policy import KeyType

PREFIX: Final = "paifang_keyserver"

# Counters of the server that are no answer to a request to sign (service.py, server.py).
OTHERS: Final = (
    "audit_failed",
    "broken_connection",
    "found",
    "greeting_timeout",
    "malformed",
    "not_found",
    "ocsp_failed",
    "ocsp_fetched",
    "tickets",
    "unknown_request",
)


@dataclass(frozen=True, slots=True)
class CrewState:
    """`size` workers were asked for; `ready` sign, `waiting` jobs have none yet."""

    name: str
    size: int
    ready: int
    waiting: int
    restarts: int


@dataclass(frozen=True, slots=True)
class State:
    """All that there is to tell."""

    keys: Mapping[KeyType, int]
    clear_files: int
    stale: bool  # files, token or policy have changed and cannot be used
    connections: int
    signatures: Mapping[KeyType, int]
    answers: Mapping[tuple[str, str], int]  # (client, result) → SIGN requests
    others: Mapping[str, int]
    crews: Sequence[CrewState]


def families(state: State) -> Iterator[Family]:
    kinds = [(kind,) for kind in KeyType]
    yield gauge(f"{PREFIX}_keys", "Keys held.", [(kind, state.keys.get(kind[0], 0)) for kind in kinds], ("type",))
    yield gauge(f"{PREFIX}_clear_key_files", "Key files that are not encrypted.", only(state.clear_files))
    yield gauge(
        f"{PREFIX}_stale",
        "1 while keys or policy have changed and cannot be used; the log says why.",
        only(state.stale),
    )
    yield gauge(f"{PREFIX}_connections", "Clients connected.", only(state.connections))
    yield counter(
        f"{PREFIX}_signatures_total",
        "Signatures given.",
        [(kind, state.signatures.get(kind[0], 0)) for kind in kinds],
        ("type",),
    )
    yield counter(
        f"{PREFIX}_requests_total",
        "Requests to sign, by who asked and what came of it (ok, or why not).",
        state.answers.items(),
        ("client", "result"),
    )
    yield counter(
        f"{PREFIX}_events_total",
        "What happened beside the answers to requests.",
        [((name,), state.others.get(name, 0)) for name in OTHERS],
        ("event",),
    )
    crews = [((crew.name,), crew) for crew in state.crews]
    yield gauge(f"{PREFIX}_workers", "Worker processes wanted.", [(n, crew.size) for n, crew in crews], ("crew",))
    yield gauge(
        f"{PREFIX}_workers_ready", "Worker processes that sign.", [(n, crew.ready) for n, crew in crews], ("crew",)
    )
    yield gauge(
        f"{PREFIX}_waiting_requests",
        "Requests that no worker has yet.",
        [(n, crew.waiting) for n, crew in crews],
        ("crew",),
    )
    yield counter(
        f"{PREFIX}_worker_restarts_total",
        "Workers started in place of one that ended or hung.",
        [(n, crew.restarts) for n, crew in crews],
        ("crew",),
    )
