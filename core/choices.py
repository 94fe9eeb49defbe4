"""What an attribute with a choice may be, by the words that configurations have for it."""

from __future__ import annotations

from enum import StrEnum


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
    """What servers are spoken to in: http is HTTP/1.1; h2 is HTTP/2 by TLS, h2c without, and with prior knowledge."""

    TCP = "tcp"
    UDP = "udp"
    HTTP = "http"
    H2 = "h2"
    H2C = "h2c"


# Where requests share connections, and those of the L7 tier.
MULTIPLEXED = frozenset({BackendProtocol.H2, BackendProtocol.H2C})
L7_BACKENDS = frozenset({BackendProtocol.HTTP, *MULTIPLEXED})


class Mode(StrEnum):
    """How the L4 tier hands packets to a server (IPVS: masquerading, gatewaying, ipip; fullnat is LVS's)."""

    NAT = "nat"
    FULLNAT = "fullnat"
    DR = "dr"
    TUNNEL = "tunnel"


# Modes that leave the packet as the client made it.
KEEPING_THE_PORT = frozenset({Mode.DR, Mode.TUNNEL})


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


class ProxyProtocol(StrEnum):
    """Whether connections to a listener begin with a header of the PROXY protocol: none of them, all, or some."""

    OFF = "off"
    REQUIRED = "required"
    OPTIONAL = "optional"


class ProxyHeader(StrEnum):
    """The version of the PROXY protocol by which servers are told whose a connection is."""

    OFF = "off"
    V1 = "v1"
    V2 = "v2"

    @property
    def version(self) -> int:
        """0: none."""
        return [*ProxyHeader].index(self)


class ClientCertificate(StrEnum):
    """Whether a client may do without a certificate, where the listener has authorities to verify one by."""

    REQUIRED = "required"
    OPTIONAL = "optional"


class CertificateFields(StrEnum):
    """What servers are told of a client's certificate: nothing; by RFC 9440, and by names of ours; or by the names that
    users of nginx and HAProxy give it."""

    OFF = "off"
    RFC9440 = "rfc9440"
    SSL_CLIENT = "ssl_client"


class JwtAlgorithm(StrEnum):
    """How a token is signed (RFC 7518 §3.1, RFC 8037): HS… by a shared secret, the others by a private key."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    EDDSA = "EdDSA"
    HS256 = "HS256"
    HS384 = "HS384"
    HS512 = "HS512"

    @property
    def shared(self) -> bool:
        """Whether who verifies could sign as well."""
        return self.value.startswith("HS")


class SecurityHeaders(StrEnum):
    """A set of fields that tell browsers to be careful with answers; see docs/response-headers.md."""

    OFF = "off"
    BASIC = "basic"
    STRICT = "strict"


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
    GRPC = "grpc"


class DnsType(StrEnum):
    A = "a"
    AAAA = "aaaa"
    SRV = "srv"


class CheckMethod(StrEnum):
    HEAD = "head"
    GET = "get"


# Which schedulers each tier runs: the L4 tier schedules tcp and udp backend services, the L7 tier http ones.
# Consistent hashes choose without state: a flow finds its server again on every node.
HASH_SCHEDULERS = frozenset({Scheduler.SH, Scheduler.TCH, Scheduler.MAGLEV})
LEAST_SCHEDULERS = frozenset({Scheduler.LC, Scheduler.WLC})
L4_SCHEDULERS = HASH_SCHEDULERS | LEAST_SCHEDULERS | {Scheduler.RR, Scheduler.WRR}
L7_SCHEDULERS = LEAST_SCHEDULERS | {Scheduler.RR, Scheduler.WRR, Scheduler.SH, Scheduler.P2C, Scheduler.CH}
