"""How clients of http and https listeners prove who they are, before their requests go to a backend service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from core.choices import JwtAlgorithm
from core.fields import (
    FILE_PATH,
    HOST_NAME,
    URL_PATH,
    Description,
    Kind,
    Name,
    Pairs,
    Pattern,
    Range,
    Ref,
    Tags,
)

_CHARACTER = r"[!#$%&'*+.^`|~0-9A-Za-z-]"  # RFC 9110 §5.6.2, less the underscore, which many servers read as -
FIELD_NAME = Pattern(rf"{_CHARACTER}{{1,128}}", "a field name of at most 128 characters, without an underscore")
OPTIONAL_FIELD_NAME = Pattern(rf"|{FIELD_NAME.regex}", FIELD_NAME.what)
CLAIM = Pattern(r"[!-~]{1,128}", "the name of a claim: at most 128 printable characters without blanks")
REALM = Pattern(r"[ !#-\[\]-~]{1,128}", "printable text of at most 128 characters, without quotes and backslashes")
TOKEN_PLACE = Pattern(
    rf"authorization|(cookie|header):{_CHARACTER}{{1,128}}", "authorization, cookie:NAME or header:NAME"
)
CERTIFICATE_NAME = Pattern(r"[^\x00-\x1f\x7f]{1,256}", "text of at most 256 characters")
JWKS_URL = Pattern(
    rf"|https?://{HOST_NAME}(:[1-9][0-9]{{0,4}})?/[!-~]{{0,1023}}", "a URL such as https://login.example/keys"
)
LINE = Pattern(r"|[!-~]([ -~]{0,254}[!-~])?", "printable text of at most 256 characters")


@dataclass(frozen=True, slots=True)
class Basic:
    """Name and password, by Basic authentication (RFC 7617).

    `users_file` stands on the L7 nodes, in the format of htpasswd, with hashes by bcrypt alone: `htpasswd -B`. It is
    read again when it changes; one that cannot be read leaves the users of before, or none where there were none.
    """

    users_file: Annotated[str, Pattern(FILE_PATH.regex.removeprefix("|"), FILE_PATH.what)]
    realm: Annotated[str, REALM] = "restricted"
    max_failures_per_min: Annotated[int, Range(0, 10_000)] = 20


@dataclass(frozen=True, slots=True)
class Jwt:
    """A signed token (JWT, RFC 7519), usually from an OpenID provider.

    Keys come from one place: `jwks`, a key set as JSON text (public keys alone); `jwks_url`, whose path is asked of the
    backend service of the authentication, with its host, again and again; or `secret_file` on the L7 nodes, for HS256,
    HS384 and HS512.
    """

    jwks: Annotated[str, Pattern(r"[\s\S]{0,65536}", "JSON text of at most 64 KiB")] = ""
    jwks_url: Annotated[str, JWKS_URL] = ""
    jwks_interval_s: Annotated[int, Range(30, 86_400, "s")] = 600
    secret_file: Annotated[str, FILE_PATH] = ""
    algorithms: tuple[JwtAlgorithm, ...] = (JwtAlgorithm.RS256, JwtAlgorithm.ES256)
    issuer: Annotated[str, LINE] = ""
    audiences: tuple[Annotated[str, Pattern(r"[!-~]([ -~]{0,254}[!-~])?", LINE.what)], ...] = ()
    leeway_s: Annotated[int, Range(0, 300, "s")] = 30
    token: Annotated[str, TOKEN_PLACE] = "authorization"  # noqa: S105 - where it stands
    required_claims: Annotated[tuple[tuple[str, str], ...], Pairs(CLAIM, LINE, 16)] = ()
    claim_fields: Annotated[tuple[tuple[str, str], ...], Pairs(CLAIM, FIELD_NAME, 16)] = ()
    realm: Annotated[str, REALM] = "restricted"


@dataclass(frozen=True, slots=True)
class ForwardAuth:
    """Another service decides: it is sent each request's head, without the body, as a GET of `path`.

    An answer 2xx lets the request pass; any other one goes to the client, such as the redirect to a page to log in.
    Method, host, URI and the client's address are told in X-Forwarded-Method, -Host, -Uri, -Proto and -For.
    """

    path: Annotated[str, URL_PATH] = "/"
    host: Annotated[str, Pattern(rf"|{HOST_NAME}", "a host name")] = ""
    request_fields: tuple[Annotated[str, FIELD_NAME], ...] = ("Authorization", "Cookie")
    copied_fields: tuple[Annotated[str, FIELD_NAME], ...] = ()
    timeout_s: Annotated[float, Range(0.1, 60, "s")] = 5.0
    fail_open: bool = False


@dataclass(frozen=True, slots=True)
class Certified:
    """The client's certificate, which its https listener has verified: it has to have one of each list that is given.

    Names are compared as they stand, without wildcards.
    """

    common_names: tuple[Annotated[str, CERTIFICATE_NAME], ...] = ()
    names: tuple[Annotated[str, CERTIFICATE_NAME], ...] = ()
    issuers: tuple[Annotated[str, CERTIFICATE_NAME], ...] = ()
    sha256: tuple[Annotated[str, Pattern(r"[0-9A-Fa-f]{64}", "64 hexadecimal digits")], ...] = ()


@dataclass(frozen=True, slots=True)
class Authentication:
    """How clients prove who they are: by `basic`, `jwt`, `forward` or `certificate`, one of them. Rules name it.

    `user_field` tells servers the user: the name, the claim `sub`, or what `forward` says under the same name. Whatever
    clients send under the names of fields that are made here is dropped.
    """

    name: Name
    basic: Basic | None = None
    jwt: Jwt | None = None
    forward: ForwardAuth | None = None
    certificate: Certified | None = None
    backend_service: Annotated[str, Ref(Kind.BACKEND_SERVICES)] = ""
    user_field: Annotated[str, OPTIONAL_FIELD_NAME] = ""
    pass_credentials: bool = False
    description: Description = ""
    tags: Tags = ()
