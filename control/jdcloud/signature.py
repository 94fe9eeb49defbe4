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
from urllib.parse import quote

from control.cloud.signing import NONCE_LIMIT, Request, are_heads, canonical_query, pairs, unix_time
from control.jdcloud.errors import invalid, missing, unauthenticated

ALGORITHM = "JDCLOUD3-HMAC-SHA256"
END = "jdcloud3_request"
DATE, NONCE, PAYLOAD = "x-jdcloud-date", "x-jdcloud-nonce", "x-jdcloud-content-sha256"
_AUTHORIZATION = re.compile(
    r"JDCLOUD3-HMAC-SHA256 Credential=([0-9A-Za-z]{1,64})/([0-9]{8})/([0-9A-Za-z_-]{1,40})/([a-z]{1,20})"
    r"/jdcloud3_request,\s*SignedHeaders=([a-z0-9;_-]{1,2048}),\s*Signature=([0-9a-f]{64})"
)
_PATH = re.compile(r"/[0-9A-Za-z/_.:~-]*")
_TIME = "%Y%m%dT%H%M%SZ"


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
    if not are_heads(names, headers):
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
    try:
        given = pairs(text, strict=True)
    except ValueError as error:
        raise invalid("query", str(error)) from None
    found = dict(given)
    if len(found) < len(given):
        raise invalid("query", "a parameter is given twice")
    return found


def _time(given: str) -> float:
    try:
        return unix_time(given, _TIME)
    except ValueError:
        raise invalid(DATE, "a time such as 20261120T184500Z is") from None
