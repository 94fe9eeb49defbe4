"""What a request of JD Cloud's SDKs says of itself, and whether a secret has signed it. Pure.

    JDCLOUD3-HMAC-SHA256 Credential=KEY/20261120/REGION/lb/jdcloud3_request, SignedHeaders=a;host, Signature=HEX

The canonical request is the method, path, query, the signed heads, their names and the body's SHA-256; the text to sign
has the algorithm, the time, the scope and the SHA-256 of that. Its key comes of the secret by four HMACs, one for each
part of the scope.

SDKs sign neither `x-jdcloud-nonce` nor the hash's head. So a nonce tells requests apart and keeps nobody from sending
one again with another nonce: what changes something is known again by its signature (decision 0160).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from control.jdcloud.errors import invalid, missing, unauthenticated

SERVICE = "lb"
ALGORITHM = "JDCLOUD3-HMAC-SHA256"
END = "jdcloud3_request"
FIELDS_LIMIT = 500
NAMES_LIMIT = 64
NONCE_LIMIT = 128
DATE, NONCE, PAYLOAD = "x-jdcloud-date", "x-jdcloud-nonce", "x-jdcloud-content-sha256"
_AUTHORIZATION = re.compile(
    r"JDCLOUD3-HMAC-SHA256 Credential=([0-9A-Za-z]{1,64})/([0-9]{8})/([0-9A-Za-z_-]{1,40})/([a-z]{1,20})"
    r"/jdcloud3_request,\s*SignedHeaders=([a-z0-9;_-]{1,2048}),\s*Signature=([0-9a-f]{64})"
)
_PATH = re.compile(r"/[0-9A-Za-z/_.:~-]*")
_ESCAPED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. `headers` are all of them, in their order."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """What a request claims. `scope` is the day, the region, the service and the last word."""

    key_id: str
    scope: tuple[str, str, str, str]
    signed_at: float
    nonce: str
    query: Mapping[str, str]
    to_sign: str
    signature: str

    def signed_with(self, secret: str) -> bool:
        """Whether the signature is that of this secret; takes as long for all that are not."""
        return hmac.compare_digest(self.signature, signature(self.to_sign, secret, self.scope))


def signature(to_sign: str, secret: str, scope: Sequence[str]) -> str:
    """The signature of a text."""
    key = f"JDCLOUD3{secret}".encode()
    for part in scope:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def read(request: Request) -> Signed:
    """What a request claims. Raises JdError for what is signed in no way that we know."""
    headers = _headers(request.headers)
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if match is None:
        raise unauthenticated("Authorization is JDCLOUD3-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=….")
    for name in ("host", DATE, NONCE):
        if not headers.get(name):
            raise missing(name)
    names = match[5].split(";")
    if len(names) > NAMES_LIMIT or sorted(set(names)) != names or not set(names) <= headers.keys():
        raise unauthenticated("SignedHeaders are heads of the request, each once and in order.")
    wanted = {"host"} | ({"content-type"} if request.body else set())
    if not wanted <= set(names):
        raise unauthenticated(f"These heads have to be signed too: {', '.join(sorted(wanted - set(names)))}.")
    hashed = hashlib.sha256(request.body).hexdigest()
    if PAYLOAD in headers and not hmac.compare_digest(headers[PAYLOAD].encode(), hashed.encode()):
        raise unauthenticated(f"{PAYLOAD} is not the SHA-256 of the body.")
    signed_at = _time(headers[DATE])
    if not headers[DATE].startswith(match[2]):
        raise unauthenticated("The day of the credential is not that of the request.")
    if len(headers[NONCE]) > NONCE_LIMIT:
        raise invalid(NONCE, f"1 to {NONCE_LIMIT} characters are")
    if not _PATH.fullmatch(request.path):
        raise invalid("path", "it has characters that no path of the API has")
    query = _query(request.query)
    scope = (match[2], match[3], match[4], END)
    heads = "".join(f"{name}:{headers[name]}\n" for name in names)
    path = quote(re.sub("/+", "/", request.path), safe="/~")
    canonical = f"{request.method}\n{path}\n{canonical_query(query)}\n{heads}\n{match[5]}\n{hashed}"
    digest = hashlib.sha256(canonical.encode(errors="surrogateescape")).hexdigest()
    to_sign = f"{ALGORITHM}\n{headers[DATE]}\n{'/'.join(scope)}\n{digest}"
    return Signed(match[1], scope, signed_at, headers[NONCE], query, to_sign, match[6])


def canonical_query(parameters: Mapping[str, str]) -> str:
    """Sorted, encoded by RFC 3986 (all but letters, digits and -_.~)."""
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def _headers(given: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """By name in small letters. What is there twice is in none of these."""
    found: dict[str, str] = {}
    for name, value in given:
        lower = name.lower()
        if lower in found:
            raise invalid(name[:60], "it is given twice")
        found[lower] = value.strip()
    return found


def _query(text: str) -> Mapping[str, str]:
    if _ESCAPED.search(text):
        raise invalid("query", "it has a % without two hexadecimal digits")
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=FIELDS_LIMIT
        )
    except ValueError:  # UnicodeDecodeError is one
        raise invalid("query", f"NAME=VALUE in UTF-8 is, at most {FIELDS_LIMIT} times") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise invalid("query", "a parameter is given twice")
    return found


def _time(given: str) -> float:
    try:
        return datetime.strptime(given, _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise invalid(DATE, "a time such as 20261120T184500Z is") from None
