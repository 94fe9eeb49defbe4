"""Backend services and what they consist of: servers in groups, health checks, stickiness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from core.choices import BackendProtocol, CheckMethod, CheckType, DnsType, ProxyHeader, Scheduler, StickyType
from core.fields import (
    CODES,
    FILE_PATH,
    GRPC_SERVICE,
    HASH_KEY,
    HOST_NAME,
    RESOLVER,
    URL_PATH,
    Address,
    Description,
    Kind,
    Name,
    Pattern,
    Range,
    Ref,
    Tags,
)


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
    description: Description = ""
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class DnsName:
    """Members by a name in DNS: its addresses (a, aaaa), all of `port`, or targets and ports (srv).

    Looked up by each node, again when the records' time to live is over. What is no answer leaves the members as
    they are; a name that has never been resolved has none, and a problem of the node says so.
    """

    name: Annotated[str, Pattern(HOST_NAME, "a host name")]
    type: DnsType = DnsType.A
    port: Annotated[int, Range(0, 65535)] = 0
    weight: Annotated[int, Range(0, 100)] = 100
    zone: str = ""


@dataclass(frozen=True, slots=True)
class AvailabilityGroup:
    """Servers spread over fault domains: every member names its zone, and losing one zone costs only its members.

    Members stand here, or come and go by DNS, by a file on the nodes, or register themselves.
    """

    name: Name
    members: tuple[Server, ...] = ()
    dns: tuple[DnsName, ...] = ()
    resolvers: tuple[Annotated[str, RESOLVER], ...] = ()
    file: Annotated[str, FILE_PATH] = ""
    registered: bool = False
    min_zones: Annotated[int, Range(1, 100)] = 2
    min_racks: Annotated[int, Range(0, 1000)] = 0
    max_percent_per_zone: Annotated[int, Range(0, 100, "%")] = 0
    description: Description = ""
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """An active check. `rise` successes make a server healthy, `fall` failures unhealthy.

    tcp: the connection is accepted. http: the answer's status is one of `codes`. udp: `request` is sent and a reply
    that contains `expect` comes back (both empty: no ICMP port-unreachable within the timeout). grpc: the health
    protocol of gRPC (grpc.health.v1) says that `service` is SERVING, or with an empty name the server.
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
    service: Annotated[str, GRPC_SERVICE] = ""
    request: Annotated[str, Pattern(r"[\x20-\x7e]{0,500}", "printable text of at most 500 characters")] = ""
    expect: Annotated[str, Pattern(r"[\x20-\x7e]{0,500}", "printable text of at most 500 characters")] = ""


@dataclass(frozen=True, slots=True)
class Ejection:
    """A passive check: a server that fails requests in a row is left out for a while, by all workers of the node.

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
    queue_target_s: Annotated[float, Range(0, 6, "s")] = 0.0
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
    proxy_protocol: ProxyHeader = ProxyHeader.OFF
    description: Description = ""
    tags: Tags = ()

    @property
    def speaks_tls(self) -> bool:
        """Whether servers are asked by TLS: of protocol h2 always."""
        return self.tls or self.protocol is BackendProtocol.H2
