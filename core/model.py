"""The objects that a configuration is made of.

An *instance* has *listeners*; a listener of HTTP or HTTPS has *rules*; listeners and rules forward to *backend
services*, which several of them may share; a backend service draws its servers from a *server group* or an
*availability group*, which several backend services may share. An *access list* says which clients its listeners
admit or refuse. *Certificates* hold public chains only: private keys live in the key server. *Nodes* are the machines
of the cluster itself.

Objects are frozen and refer to each other by name. A field's type says what it may hold (`Range`, `Pattern`, `Ref`),
so that the configuration reader, the API and the console validate and explain from one definition. Names and ranges
follow Alibaba Cloud's SLB API 2014-05-15 and JD Cloud's LB API; times carry their unit in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Range:
    """An inclusive numeric range, with the unit that messages show."""

    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that the whole string must match, and what to call it in a message."""

    regex: str
    what: str


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address (`network=False`) or prefix (`network=True`) of one of `versions`; with `unix`, "unix:/PATH" too.

    What is read is the canonical text: of IPv6 that of RFC 5952, so that equal addresses are equal strings.
    """

    network: bool = False
    versions: tuple[int, ...] = (4, 6)
    unix: bool = False


@dataclass(frozen=True, slots=True)
class Ref:
    """The name of an object of `kind`, which has to exist."""

    kind: Kind


class Kind(StrEnum):
    """The kinds of object, in the order in which they may be created: what is referred to comes first."""

    NODES = "nodes"
    CERTIFICATES = "certificates"
    CA_CERTIFICATES = "ca_certificates"
    SERVER_GROUPS = "server_groups"
    AVAILABILITY_GROUPS = "availability_groups"
    BACKEND_SERVICES = "backend_services"
    ACCESS_LISTS = "access_lists"
    INSTANCES = "instances"
    LISTENERS = "listeners"
    RULES = "rules"


class Role(StrEnum):
    L4 = "l4"
    L7 = "l7"
    KEYSERVER = "keyserver"


class InstanceType(StrEnum):
    """Layer 7; layer 4 with sessions; layer 4 without any, where the hash of each packet alone decides."""

    ALB = "alb"
    NLB = "nlb"
    DNLB = "dnlb"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    HTTP = "http"
    HTTPS = "https"


class BackendProtocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    HTTP = "http"


class Mode(StrEnum):
    """How the L4 tier hands packets to a server (IPVS: masquerading, gatewaying, ipip; fullnat is LVS's)."""

    NAT = "nat"
    FULLNAT = "fullnat"
    DR = "dr"
    TUNNEL = "tunnel"


class Scheduler(StrEnum):
    RR = "rr"
    WRR = "wrr"
    LC = "lc"
    WLC = "wlc"
    SH = "sh"
    TCH = "tch"
    MAGLEV = "maglev"
    P2C = "p2c"
    CH = "ch"


class Acl(StrEnum):
    """Which clients a listener admits: all, those of its access list only, or all others."""

    OFF = "off"
    WHITE = "white"
    BLACK = "black"


class TlsPolicy(StrEnum):
    """TLS versions and cipher suites, by Alibaba's names (`strict`: with forward secrecy and AEAD); tls_1_3 is ours."""

    TLS_1_2 = "tls_1_2"
    TLS_1_2_STRICT = "tls_1_2_strict"
    TLS_1_2_STRICT_WITH_1_3 = "tls_1_2_strict_with_1_3"
    TLS_1_3 = "tls_1_3"


class ClientCertificate(StrEnum):
    """Whether a client may do without a certificate, where the listener has authorities to verify one by."""

    REQUIRED = "required"
    OPTIONAL = "optional"


class StickyType(StrEnum):
    """Whose the cookie is that keeps a client at its server: inserted by the L7 tier, or set by the servers."""

    INSERT = "insert"
    SERVER = "server"


class HeaderAction(StrEnum):
    """`set` takes the place of all fields of that name, `add` stands beside them."""

    SET = "set"
    ADD = "add"
    REMOVE = "remove"


class CheckType(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    HTTP = "http"


class DnsType(StrEnum):
    A = "a"
    AAAA = "aaaa"
    SRV = "srv"


class CheckMethod(StrEnum):
    HEAD = "head"
    GET = "get"


# What the L4 tier's tables are made for.
ACCESS_LIST_ENTRIES = 100_000

# Which schedulers each tier runs: the L4 tier schedules tcp and udp backend services, the L7 tier http ones.
# Consistent hashes choose without state: a flow finds its server again on every node.
HASH_SCHEDULERS = frozenset({Scheduler.SH, Scheduler.TCH, Scheduler.MAGLEV})
LEAST_SCHEDULERS = frozenset({Scheduler.LC, Scheduler.WLC})
L4_SCHEDULERS = HASH_SCHEDULERS | LEAST_SCHEDULERS | {Scheduler.RR, Scheduler.WRR}
L7_SCHEDULERS = LEAST_SCHEDULERS | {Scheduler.RR, Scheduler.WRR, Scheduler.SH, Scheduler.P2C, Scheduler.CH}

# How many addresses of each IP version a node's pool may have, each good for 64,512 connections to one server's port.
MOST_POOL_ADDRESSES = 16

NAME = Pattern(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", "a name: letters, digits, '.', '_', '-', at most 80")
HOST_NAME = (
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)
DOMAIN = Pattern(rf"(\*\.)?{HOST_NAME}", "a host name, or '*.' and a host name")
URL_PREFIX = Pattern(r"/[!-~]{0,1023}", "a path that starts with '/'")
URL_PATH = Pattern(r"/[!-~]{0,1023}", "a path that starts with '/'")
PATH_PATTERN = Pattern(
    r"|/[!-~]{0,1023}", "a path in which * stands for characters of one segment, and ** at its end for all that follows"
)
METHOD = Pattern(r"[A-Z][A-Z-]{0,31}", "a method in capitals, such as GET")
CONDITION_NAME = Pattern(r"[^\x00-\x20\x7f]{1,128}", "a name without blanks, of at most 128 characters")
CONDITION_VALUE = Pattern(
    r"[^\x00-\x1f\x7f]{0,128}", "text of at most 128 characters, in which * stands for any characters and ? for one"
)
# What stands in a place of `Redirect` as it is; `$` begins a variable.
_HOST_CHARACTER, _PATH_CHARACTER = r"[A-Za-z0-9._-]", r"[^\x00-\x20\x7f-\U0010ffff$?#\\]"
HOST_TEMPLATE = Pattern(rf"({_HOST_CHARACTER}|\$\{{host\}}){{1,253}}", "a host name, in which ${host} may stand")
PATH_TEMPLATE = Pattern(
    rf"(/|\$\{{(path|rest)\}})({_PATH_CHARACTER}|\$\{{(host|path|rest|[1-9])\}}){{0,1023}}",
    "a path that starts with '/', ${path} or ${rest}, and in which ${host} and ${1} may stand too",
)
QUERY_TEMPLATE = Pattern(
    rf"({_PATH_CHARACTER}|\?|\$\{{(host|path|rest|query|[1-9])\}}){{0,1024}}",
    "a query, in which ${host}, ${path}, ${rest}, ${query} and ${1} may stand",
)
# The name is a token, RFC 9110 §5.6.2.
RESOLVER = Pattern(
    r"([0-9.]{7,15}|\[[0-9A-Fa-f:.]{2,45}\]):[1-9][0-9]{0,4}", "an address and port such as '127.0.0.1:53'"
)
HASH_KEY = Pattern(
    r"source|path|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", "source, path, header:NAME or cookie:NAME"
)
CODES = Pattern(
    r"([1-5]\d\d(-[1-5]\d\d)?|[1-5]xx)(,([1-5]\d\d(-[1-5]\d\d)?|[1-5]xx))*", "status codes such as 200,202-207,4xx"
)

Name = Annotated[str, NAME]
Port = Annotated[int, Range(1, 65535)]
IP = Annotated[str, Address()]
IPv6 = Annotated[str, Address(versions=(6,))]
IPNetwork = Annotated[str, Address(network=True)]


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster. `address` is where its peers reach it; `health_port` answers whether it is ready.

    `address_v6` is for l7 nodes whose `address` is of IPv4: where the L4 tier hands them the traffic of IPv6 VIPs.
    `zone` is for l7: servers of this zone in availability groups are preferred.
    `source_pool` is for l4: the addresses that listeners of mode fullnat put in the clients' place, on this node alone.
    """

    name: Name
    role: Role
    address: IP
    health_port: Port = 8472
    source_pool: tuple[IP, ...] = ()
    address_v6: IPv6 = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class AccessList:
    """Client networks, which listeners admit (`acl = "white"`) or refuse (`acl = "black"`)."""

    name: Name
    entries: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A public chain, leaf first: a file (read where the configuration is read) or the PEM text itself.

    `key_file` is for `paifang up` alone: its path is given to the key server and to nobody else. With neither chain
    nor key, the cluster's own CA issues a development certificate for `domains`.
    """

    name: Name
    chain_file: str = ""
    chain: Annotated[str, Pattern(r"(?s).{0,262144}", "PEM text of at most 256 KiB")] = ""
    key_file: str = ""
    domains: tuple[Annotated[str, DOMAIN], ...] = ()


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """Authorities whose clients an https listener admits, and what they have revoked: files, or the PEM texts."""

    name: Name
    bundle_file: str = ""
    bundle: Annotated[str, Pattern(r"(?s).{0,1048576}", "PEM text of at most 1 MiB")] = ""
    crl_file: str = ""
    crl: Annotated[str, Pattern(r"(?s).{0,1048576}", "PEM text of at most 1 MiB")] = ""


@dataclass(frozen=True, slots=True)
class Server:
    """A real server. Weight 0 takes no new sessions and keeps those it has.

    `address` may be "unix:/PATH", a socket on the L7 nodes themselves, which has no port.
    """

    address: Annotated[str, Address(unix=True)]
    port: Annotated[int, Range(0, 65535)] = 0
    weight: Annotated[int, Range(0, 100)] = 100
    zone: str = ""
    rack: str = ""


@dataclass(frozen=True, slots=True)
class ServerGroup:
    name: Name
    servers: tuple[Server, ...] = ()


@dataclass(frozen=True, slots=True)
class DnsName:
    """Members by a name in DNS: its addresses (a, aaaa), all of `port`, or targets and ports (srv).

    Looked up by each L7 node, again when the records' time to live is over. What is no answer leaves the members as
    they are; a name that has never been resolved has none, and a problem of the node says so.
    """

    name: Annotated[str, Pattern(HOST_NAME, "a host name")]
    type: DnsType = DnsType.A
    port: Annotated[int, Range(0, 65535)] = 0
    weight: Annotated[int, Range(0, 100)] = 100
    zone: str = ""


@dataclass(frozen=True, slots=True)
class AvailabilityGroup:
    """Servers spread over fault domains: every member names its zone, and there are at least two zones.

    Or members that DNS knows, for services of protocol http.
    """

    name: Name
    members: tuple[Server, ...] = ()
    dns: tuple[DnsName, ...] = ()
    resolvers: tuple[Annotated[str, RESOLVER], ...] = ()


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """An active check. `rise` successes make a server healthy, `fall` failures unhealthy.

    tcp: the connection is accepted. http: the answer's status is one of `codes`. udp: `request` is sent and a reply
    that contains `expect` comes back (both empty: no ICMP port-unreachable within the timeout).
    """

    type: CheckType = CheckType.TCP
    interval_s: Annotated[float, Range(1, 50, "s")] = 2.0
    timeout_s: Annotated[float, Range(1, 300, "s")] = 5.0
    rise: Annotated[int, Range(2, 10)] = 3
    fall: Annotated[int, Range(2, 10)] = 3
    port: Annotated[int, Range(0, 65535)] = 0
    method: CheckMethod = CheckMethod.HEAD
    uri: Annotated[str, URL_PATH] = "/"
    domain: Annotated[str, Pattern(rf"|{HOST_NAME}", "a host name")] = ""
    codes: Annotated[str, CODES] = "2xx,3xx"
    request: Annotated[str, Pattern(r"[\x20-\x7e]{0,500}", "printable text of at most 500 characters")] = ""
    expect: Annotated[str, Pattern(r"[\x20-\x7e]{0,500}", "printable text of at most 500 characters")] = ""


@dataclass(frozen=True, slots=True)
class Ejection:
    """A passive check: a server that fails requests in a row is left out for a while, by each worker for itself.

    Out for `first_s`, twice as long each time that it fails again, `longest_s` at most. It comes back on probation:
    the first request that fails ejects it again, the first that succeeds ends it.
    """

    failures: Annotated[int, Range(0, 1000)] = 5
    errors: Annotated[int, Range(0, 1000)] = 0
    first_s: Annotated[float, Range(1, 3600, "s")] = 10.0
    longest_s: Annotated[float, Range(1, 3600, "s")] = 300.0
    max_percent: Annotated[int, Range(1, 100, "%")] = 50


@dataclass(frozen=True, slots=True)
class StickySession:
    """Keeps a client at the server that it had first, by a cookie: one of ours, or one that the servers set anyway.

    Clients can neither read from it which server that is nor choose one. A client goes to another server when its own
    is gone, takes no requests or has no room; a server of weight 0 keeps its clients.
    """

    type: StickyType = StickyType.INSERT
    cookie: Annotated[
        str, Pattern(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,200}", "the name of a cookie, of at most 200 characters")
    ] = "SERVERID"
    cookie_timeout_s: Annotated[int, Range(1, 86_400, "s")] = 3600


@dataclass(frozen=True, slots=True)
class BackendService:
    """How traffic reaches a set of servers. Exactly one of `server_group` and `availability_group` is given."""

    name: Name
    protocol: BackendProtocol
    server_group: Annotated[str, Ref(Kind.SERVER_GROUPS)] = ""
    availability_group: Annotated[str, Ref(Kind.AVAILABILITY_GROUPS)] = ""
    scheduler: Scheduler = Scheduler.WRR
    hash_key: Annotated[str, HASH_KEY] = "source"
    health_check: HealthCheck | None = HealthCheck()
    connect_timeout_s: Annotated[float, Range(0.1, 60, "s")] = 5.0
    first_byte_timeout_s: Annotated[float, Range(0, 3600, "s")] = 0.0
    idle_timeout_s: Annotated[float, Range(0, 3600, "s")] = 0.0
    total_timeout_s: Annotated[float, Range(0, 86_400, "s")] = 0.0
    server_max_connections: Annotated[int, Range(0, 100_000)] = 0
    server_max_queue: Annotated[int, Range(0, 100_000)] = 100
    queue_timeout_s: Annotated[float, Range(0.1, 60, "s")] = 5.0
    retry_percent: Annotated[int, Range(0, 100, "%")] = 20
    retry_min_per_s: Annotated[int, Range(0, 1000)] = 10
    ejection: Ejection | None = Ejection()
    slow_start_s: Annotated[int, Range(0, 900, "s")] = 0
    fallback: Annotated[str, Ref(Kind.BACKEND_SERVICES)] = ""
    sticky_session: StickySession | None = None
    tls: bool = False
    tls_verify: bool = True
    tls_server_name: Annotated[str, Pattern(rf"|{HOST_NAME}", "a host name")] = ""
    tls_ca_certificate: Annotated[str, Ref(Kind.CA_CERTIFICATES)] = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """A load balancer as its user sees it. With no `vips`, its listeners answer on every local address (L7 only).

    Each VIP of a tcp or udp listener forwards to the servers of its own IP version.
    """

    name: Name
    type: InstanceType = InstanceType.ALB
    vips: tuple[IP, ...] = ()


@dataclass(frozen=True, slots=True)
class Listener:
    """A port of an instance. tcp and udp go from the L4 tier to the servers; http and https through the L7 tier.

    `mode` is for tcp and udp; `certificates` for https, the first being the default for names that none covers.
    `acme_backend_service`, of protocol tcp, is the ACME issuer, which answers the CA's handshakes (tls-alpn-01).
    """

    name: Name
    instance: Annotated[str, Ref(Kind.INSTANCES)]
    protocol: Protocol
    port: Port
    backend_service: Annotated[str, Ref(Kind.BACKEND_SERVICES)] = ""
    mode: Mode = Mode.NAT
    certificates: tuple[Annotated[str, Ref(Kind.CERTIFICATES)], ...] = ()
    established_timeout_s: Annotated[int, Range(10, 900, "s")] = 900
    udp_idle_timeout_s: Annotated[int, Range(10, 900, "s")] = 300
    persistence_timeout_s: Annotated[int, Range(0, 3600, "s")] = 0
    persistence_prefix: Annotated[int, Range(8, 32)] = 32
    persistence_prefix_v6: Annotated[int, Range(8, 128)] = 128
    idle_timeout_s: Annotated[int, Range(1, 60, "s")] = 15
    request_timeout_s: Annotated[int, Range(1, 180, "s")] = 60
    trusted_proxies: tuple[IPNetwork, ...] = ()
    bandwidth_in_mbit_s: Annotated[int, Range(0, 5120, "Mbit/s")] = 0
    bandwidth_out_mbit_s: Annotated[int, Range(0, 5120, "Mbit/s")] = 0
    max_connections: Annotated[int, Range(0, 10_000_000)] = 0
    max_new_connections_per_s: Annotated[int, Range(0, 1_000_000)] = 0
    acl: Acl = Acl.OFF
    access_list: Annotated[str, Ref(Kind.ACCESS_LISTS)] = ""
    tls_policy: TlsPolicy = TlsPolicy.TLS_1_2_STRICT_WITH_1_3
    hsts_max_age_s: Annotated[int, Range(0, 63_072_000, "s")] = 0
    hsts_include_subdomains: bool = False
    hsts_preload: bool = False
    https_redirect_port: Annotated[int, Range(0, 65535)] = 0
    ca_certificate: Annotated[str, Ref(Kind.CA_CERTIFICATES)] = ""
    client_certificate: ClientCertificate = ClientCertificate.REQUIRED
    handshake_timeout_s: Annotated[int, Range(1, 60, "s")] = 10
    max_handshakes_per_client: Annotated[int, Range(0, 10_000)] = 1024
    acme_backend_service: Annotated[str, Ref(Kind.BACKEND_SERVICES)] = ""
    head_timeout_s: Annotated[int, Range(1, 60, "s")] = 15
    body_timeout_s: Annotated[int, Range(1, 300, "s")] = 15
    min_body_rate_bytes_s: Annotated[int, Range(0, 1_000_000, "bytes/s")] = 500
    send_timeout_s: Annotated[int, Range(1, 300, "s")] = 60
    max_connections_per_client: Annotated[int, Range(0, 1_000_000)] = 0


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
class FixedReply:
    """An answer that the L7 tier gives by itself."""

    status: Annotated[int, Range(200, 599)] = 200
    content_type: Annotated[str, Pattern(r"[!-~]([ -~]{0,126}[!-~])?", "a media type such as text/html")] = (
        "text/plain; charset=utf-8"
    )
    body: Annotated[str, Pattern(r"(?s).{0,1024}", "text of at most 1024 characters")] = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A backend service's part of a split, relative to the others'."""

    backend_service: Annotated[str, Ref(Kind.BACKEND_SERVICES)]
    weight: Annotated[int, Range(0, 100)] = 100


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
class Rule:
    """What happens to requests for `domain` (exact or wildcard; empty: any) at `path`, or below `url`, that fulfil all
    conditions: they go to a backend service or to several (`split`), elsewhere (`redirect`), or get a fixed reply.

    Of the rules that match, the one with the smallest `priority` wins, those without any (0) after the others. Among
    equals the most specific one does: exact domain, then the longest wildcard, then any; within it `path`, then the
    longest `url`; then the one with the most conditions; then the first.

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
    redirect: Redirect | None = None
    fixed_reply: FixedReply | None = None
    rewrite: Rewrite | None = None
    request_headers: tuple[HeaderChange, ...] = ()
    response_headers: tuple[HeaderChange, ...] = ()
    scheduler: Scheduler | None = None
    hash_key: Annotated[str, Pattern(rf"|{HASH_KEY.regex}", HASH_KEY.what)] = ""
    health_check: HealthCheck | None = None
    sticky_session: StickySession | None = None


Object = (
    Node
    | AccessList
    | Certificate
    | CaCertificate
    | ServerGroup
    | AvailabilityGroup
    | BackendService
    | Instance
    | Listener
    | Rule
)

CLASSES: Mapping[Kind, type[Object]] = MappingProxyType(
    {
        Kind.NODES: Node,
        Kind.CERTIFICATES: Certificate,
        Kind.CA_CERTIFICATES: CaCertificate,
        Kind.SERVER_GROUPS: ServerGroup,
        Kind.AVAILABILITY_GROUPS: AvailabilityGroup,
        Kind.BACKEND_SERVICES: BackendService,
        Kind.ACCESS_LISTS: AccessList,
        Kind.INSTANCES: Instance,
        Kind.LISTENERS: Listener,
        Kind.RULES: Rule,
    }
)


@dataclass(frozen=True, slots=True)
class Model:
    """A whole configuration: each kind maps names to objects. Made by `core.config`, which has checked it."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    ca_certificates: Mapping[str, CaCertificate] = field(default_factory=dict)
    server_groups: Mapping[str, ServerGroup] = field(default_factory=dict)
    availability_groups: Mapping[str, AvailabilityGroup] = field(default_factory=dict)
    backend_services: Mapping[str, BackendService] = field(default_factory=dict)
    access_lists: Mapping[str, AccessList] = field(default_factory=dict)
    instances: Mapping[str, Instance] = field(default_factory=dict)
    listeners: Mapping[str, Listener] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def of(self, kind: Kind) -> Mapping[str, Object]:
        """The objects of one kind, by name."""
        objects: Mapping[str, Object] = getattr(self, kind.value)
        return objects
