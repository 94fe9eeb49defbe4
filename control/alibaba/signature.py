"""How requests are signed: what a request claims, and what its signature has to be. Pure.

Version 3, of SDKs on tea/OpenAPI, signs method, path, query, headers and the body's hash, in a head:

    Authorization: ACS3-HMAC-SHA256 Credential=ID,SignedHeaders=host;x-acs-action;…,Signature=HEX
    "ACS3-HMAC-SHA256\\n" SHA256(METHOD \\n / \\n QUERY \\n name:value\\n… \\n NAMES \\n SHA256(body))

Version 1.0, of SDKs before, signs method and parameters, in a parameter:

    Signature=BASE64(HMAC-SHA1(SECRET "&", METHOD "&%2F&" encode(QUERY)))

QUERY is sorted by name; names and values are encoded by RFC 3986. In both, what is signed is made of the parameters as
they were decoded, and these are what the action gets: nothing can mean one thing to the signature and another to the
action. A name that stands twice is refused, and so is a request that is signed twice. A head that says something to the
API (`x-acs-…`) and is not signed is refused: somebody on the way could have added it.

Source: Alibaba Cloud, "Request syntax and signature method V3"; "Signature method" of Server Load Balancer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from control.alibaba.errors import SlbError, invalid, missing
from control.cloud.signing import NONCE_LIMIT, Request, are_heads, canonical_query, pairs, unix_time

ACS3 = "ACS3-HMAC-SHA256"
HAS_TO_BE_SIGNED = (
    "host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce", "x-acs-version",
)  # fmt: skip
FORM = "application/x-www-form-urlencoded"
_AUTHORIZATION = re.compile(
    rf"{ACS3} Credential=([!-+\--~]{{1,128}}),\s*SignedHeaders=([a-z0-9;_-]{{1,2048}}),\s*Signature=([0-9a-f]{{64}})"
)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
# What says who asks and how, and is no parameter of an action.
COMMON = frozenset(
    {"Action", "Version", "Format", "Timestamp", "AccessKeyId", "Signature", "SignatureMethod", "SignatureVersion",
     "SignatureNonce", "SignatureType"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signed:
    """What a request claims. `format` is JSON or XML; `parameters` are those of the action."""

    key_id: str
    action: str
    version: str
    format: str
    signed_at: float
    nonce: str
    parameters: Mapping[str, str]
    to_sign: str
    signature: str
    is_v3: bool

    def signed_with(self, secret: str) -> bool:
        """Whether the signature is that of this secret; takes as long for all that are not."""
        return hmac.compare_digest(self.signature.encode(), signature(self.to_sign, secret, self.is_v3).encode())


def signature(to_sign: str, secret: str, is_v3: bool) -> str:
    """The signature of a text."""
    if is_v3:
        return hmac.new(secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    made = hmac.new(f"{secret}&".encode(), to_sign.encode(), hashlib.sha1).digest()
    return base64.b64encode(made).decode()


def read(request: Request) -> Signed:
    """What a request claims. Raises SlbError for what is signed in no way that we know."""
    if request.path != "/":
        raise SlbError("InvalidAction.NotFound", 404, "The API is at the path /.")
    if request.method not in ("GET", "POST"):
        raise SlbError("UnsupportedHTTPMethod", 400, "The API takes GET and POST.")
    headers = _headers(request.headers)
    parameters = _parameters(request, headers)
    if "authorization" in headers and "Signature" in parameters:
        raise SlbError("InvalidSignature", 400, "The request is signed twice.")
    return _v3(request, headers, parameters) if "authorization" in headers else _v1(request, parameters)


def format_of(query: str, default: str) -> str:
    """How to answer a request that could not be read whole."""
    match = re.search(r"(?:^|&)Format=(json|xml)(?:&|$)", query, re.IGNORECASE)
    return match[1].upper() if match else default


def _headers(given: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """By name in small letters. What is there twice is in none of these."""
    found: dict[str, str] = {}
    for name, value in given:
        lower = name.lower()
        if lower in found and (lower in ("host", "authorization", "content-type") or lower.startswith("x-acs-")):
            raise invalid(name[:60], "it is given twice")
        found[lower] = value.strip()
    return found


def _parameters(request: Request, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Those of the query and the body."""
    texts = [request.query]
    if request.body:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            raise SlbError("UnsupportedMediaType", 415, f"A body is {FORM}.")
        try:
            texts.append(request.body.decode("ascii"))
        except UnicodeDecodeError:
            raise invalid("body", "it is not ASCII") from None
    found: dict[str, str] = {}
    for text in texts:
        try:
            given = pairs(text, strict=False)
        except ValueError as error:
            raise invalid("query", str(error)) from None
        for name, value in given:
            if name in found:
                raise invalid(name[:60], "it is given twice")
            found[name] = value
    return found


