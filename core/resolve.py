"""What one tier needs of a model, with the references followed: flat services for L4, routed listeners for L7.

Both tiers, the control plane's status and the lab derive their view here, so that they never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core.endpoints import UNIX, version
from core.limits import UNLIMITED, Limits, SiteLimits, of_l4, of_l7
from core.model import (
    KEEPING_THE_PORT,
    L7_BACKENDS,
    Acl,
    BackendProtocol,
    BackendService,
    CaCertificate,
    Certificate,
    CheckType,
    HealthCheck,
    InstanceType,
    Listener,
    Mode,
    Model,
    Node,
    Protocol,
    ProxyProtocol,
    RedirectMap,
    Role,
    Rule,
    Scheduler,
    Server,
)
from core.overrides import as_used, made_by_rules
from core.prefixes import Prefixes, number

# An L7 node's readiness is asked for often: a node that drains or dies should take no new connection for long.
L7_NODE_CHECK = HealthCheck(
    type=CheckType.HTTP, interval_s=1.0, timeout_s=1.0, rise=2, fall=2, uri="/ready", codes="200"
)


@dataclass(frozen=True, slots=True)
class Real:
    """A destination of an L4 service and where its health is asked for."""

    address: str
    port: int
    weight: int
    check_port: int


@dataclass(frozen=True, slots=True)
class Access:
    """Whom a listener admits: those listed (white) or all others (black). For clients of one IP version."""

    acl: Acl
    listed: Prefixes

    def admits(self, client: str) -> bool:
        """Whether this address, of the version of `listed`, may connect."""
        return (number(client) in self.listed) is (self.acl is Acl.WHITE)


@dataclass(frozen=True, slots=True)
class Guard:
    """Whom an L7 listener, or a rule, admits, by the version of the client's address."""

    v4: Access
    v6: Access

    def admits(self, client: str) -> bool:
        """Whether this address may connect."""
        return (self.v6 if version(client) == 6 else self.v4).admits(client)


@dataclass(frozen=True, slots=True)
class L4Service:
    """One VIP, port and transport protocol (`tcp` or `udp`), as the XDP tier forwards it: all of the VIP's IP version.

    An http or https listener is a tcp service whose reals are the L7 nodes (DR, Maglev), checked on their health port.
    """

    listener: str
    vip: str
    port: int
    protocol: str
    mode: Mode
    scheduler: Scheduler
    reals: tuple[Real, ...]
    check: HealthCheck | None
    idle_timeout_s: int
    stateless: bool = False  # keeps no session: an instance of type dnlb
    persistence_timeout_s: int = 0  # a client keeps its server for so long after its last new flow
    persistence_prefix: int = 32  # of the VIP's IP version
    access: Access | None = None
    limits: Limits = UNLIMITED
    drain_timeout_s: int = 0  # how long sessions go on with what has been removed; 0: not at all


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How to speak TLS with the servers of a backend service. `name` empty: the server's address is its name.

    `bundle` and `crl` are PEM texts; without a bundle the machine's own authorities are trusted. `h2`: by ALPN.
    """

    verify: bool
    name: str = ""
    bundle: str = ""
    crl: str = ""
    h2: bool = False


@dataclass(frozen=True, slots=True)
class L7Listener:
    """An http or https listener with its rules, certificates and the addresses it binds ("" is every address)."""

    listener: Listener
    addresses: tuple[str, ...]
    rules: tuple[Rule, ...]
    certificates: tuple[Certificate, ...]
    access: Guard | None = None
    authorities: CaCertificate | None = None
    limits: SiteLimits | None = None  # this node's
    guards: tuple[tuple[str, Guard], ...] = ()  # of rules with access lists
    maps: tuple[RedirectMap, ...] = ()  # of the rules


def servers(model: Model, service: BackendService) -> tuple[Server, ...]:
    """The servers behind a backend service, from whichever group it names."""
    if service.server_group:
        return model.server_groups[service.server_group].servers
    return model.availability_groups[service.availability_group].members


def l4_services(model: Model) -> tuple[L4Service, ...]:
    """Every service that an L4 node forwards, in the order of the listeners and then of the VIPs."""
    l7_reals = tuple(
        Real(address, 0, 100, node.health_port)
        for node in model.nodes.values()
        if node.role is Role.L7
        for address in l7_addresses(node)
    )
    lists, reals = _Lists(model), _Reals(model)
    return tuple(
        _l4_service(model, listener, vip, l7_reals, reals, lists.access(listener, version(vip)))
        for listener in model.listeners.values()
        if listener.enabled
        for vip in model.instances[listener.instance].vips
    )


def l7_addresses(node: Node) -> tuple[str, ...]:
    """Where the L4 tier reaches an L7 node, at most one address of each IP version."""
    return (node.address, node.address_v6) if node.address_v6 else (node.address,)


class _Lists:
    """The access lists as matchers, each made once however many listeners use it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._made: dict[tuple[str, int], Prefixes] = {}

    def access(self, listener: Listener | Rule, ip: int) -> Access | None:
        """For clients of this IP version."""
        if listener.acl is Acl.OFF:
            return None
        key = (listener.access_list, ip)
        if key not in self._made:
            self._made[key] = Prefixes.of(self._model.access_lists[listener.access_list].entries, ip)
        return Access(listener.acl, self._made[key])

    def guard(self, listener: Listener | Rule) -> Guard | None:
        v4, v6 = self.access(listener, 4), self.access(listener, 6)
        return Guard(v4, v6) if v4 is not None and v6 is not None else None


