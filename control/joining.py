"""`paifang join`: how a new machine becomes a node. Blocking, once.

Nothing is trusted at first. The CA's certificate is fetched by a connection that proves nothing, and only its
fingerprint, which the administrator has given, makes it the CA. The token goes over a second connection, to whoever
bears a certificate of that CA with the role `control`. The key is made here and stays here; it is kept until the
answer is there, so that a join which was cut short can be repeated with the same token.
"""

from __future__ import annotations

import hmac
import http.client
import json
import re
import ssl
import time
import urllib.parse
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509

from certs.authority import fingerprint
from control.node.files import write_atomic
from control.node.identity import CA, CERTIFICATE, NEXT_KEY, Identity, IdentityError, finish, peer_of
from control.node.key_request import fresh_key, request_for

TIMEOUT_S = 15.0
ANSWER_LIMIT_BYTES = 1 << 20
SKEW_S = 60.0  # a clock that is this far off will make trouble
CONTROL = "control"
FINGERPRINT = re.compile(r"(?:sha256:)?((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})", re.IGNORECASE)


class JoinError(Exception):
    """The machine has not joined; the text has the remedy."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What came of it. `skew_s`: by how much this machine's clock is ahead of the control plane's."""

    identity: Identity
    skew_s: float


def join(url: str, token: str, wanted: str, name: str, directory: Path, *, replace: bool = False) -> Joined:
    """Join by `url` (https://HOST:PORT) the cluster whose CA has the fingerprint `wanted`. Raises JoinError."""
    host, port = _address(url)
    pinned = _fingerprint(wanted)
    _check(directory, replace)
    ca, skew_s = _fetch_ca(host, port, pinned)
    try:
        key = _key(directory)
        body = {"token": token, "name": name, "request": request_for(key)}
        answer = _ask(host, port, _trusting(ca), "POST", "/v1/join", body, skew_s)[0]
        certificate = json.loads(answer)["certificate"].encode()
        write_atomic(directory / CA, ca)
        write_atomic(directory / CERTIFICATE, certificate)
        finish(directory, x509.load_pem_x509_certificate(certificate))
        return Joined(Identity.load(directory), skew_s)
    except OSError as error:
        remedy = "give a directory that this user may write to (--out DIR)"
        raise JoinError(f"{error.filename or directory}: {error.strerror}; {remedy}") from None
    except (ValueError, KeyError, TypeError, IdentityError) as error:
        raise JoinError(f"{url}: what it answers is no identity: {error}") from None


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"https://{url}")
        port = parts.port or 8471
    except ValueError:
        raise JoinError(f"{url}: give https://HOST:8471, the control plane's address for nodes") from None
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
        raise JoinError(f"{url}: give https://HOST:8471, the control plane's address for nodes")
    return parts.hostname, port


def _fingerprint(text: str) -> str:
    match = FINGERPRINT.fullmatch(text.strip())
    if match is None:
        raise JoinError(
            f"--ca-fingerprint {text}: give sha256: and 64 hexadecimal digits, as `paifang node invite` does"
        )
    return "sha256:" + match[1].replace(":", "").lower()


def _check(directory: Path, replace: bool) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = (directory / CERTIFICATE).exists()
    except OSError as error:
        raise JoinError(f"{directory}: {error.strerror}; give a directory that this user may write to") from None
    if there and not replace:
        raise JoinError(f"{directory}: holds an identity already; --replace puts the new one in its place")


def _key(directory: Path) -> bytes:
    """The one of a join that was cut short, or a new one. Raises OSError."""
    path = directory / NEXT_KEY
    if not path.exists():
        write_atomic(path, fresh_key())
    return path.read_bytes()


def _fetch_ca(host: str, port: int, pinned: str) -> tuple[bytes, float]:
    """The CA's certificate in PEM, and our clock less the control plane's. Raises JoinError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the fingerprint decides
    ca, date = _ask(host, port, context, "GET", "/v1/ca", None, 0.0)
    try:
        found = fingerprint(ca)
    except ValueError:
        raise JoinError(f"https://{host}:{port} gives no CA certificate; is this the control plane?") from None
    if not hmac.compare_digest(found, pinned):
        why = f"the CA of https://{host}:{port} has the fingerprint {found}, not {pinned}"
        raise JoinError(f"{why}: this is another cluster, or somebody in between; nothing was sent to it")
    try:
        return ca, time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return ca, 0.0


def _trusting(ca: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # nodes are known by role, not by host name (control.node.identity)
    context.load_verify_locations(cadata=ca.decode())
    return context


def _ask(
    host: str, port: int, context: ssl.SSLContext, method: str, path: str, body: object, skew_s: float
) -> tuple[bytes, str]:
    """Body and Date of the answer. Raises JoinError."""
    url = f"https://{host}:{port}"
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.connect()
        if context.verify_mode is ssl.CERT_REQUIRED:
            role, name = peer_of(connection.sock)  # type: ignore[arg-type] # it has getpeercert() too
            if role != CONTROL:
                raise JoinError(f"{url} is the {role} node {name}; give the control plane's address")
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        answer = response.read(ANSWER_LIMIT_BYTES)
        if response.status != 200:
            raise JoinError(_refusal(url, response.status, answer))
        return answer, response.headers.get("Date", "")
    except ssl.SSLCertVerificationError as error:
        raise JoinError(f"{url}: {error.verify_message or error}{_clock(skew_s)}") from None
    except IdentityError as error:
        raise JoinError(f"{url}: {error}") from None
    except TimeoutError:
        raise JoinError(
            f"{url}: no answer within {TIMEOUT_S:g} s; is it the control plane's address for nodes?"
        ) from None
    except (ssl.SSLError, ConnectionError, http.client.HTTPException) as error:
        if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            raise JoinError(f"{url}: speaks no TLS; give the control plane's address for nodes (--nodes)") from None
        if isinstance(error, ConnectionRefusedError):
            raise JoinError(f"{url}: nobody listens there; see `paifang control --nodes`") from None
        why = "it lets nobody in without a certificate; is there an open invitation (`paifang node invitations`)?"
        raise JoinError(f"{url}: {why}") from None
    except OSError as error:
        raise JoinError(f"{url}: {error.strerror or error}") from None
    finally:
        connection.close()


def _refusal(url: str, status: int, answer: bytes) -> str:
    try:
        return f"{url}: {json.loads(answer)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{url} answers {status}; is it the control plane's address for nodes?"


def _clock(skew_s: float) -> str:
    if abs(skew_s) < SKEW_S:
        return ""
    way = "ahead of" if skew_s > 0 else "behind"
    return f"; this machine's clock is {abs(skew_s):.0f} s {way} the control plane's: set it (NTP)"
