"""Rules of http and https listeners: which requests they are for, and what becomes of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from core.answering import Cors
from core.answers import CONTENT_TYPE, PAGE, Compression, ErrorPage
from core.choices import Acl, HeaderAction, Scheduler, SecurityHeaders
from core.fields import (
    CONDITION_NAME,
    CONDITION_VALUE,
    DOMAIN,
    HASH_KEY,
    HOST_TEMPLATE,
    METHOD,
    PATH_PATTERN,
    PATH_TEMPLATE,
    QUERY_TEMPLATE,
    URL_PATH,
    URL_PREFIX,
    Description,
    IPNetwork,
    Kind,
    Name,
    Pattern,
    Range,
    Ref,
    Tags,
)
from core.services import HealthCheck, StickySession
from core.shaping import Mirror, RateLimit


@dataclass(frozen=True, slots=True)
class Condition:
    """That a request has something of this name, with one of these values; without values: with any.

    Values are compared as they are, with the case of their letters; `*` stands for any characters, `?` for one.
    """

    name: Annotated[str, CONDITION_NAME]
    values: tuple[Annotated[str, CONDITION_VALUE], ...] = ()


@dataclass(frozen=True, slots=True)
class Redirect:
    """Sends the client elsewhere. What is not given stays as it was in the request.

    `${host}`, `${path}` and `${query}` are those of the request; `${rest}` is what follows the rule's `url` in the
    path, `${1}` to `${9}` are what the stars of its `pattern` stand for.
    """

    status: Annotated[int, Range(301, 308)] = 301
    protocol: Annotated[str, Pattern(r"|https?", "http or https")] = ""
    host: Annotated[str, HOST_TEMPLATE] = "${host}"
    port: Annotated[int, Range(0, 65535)] = 0
    path: Annotated[str, PATH_TEMPLATE] = "${path}"
    query: Annotated[str, QUERY_TEMPLATE] = "${query}"


@dataclass(frozen=True, slots=True)
class RedirectMap:
    """Old places and where they are now, one on each line of `entries`: FROM TO, or FROM TO STATUS.

    FROM is a whole path, or a host and a path, with a query where that counts; TO is a path of the same host, or a URL.
    `entries_file` is read where the configuration is read: the same, CSV (`….csv`), or a map of nginx or Apache.
    """

    name: Name
    entries_file: str = ""
    entries: Annotated[str, Pattern(r"[\s\S]{0,12582912}", "text of at most 12 MiB")] = ""
    status: Annotated[int, Range(301, 308)] = 301
    keep_query: bool = True
    description: Description = ""
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class FixedReply:
    """An answer that the L7 tier gives by itself."""

    status: Annotated[int, Range(200, 599)] = 200
    content_type: Annotated[str, CONTENT_TYPE] = "text/plain; charset=utf-8"
    body: Annotated[str, Pattern(r"[\s\S]{0,1024}", "text of at most 1024 characters")] = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A backend service's part of a split, relative to the others'.

    A request that has one of `headers` goes there whatever the weights, and one that has none of any part's headers but
    one of `cookies`. Where several parts have what a request has, the first of them counts.
    """

    backend_service: Annotated[str, Ref(Kind.BACKEND_SERVICES)]
    weight: Annotated[int, Range(0, 100)] = 100
    headers: tuple[Condition, ...] = ()
    cookies: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Another host, path or query for the server than the client asked for; the variables are those of a redirect."""

    host: Annotated[str, HOST_TEMPLATE] = "${host}"
    path: Annotated[str, PATH_TEMPLATE] = "${path}"
    query: Annotated[str, QUERY_TEMPLATE] = "${query}"


@dataclass(frozen=True, slots=True)
class HeaderChange:
    """A field that is set, added or removed on its way through the L7 tier."""

    name: Annotated[str, Pattern(r"[!-~]{1,128}", "a field name of at most 128 characters")]
    action: HeaderAction = HeaderAction.SET
    value: Annotated[str, Pattern(r"|[!-~]([ -~]{0,1022}[!-~])?", "printable text of at most 1024 characters")] = ""


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Requests get 503 `maintenance` and a page, but for those of testers: of `clients`, or with one of the fields or
    cookies. A rule that is not `enabled` stays open while its listener is closed.

    Where there is no page here, the error page for 503 is used, if there is one.
    """

    enabled: bool = True
    retry_after_s: Annotated[int, Range(0, 604_800, "s")] = 300
    clients: tuple[IPNetwork, ...] = ()
    headers: tuple[Condition, ...] = ()
    cookies: tuple[Condition, ...] = ()
    content_type: Annotated[str, CONTENT_TYPE] = "text/html; charset=utf-8"
    body: Annotated[str, PAGE] = ""
    body_file: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to requests for `domain` (exact or wildcard; empty: any) at `path`, or below `url`, that fulfil all
    conditions: they go to a backend service or to several (`split`), elsewhere (`redirect`), or get a fixed reply. A
    rule with a `redirect_map` is for those requests alone that the map has.

    Of the rules that match, the one with the smallest `priority` wins, those without any (0) after the others. Among
    equals the most specific one does: exact domain, then the longest wildcard, then any; within it `path`, then the
    longest `url`; then the one with the most conditions; then the first.

    `cors` and `security_headers` take the place of the listener's.

    `scheduler`, `hash_key`, `health_check` and `sticky_session` hold for what goes by this rule, in place of those of
    the backend service.
    """

    name: Name
    listener: Annotated[str, Ref(Kind.LISTENERS)]
    backend_service: Annotated[str, Ref(Kind.BACKEND_SERVICES)] = ""
    domain: Annotated[str, Pattern(rf"|{DOMAIN.regex}", DOMAIN.what)] = ""
    url: Annotated[str, URL_PREFIX] = "/"
    path: Annotated[str, Pattern(rf"|{URL_PATH.regex}", URL_PATH.what)] = ""
    pattern: Annotated[str, PATH_PATTERN] = ""
    methods: tuple[Annotated[str, METHOD], ...] = ()
    headers: tuple[Condition, ...] = ()
    queries: tuple[Condition, ...] = ()
    cookies: tuple[Condition, ...] = ()
    priority: Annotated[int, Range(0, 10_000)] = 0
    split: tuple[Share, ...] = ()
    split_by: Annotated[str, Pattern(rf"|{HASH_KEY.regex}", HASH_KEY.what)] = ""
    redirect: Redirect | None = None
    redirect_map: Annotated[str, Ref(Kind.REDIRECT_MAPS)] = ""
    fixed_reply: FixedReply | None = None
    rewrite: Rewrite | None = None
    request_headers: tuple[HeaderChange, ...] = ()
    response_headers: tuple[HeaderChange, ...] = ()
    authentication: Annotated[str, Ref(Kind.AUTHENTICATIONS)] = ""
    cors: Cors | None = None
    security_headers: SecurityHeaders | None = None
    scheduler: Scheduler | None = None
    hash_key: Annotated[str, Pattern(rf"|{HASH_KEY.regex}", HASH_KEY.what)] = ""
    health_check: HealthCheck | None = None
    sticky_session: StickySession | None = None
    rate_limits: tuple[RateLimit, ...] = ()
    shed_first: bool = False
    mirror: Mirror | None = None
    acl: Acl = Acl.OFF
    access_list: Annotated[str, Ref(Kind.ACCESS_LISTS)] = ""
    max_body_bytes: Annotated[int, Range(0, 1 << 40, "bytes")] = 0
    max_requests: Annotated[int, Range(0, 10_000_000)] = 0
    max_requests_per_client: Annotated[int, Range(0, 1_000_000)] = 0
    compression: Compression | None = None
    error_pages: tuple[ErrorPage, ...] = ()
    maintenance: Maintenance | None = None
    description: Description = ""
    tags: Tags = ()
