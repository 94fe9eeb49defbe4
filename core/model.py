"""The objects that a configuration is made of.

An *instance* has *listeners*; a listener of HTTP or HTTPS has *rules*; listeners and rules forward to *backend
services*, which several of them may share; a backend service draws its servers from a *server group* or an
*availability group*, which several backend services may share. An *access list* says which clients its listeners
admit or refuse. An *authentication* says how clients prove who they are to rules that name it. *Certificates* hold
public chains only: private keys live in the key server. *Nodes* are the machines of the cluster itself.

Objects are frozen and refer to each other by name. A field's type says what it may hold (`core.fields`). Names and
ranges follow Alibaba Cloud's SLB API 2014-05-15 and JD Cloud's LB API; times carry their unit in the name.

Services are in `core.services`, rules in `core.forwarding`, words to choose from in `core.choices`. Whoever works
with a configuration finds them all here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

from core.answering import Cors
from core.answers import Coding, Compression, ErrorPage, Personal
from core.authentication import Authentication, Basic, Certified, ForwardAuth, Jwt
from core.choices import (
    HASH_SCHEDULERS,
    KEEPING_THE_PORT,
    L4_SCHEDULERS,
    L7_BACKENDS,
    L7_SCHEDULERS,
    LEAST_SCHEDULERS,
    MULTIPLEXED,
    Acl,
    BackendProtocol,
    CertificateFields,
    CheckMethod,
    CheckType,
    ClientCertificate,
    DnsType,
    HeaderAction,
    InstanceType,
    JwtAlgorithm,
    Mode,
    Protocol,
    ProxyHeader,
    ProxyProtocol,
    Role,
    Scheduler,
    SecurityHeaders,
    StickyType,
    TlsPolicy,
)
from core.fields import DOMAIN, IP, Description, IPNetwork, IPv6, Kind, Name, Pattern, Port, Range, Ref, Tags
from core.forwarding import (
    Condition,
    FixedReply,
    HeaderChange,
    Maintenance,
    Redirect,
    RedirectMap,
    Rewrite,
    Rule,
    Share,
)
from core.services import (
    AvailabilityGroup,
    BackendService,
    DnsName,
    Ejection,
    HealthCheck,
    Server,
    ServerGroup,
    StickySession,
)
from core.shaping import Mirror, RateLimit

__all__ = [
    "ACCESS_LIST_ENTRIES", "CLASSES", "HASH_SCHEDULERS", "KEEPING_THE_PORT", "L4_SCHEDULERS", "L7_BACKENDS",
    "L7_SCHEDULERS", "LEAST_SCHEDULERS", "MOST_POOL_ADDRESSES", "MULTIPLEXED", "AccessList", "Acl", "Authentication",
    "AvailabilityGroup", "BackendProtocol", "BackendService", "Basic", "CaCertificate", "Certificate",
    "CertificateFields", "Certified", "CheckMethod", "CheckType", "ClientCertificate", "Coding", "Compression",
    "Condition", "Cors", "DnsName", "DnsType", "Ejection", "ErrorPage", "FixedReply", "ForwardAuth", "HeaderAction",
    "HeaderChange", "HealthCheck", "Instance", "InstanceType", "Jwt", "JwtAlgorithm", "Kind", "Listener",
    "Maintenance", "Mirror", "Mode", "Model", "Node", "Object", "Personal", "Protocol", "ProxyHeader",
    "ProxyProtocol", "RateLimit", "Redirect", "RedirectMap", "Rewrite", "Role", "Rule", "Scheduler",
    "SecurityHeaders", "Server", "ServerGroup", "Share", "StickySession", "StickyType", "TlsPolicy",
]  # fmt: skip

# What the L4 tier's tables are made for.
ACCESS_LIST_ENTRIES = 100_000

# How many addresses of each IP version a node's pool may have, each good for 64,512 connections to one server's port.
MOST_POOL_ADDRESSES = 16


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
    description: Description = ""
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class AccessList:
    """Client networks, which listeners admit (`acl = "white"`) or refuse (`acl = "black"`)."""

    name: Name
    entries: tuple[IPNetwork, ...] = ()
    description: Description = ""
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A public chain, leaf first: a file (read where the configuration is read) or the PEM text itself.

    `key_file` is for `paifang up` alone: its path is given to the key server and to nobody else. With neither chain
    nor key, the cluster's own CA issues a development certificate for `domains`.
    """

    name: Name
    chain_file: str = ""
    chain: Annotated[str, Pattern(r"[\s\S]{0,262144}", "PEM text of at most 256 KiB")] = ""
    key_file: str = ""
    domains: tuple[Annotated[str, DOMAIN], ...] = ()
    description: Description = ""
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """Authorities whose clients an https listener admits, and what they have revoked: files, or the PEM texts."""

    name: Name
    bundle_file: str = ""
    bundle: Annotated[str, Pattern(r"[\s\S]{0,1048576}", "PEM text of at most 1 MiB")] = ""
    crl_file: str = ""
    crl: Annotated[str, Pattern(r"[\s\S]{0,1048576}", "PEM text of at most 1 MiB")] = ""
    description: Description = ""
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """A load balancer as its user sees it. With no `vips`, its listeners answer on every local address (L7 only).

    Each VIP of a tcp or udp listener forwards to the servers of its own IP version. What is protected from changes or
    deletion is so in the API and for everyone who goes by it, with its listeners, until the protection is taken off.
    """

    name: Name
    type: InstanceType = InstanceType.ALB
    vips: tuple[IP, ...] = ()
    bandwidth_in_mbit_s: Annotated[int, Range(0, 40_960, "Mbit/s")] = 0
    bandwidth_out_mbit_s: Annotated[int, Range(0, 40_960, "Mbit/s")] = 0
    modification_protection: bool = False
    deletion_protection: bool = False
    description: Description = ""
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class Listener:
    """A port of an instance. tcp and udp go from the L4 tier to the servers; http and https through the L7 tier.

    One that is not `enabled` keeps its place and takes no connection. `mode` is for tcp and udp; `certificates` for
    https, the first being the default for names that none covers. `acme_backend_service`, of protocol tcp, is the ACME
    issuer, which answers the CA's handshakes (tls-alpn-01).
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
    proxy_protocol: ProxyProtocol = ProxyProtocol.OFF
    proxy_protocol_from: tuple[IPNetwork, ...] = ()
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
    client_certificate_fields: CertificateFields = CertificateFields.RFC9440
    handshake_timeout_s: Annotated[int, Range(1, 60, "s")] = 10
    max_handshakes_per_client: Annotated[int, Range(0, 10_000)] = 1024
    acme_backend_service: Annotated[str, Ref(Kind.BACKEND_SERVICES)] = ""
    head_timeout_s: Annotated[int, Range(1, 60, "s")] = 15
    body_timeout_s: Annotated[int, Range(1, 300, "s")] = 15
    min_body_rate_bytes_s: Annotated[int, Range(0, 1_000_000, "bytes/s")] = 500
    send_timeout_s: Annotated[int, Range(1, 300, "s")] = 60
    max_connections_per_client: Annotated[int, Range(0, 1_000_000)] = 0
    enabled: bool = True
    drain: bool = False
    drain_timeout_s: Annotated[int, Range(10, 900, "s")] = 300
    x_forwarded_for: bool = True
    x_forwarded_proto: bool = True
    x_forwarded_port: bool = True
    x_forwarded_client_port: bool = False
    x_forwarded_slb_ip: bool = False
    x_forwarded_slb_id: bool = False
    underscored_fields: bool = False
    rate_limits: tuple[RateLimit, ...] = ()
    cors: Cors | None = None
    security_headers: SecurityHeaders = SecurityHeaders.OFF
    max_head_bytes: Annotated[int, Range(1024, 65_536, "bytes")] = 65_536
    max_body_bytes: Annotated[int, Range(0, 1 << 40, "bytes")] = 0
    max_requests: Annotated[int, Range(0, 10_000_000)] = 0
    max_requests_per_client: Annotated[int, Range(0, 1_000_000)] = 0
    compression: Compression | None = None
    error_pages: tuple[ErrorPage, ...] = ()
    maintenance: Maintenance | None = None
    http2: bool = True
    http2_prior_knowledge: bool = False
    description: Description = ""
    tags: Tags = ()


Object = (
    Node
    | AccessList
    | RedirectMap
    | Certificate
    | CaCertificate
    | ServerGroup
    | AvailabilityGroup
    | BackendService
    | Authentication
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
        Kind.AUTHENTICATIONS: Authentication,
        Kind.ACCESS_LISTS: AccessList,
        Kind.REDIRECT_MAPS: RedirectMap,
        Kind.INSTANCES: Instance,
        Kind.LISTENERS: Listener,
        Kind.RULES: Rule,
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A whole configuration: each kind maps names to objects. Made by `core.config`, which has checked it.

    Two are equal if their objects are, and their rules stand in the same order: of those that match alike, the first
    wins.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    ca_certificates: Mapping[str, CaCertificate] = field(default_factory=dict)
    server_groups: Mapping[str, ServerGroup] = field(default_factory=dict)
    availability_groups: Mapping[str, AvailabilityGroup] = field(default_factory=dict)
    backend_services: Mapping[str, BackendService] = field(default_factory=dict)
    authentications: Mapping[str, Authentication] = field(default_factory=dict)
    access_lists: Mapping[str, AccessList] = field(default_factory=dict)
    redirect_maps: Mapping[str, RedirectMap] = field(default_factory=dict)
    instances: Mapping[str, Instance] = field(default_factory=dict)
    listeners: Mapping[str, Listener] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def of(self, kind: Kind) -> Mapping[str, Object]:
        """The objects of one kind, by name."""
        objects: Mapping[str, Object] = getattr(self, kind.value)
        return objects

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Model):
            return NotImplemented
        if any(self.of(kind) != other.of(kind) for kind in Kind):
            return False
        return self.rules is other.rules or list(self.rules) == list(other.rules)

    __hash__ = None  # type: ignore[assignment]