def _v3(request: Request, headers: Mapping[str, str], parameters: Mapping[str, str]) -> Signed:
    match = _AUTHORIZATION.fullmatch(headers["authorization"])
    if match is None:
        raise SlbError(
            "InvalidAuthorization", 400, f"Authorization is {ACS3} Credential=…,SignedHeaders=…,Signature=…."
        )
    for name in HAS_TO_BE_SIGNED:
        if not headers.get(name):
            raise missing(name)
    names = match[2].split(";")
    told = {name for name in headers if name.startswith("x-acs-")} | set(HAS_TO_BE_SIGNED)
    if request.body:
        told.add("content-type")
    if not are_heads(names, headers):
        raise SlbError("InvalidAuthorization", 400, "SignedHeaders are heads of the request, each once and in order.")
    if not told <= set(names):
        unsigned = ", ".join(sorted(told - set(names)))
        raise SlbError("InvalidAuthorization", 400, f"These heads have to be signed too: {unsigned[:200]}.")
    payload = headers["x-acs-content-sha256"]
    if not hmac.compare_digest(payload.encode(), hashlib.sha256(request.body).hexdigest().encode()):
        raise SlbError("InvalidContentSha256", 400, "x-acs-content-sha256 is not the SHA-256 of the body.")
    if wrong := sorted((COMMON - {"Format"}) & parameters.keys()):
        raise invalid(wrong[0], "it stands in a head of this request")
    query = parse_qsl(request.query, keep_blank_values=True)
    heads = "".join(f"{name}:{headers[name]}\n" for name in names)
    canonical = f"{request.method}\n/\n{canonical_query(dict(query))}\n{heads}\n{match[2]}\n{payload}"
    to_sign = f"{ACS3}\n{hashlib.sha256(canonical.encode(errors='surrogateescape')).hexdigest()}"
    return Signed(
        match[1], headers["x-acs-action"], headers["x-acs-version"], _format(parameters.get("Format", "JSON")),
        _time(headers["x-acs-date"]), _nonce(headers["x-acs-signature-nonce"]), _own(parameters), to_sign, match[3],
        True,
    )  # fmt: skip


def _v1(request: Request, parameters: Mapping[str, str]) -> Signed:
    for name in ("Action", "Version", "AccessKeyId", "Signature", "SignatureNonce", "Timestamp"):
        if not parameters.get(name):
            raise missing(name)
    if parameters.get("SignatureMethod", "HMAC-SHA1") != "HMAC-SHA1" or parameters.get("SignatureType"):
        raise invalid("SignatureMethod", "HMAC-SHA1 is, with an empty SignatureType")
    if parameters.get("SignatureVersion", "1.0") != "1.0":
        raise invalid("SignatureVersion", "1.0 is")
    told = {name: value for name, value in parameters.items() if name != "Signature"}
    to_sign = f"{request.method}&%2F&{quote(canonical_query(told), safe='~')}"
    return Signed(
        parameters["AccessKeyId"], parameters["Action"], parameters["Version"],
        _format(parameters.get("Format", "XML")), _time(parameters["Timestamp"]), _nonce(parameters["SignatureNonce"]),
        _own(parameters), to_sign, parameters["Signature"], False,
    )  # fmt: skip


def _own(parameters: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in parameters.items() if name not in COMMON}


def _format(given: str) -> str:
    if given.upper() not in ("JSON", "XML"):
        raise invalid("Format", "JSON and XML are")
    return given.upper()


def _nonce(given: str) -> str:
    if not 0 < len(given) <= NONCE_LIMIT:
        raise invalid("SignatureNonce", f"1 to {NONCE_LIMIT} characters are")
    return given


def _time(given: str) -> float:
    try:
        return unix_time(given, _TIME)
    except ValueError:
        text = "Specified time stamp or date value is not well formatted: 2026-11-20T18:45:00Z is."
        raise SlbError("InvalidTimeStamp.Format", 400, text) from None
