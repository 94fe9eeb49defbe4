"""What a look at a certificate chain found: plain data, which travels and is shown without a parser of X.509."""

from __future__ import annotations

from dataclasses import dataclass

NO_KEY = bytes(32)


@dataclass(frozen=True, slots=True)
class ChainReport:
    """The findings on one chain. It may be served exactly when `problems` is empty.

    key_id: SHA-256 of the leaf's SubjectPublicKeyInfo, `NO_KEY` where no leaf could be read.
    names: the leaf's DNS names and IP addresses, in the order of its subjectAltName.
    not_after: when the first certificate of the chain expires, in seconds since 1970 (0: nothing could be read).
    """

    key_id: bytes
    names: tuple[str, ...]
    not_after: int
    problems: tuple[str, ...]


VOID = -1


@dataclass(frozen=True, slots=True)
class Staple:
    """An OCSP answer for a chain's leaf, and until when it may be given to clients.

    answer: DER; empty where there is none. ends: seconds since 1970; without an answer 0, or VOID where one that was
    given before must not be used any more. why: what keeps it from
    coming or from being renewed; empty if nothing does, or if the certificate names no responder.
    """

    answer: bytes
    ends: int
    why: str