class _Reals:
    """The reals of backend services, each made once however many listeners share it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._made: dict[tuple[str, int], tuple[Real, ...]] = {}

    def service(self, service: BackendService, ip: int) -> tuple[Real, ...]:
        """Those of this IP version."""
        key = (service.name, ip)
        if key not in self._made:
            check_port = service.health_check.port if service.health_check else 0
            self._made[key] = tuple(
                Real(server.address, server.port, server.weight, check_port or server.port)
                for server in servers(self._model, service)
                if not server.address.startswith(UNIX) and version(server.address) == ip
            )
        return self._made[key]


def _l4_service(
    model: Model, listener: Listener, vip: str, l7_reals: tuple[Real, ...], of: _Reals, access: Access | None
) -> L4Service:
    ip = version(vip)
    limits = of_l4(model, listener)
    if listener.protocol in (Protocol.HTTP, Protocol.HTTPS):
        reals = tuple(
            Real(real.address, listener.port, real.weight, real.check_port)
            for real in l7_reals
            if version(real.address) == ip
        )
        return L4Service(
            listener.name, vip, listener.port, "tcp", Mode.DR, Scheduler.MAGLEV, reals, L7_NODE_CHECK,
            listener.established_timeout_s, limits=limits,
            # Behind proxies that tell of their clients, the list is for these, whom the L7 tier knows.
            access=access if listener.proxy_protocol is ProxyProtocol.OFF else None,
        )  # fmt: skip
    service = model.backend_services[listener.backend_service]
    prefix = listener.persistence_prefix_v6 if ip == 6 else listener.persistence_prefix
    timeout_s = listener.established_timeout_s if listener.protocol is Protocol.TCP else listener.udp_idle_timeout_s
    reals = of.service(service, ip)
    if listener.mode in KEEPING_THE_PORT:  # of members that come and go nobody has checked it before
        reals = tuple(real for real in reals if real.port == listener.port)
    return L4Service(
        listener.name, vip, listener.port, listener.protocol.value, listener.mode, service.scheduler,
        reals, service.health_check, timeout_s,
        model.instances[listener.instance].type is InstanceType.DNLB, listener.persistence_timeout_s, prefix,
        access, limits, listener.drain_timeout_s if listener.drain else 0,
    )  # fmt: skip


def source_pools(model: Model) -> dict[str, tuple[str, ...]]:
    """The source addresses of mode fullnat, by L4 node."""
    return {node.name: node.source_pool for node in model.nodes.values() if node.role is Role.L4}


def l7_services(model: Model) -> dict[str, BackendService]:
    """The backend services whose servers L7 nodes choose from: those of http, h2 and h2c, also as rules use them,
    and the ACME issuers of listeners."""
    issuers = {listener.acme_backend_service for listener in model.listeners.values()}
    return {
        name: service
        for name, service in model.backend_services.items()
        if service.protocol in L7_BACKENDS or name in issuers
    } | {made.name: made for made, _, _ in made_by_rules(model)}


def l7_checked(model: Model) -> dict[str, str]:
    """Services that have no checks of their own, and those whose checks count for them."""
    return {made.name: service.name for made, service, checked in made_by_rules(model) if not checked}


def upstream_tls(model: Model, service: BackendService) -> UpstreamTls | None:
    """None: in plain text."""
    if not service.speaks_tls:
        return None
    authorities = model.ca_certificates.get(service.tls_ca_certificate, CaCertificate(""))
    h2 = service.protocol is BackendProtocol.H2
    return UpstreamTls(service.tls_verify, service.tls_server_name, authorities.bundle, authorities.crl, h2)


def _maps(model: Model, rules: Iterable[Rule]) -> tuple[RedirectMap, ...]:
    """The redirect maps that these rules name, each once."""
    names = dict.fromkeys(rule.redirect_map for rule in rules if rule.redirect_map)
    return tuple(model.redirect_maps[name] for name in names)


def l7_listeners(model: Model) -> tuple[L7Listener, ...]:
    """Every http and https listener, with what an L7 node needs to serve it."""
    lists = _Lists(model)
    rules: dict[str, list[Rule]] = {}
    for rule in model.rules.values():
        rules.setdefault(rule.listener, []).append(as_used(rule))
    return tuple(
        L7Listener(
            listener,
            model.instances[listener.instance].vips or ("",),
            tuple(rules.get(listener.name, ())),
            tuple(model.certificates[name] for name in listener.certificates),
            lists.guard(listener),
            model.ca_certificates.get(listener.ca_certificate),
            of_l7(model, listener),
            tuple(
                (rule.name, guard)
                for rule in rules.get(listener.name, ())
                if rule.acl is not Acl.OFF and (guard := lists.guard(rule)) is not None
            ),
            _maps(model, rules.get(listener.name, ())),
        )
        for listener in model.listeners.values()
        if listener.enabled and listener.protocol in (Protocol.HTTP, Protocol.HTTPS)
    )
