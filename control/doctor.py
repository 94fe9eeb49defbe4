"""Whether a machine is fit for its part: facts in, findings out. Pure; control/doctor_facts.py gathers the facts.

`CHECKS` is the table: what is looked at, for which roles, by which facts, and who judges them. A check whose facts were
not asked for is left out; one whose facts could not be had says why. Each finding that is not *ok* has a remedy, as a
command where one is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

ROLES: Final = ("l4", "l7", "keyserver", "control")
MEGA, GIGA = 1 << 20, 1 << 30
DAY_S = 86_400.0


class Level(StrEnum):
    """How bad it is. An error keeps the process from working as it should; a warning will, in some hour."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One of them. `remedy`: what to do, empty where nothing is to be done."""

    level: Level
    what: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen, by name, and what could not be: name → why."""

    seen: Mapping[str, Any]
    unseen: Mapping[str, str]


Judge = Callable[..., Iterable[tuple[Level, str, str]]]
_OK, _NOTE, _WARNING, _ERROR = Level.OK, Level.NOTE, Level.WARNING, Level.ERROR


def judged(facts: Facts, role: str) -> list[Finding]:
    """Every check of a role, or, for an empty role, those of any machine."""
    found: list[Finding] = []
    for check in CHECKS:
        if check.roles and role not in check.roles:
            continue
        missing = [name for name in check.needs if name not in facts.seen]
        if blind := [name for name in missing if name in facts.unseen]:
            found.append(Finding(_NOTE, check.what, f"not looked at: {facts.unseen[blind[0]]}"))
        elif not missing:
            values = [facts.seen[name] for name in check.needs]
            found += [Finding(level, check.what, text, remedy) for level, text, remedy in check.judge(*values)]
    return found


# --- the machine


def _kernel(release: str) -> Iterator[tuple[Level, str, str]]:
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < (5, 15):
        yield _ERROR, f"Linux {release}: XDP needs 5.15 or later here", "install a later kernel, such as Debian 12's"
    else:
        yield _OK, f"Linux {release}", ""


def _python(version: Sequence[int]) -> Iterator[tuple[Level, str, str]]:
    text = "Python " + ".".join(map(str, version))
    if tuple(version[:2]) < (3, 11):
        yield _ERROR, f"{text}: 3.11 or later is needed", "install Python 3.11 and make the virtual environment anew"
    else:
        yield _OK, text, ""


def _openssl(version: str, number: int, shared: bool) -> Iterator[tuple[Level, str, str]]:
    if number < 0x30000000:
        yield _ERROR, f"{version}: the keys of a key server need OpenSSL 3", "use the Python of Debian 12 or later"
    elif not shared:
        text = f"{version} is linked into this Python: keys of a key server cannot be used by it"
        yield _ERROR, text, "use /usr/bin/python3 of the distribution, which loads libssl.so.3"
    else:
        yield _OK, f"{version}, shared", ""


def _files(hard: int) -> Iterator[tuple[Level, str, str]]:
    remedy = "LimitNOFILE=1048576 in `systemctl edit` of the unit, or `ulimit -Hn 1048576` as root"
    if hard < 4096:
        yield _ERROR, f"{hard} open files at most: a connection takes two", remedy
    elif hard < 65536:
        yield _WARNING, f"{hard} open files at most, for some {hard // 2} connections of an L7 node", remedy
    else:
        yield _OK, f"{hard} open files at most", ""


def _cores(usable: int, quota: float | None) -> Iterator[tuple[Level, str, str]]:
    if quota is not None and quota < usable:
        text = f"{usable} cores may be used, and the control group allows the time of {quota:g}: workers stand still"
        yield _WARNING, text, f"start with --workers {max(1, int(quota))}, or raise the limit (CPUQuota= of the unit)"
    else:
        yield _OK, f"{usable} cores", ""


def _memory(available: int, limit: int | None) -> Iterator[tuple[Level, str, str]]:
    room = min(available, limit) if limit is not None else available
    if room < 256 * MEGA:
        yield _ERROR, f"{room // MEGA} MiB of memory are free", "give the machine, or the control group, more"
    elif room < GIGA:
        yield _WARNING, f"{room // MEGA} MiB of memory are free; the tables of an L4 node take 150", "give it more"
    else:
        yield _OK, f"{room // MEGA} MiB of memory are free", ""


def _clock(synchronised: bool) -> Iterator[tuple[Level, str, str]]:
    if synchronised:
        yield _OK, "synchronised", ""
    else:
        text = "not synchronised: sessions age wrongly on peers, and certificates are refused in the end"
        yield _WARNING, text, "apt install chrony"


def _skew(seconds: float) -> Iterator[tuple[Level, str, str]]:
    if abs(seconds) < 2:
        yield _OK, "agrees with the control plane's to the second", ""
    else:
        way = "ahead of" if seconds > 0 else "behind"
        level = _ERROR if abs(seconds) > 60 else _WARNING
        yield level, f"{abs(seconds):.0f} s {way} the control plane's", "chronyc makestep, on the one that is wrong"


def _ports(
    wanted: Sequence[tuple[str, int, str]], used: Sequence[tuple[str, int, str]]
) -> Iterator[tuple[Level, str, str]]:
    """`wanted`: protocol, port, what for; `used`: protocol, port, by whom."""
    holders = {(protocol, port): by for protocol, port, by in used}
    taken = [
        (protocol, port, what, holders[protocol, port])
        for protocol, port, what in wanted
        if (protocol, port) in holders
    ]
    for protocol, port, what, by in taken:
        if "paifang" in by or any(f"-m {module}" in by for module in ("proxy", "control", "keyserver", "l4fast")):
            yield _NOTE, f"{protocol}/{port} ({what}) is taken by a process of ours: {by}", ""
        else:
            remedy = "end that process, or give another port"
            yield _ERROR, f"{protocol}/{port} ({what}) is taken by {by or 'another process'}", remedy
    if not taken:
        yield _OK, f"{len(wanted)} ports are free", ""


# --- BPF


def _jit(value: int) -> Iterator[tuple[Level, str, str]]:
    if value:
        yield _OK, "BPF programs are compiled", ""
    else:
        yield _ERROR, "BPF programs are interpreted: ten times as slow", "sysctl -w net.core.bpf_jit_enable=1"


def _unprivileged(value: int) -> Iterator[tuple[Level, str, str]]:
    if value:
        yield _OK, "users other than root load no BPF programs", ""
    else:
        text = "every user may load BPF programs, which has been a way to become root more than once"
        yield _WARNING, text, "sysctl -w kernel.unprivileged_bpf_disabled=1"


def _bpffs(mounted: bool) -> Iterator[tuple[Level, str, str]]:
    if mounted:
        yield _OK, "/sys/fs/bpf is mounted", ""
    else:
        text = "/sys/fs/bpf is not mounted: tables cannot outlive the agent"
        yield _ERROR, text, "mount -t bpf bpf /sys/fs/bpf"


def _memlock(limit: int, release: str) -> Iterator[tuple[Level, str, str]]:
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers >= (5, 11) or limit < 0 or limit >= 512 * MEGA:
        yield _OK, "BPF tables are not limited by locked memory", ""
    else:
        yield _ERROR, f"{limit} bytes may be locked, too few for the tables", "LimitMEMLOCK=infinity in the unit"


def _program(document: Mapping[str, Any]) -> Iterator[tuple[Level, str, str]]:
    """What `python -m l4fast doctor` says."""
    if why := document.get("bcc"):
        yield _ERROR, str(why), "apt install python3-bpfcc; the virtual environment with --system-site-packages"
    elif why := document.get("program"):
        yield (
            _ERROR,
            f"the kernel does not take the XDP program: {why}",
            "see the text; is the kernel the distribution's?",
        )
    elif document.get("program") == "":
        yield _OK, f"the verifier takes the XDP program ({document['seconds']:.1f} s to load)", ""
    else:
        yield _NOTE, "BCC is there; whether the verifier takes the XDP program only root can try", ""


# --- interfaces


def _interface(found: Mapping[str, Any]) -> Iterator[tuple[Level, str, str]]:
    name = found["name"]
    if not found["exists"]:
        yield _ERROR, f"there is no interface {name}", "ip -br link shows those that there are"
        return
    if not found["up"]:
        yield _ERROR, f"{name} is down, or its cable carries nothing", f"ip link set {name} up"
    if found["lro"]:
        text = f"{name} merges packets (LRO), which no packet that is forwarded survives; many drivers refuse XDP"
        yield _ERROR, text, f"ethtool -K {name} lro off"
    if found["rxvlan"]:
        text = f"{name} takes VLAN tags off frames: XDP does not see which VLAN they are of"
        yield _WARNING if found["vlans"] else _NOTE, text, f"ethtool -K {name} rxvlan off"
    yield from _driver(found)
    queues, cores = found["queues"], found["cores"]
    if queues and queues < cores:
        text = f"{name} has {queues} receive queues for {cores} cores: so many share the packets"
        yield _NOTE, text, f"ethtool -L {name} combined {cores}, where the card has them"
    if found["mtu"] < 1280:
        yield _ERROR, f"{name} has an MTU of {found['mtu']}: IPv6 needs 1280", f"ip link set {name} mtu 1500"


NATIVE: Final = frozenset(
    {
        "bnxt_en", "cpsw", "dpaa2-eth", "ena", "enetc", "gve", "hv_netvsc", "i40e", "iavf", "ice", "igb", "igc",
        "ionic", "ixgbe", "ixgbevf", "mana", "mlx4_en", "mlx5_core", "mvneta", "mvpp2", "netsec", "nfp", "qede", "sfc",
        "stmmac", "tun", "veth", "virtio_net", "vmxnet3", "xen_netfront",
    }
)  # fmt: skip


def _driver(found: Mapping[str, Any]) -> Iterator[tuple[Level, str, str]]:
    name, driver = found["name"], found["driver"]
    if driver == "veth":
        text = f"{name} is a veth: natively, packets arrive only where its peer has an XDP program, or GRO on"
        yield _NOTE, text, "ethtool -K PEER gro on tx off, at its other end; or --xdp generic"
    elif driver == "virtio_net" and (found["gro_hw"] or found["mtu"] > 3500):
        text = f"{name}: virtio_net refuses native XDP with a large MTU, or where the host merges packets"
        yield _WARNING, text, f"ethtool -K {name} gro-hw off; ip link set {name} mtu 1500; or --xdp generic"
    elif driver in NATIVE:
        yield _OK, f"{name} ({driver}, MTU {found['mtu']}): native XDP", ""
    else:
        text = f"{name} ({driver or 'unknown driver'}): whether it has native XDP is not known"
        yield _NOTE, text, "--xdp generic works with every interface"
    if found["gro"] and driver not in NATIVE:
        text = f"{name} merges packets (GRO), which in generic mode are too big for a tunnel"
        yield _NOTE, text, f"ethtool -K {name} gro off, if listeners are of mode tunnel"


def _multicast(why: str, group: str) -> Iterator[tuple[Level, str, str]]:
    if why:
        text = f"a datagram to {group} does not come back: {why}; sessions cannot be told to the peers"
        yield _ERROR, text, f"ip route add {group}/32 dev INTERFACE; let UDP 8848 through the firewall"
    else:
        yield _OK, f"a datagram to {group} leaves and comes back", ""


def _announcer(method: str, program: str | None) -> Iterator[tuple[Level, str, str]]:
    if program is None:
        package = {"vrrp": "keepalived", "bgp": "bird2"}[method]
        yield _ERROR, f"--vip {method} needs {package}, which is not there", f"apt install {package}"
    else:
        yield _OK, f"{program} is there for --vip {method}", ""


def _rp_filter(values: Mapping[str, int], method: str) -> Iterator[tuple[Level, str, str]]:
    strict = [name for name, value in values.items() if max(value, values.get("all", 0)) == 1 and name != "all"]
    if strict and method == "vrrp":
        text = f"{', '.join(strict)} drop what comes by another way than it would go (rp_filter=1)"
        yield (
            _WARNING,
            text,
            "sysctl -w net.ipv4.conf.all.rp_filter=0 "
            + " ".join(f"net.ipv4.conf.{name}.rp_filter=0" for name in strict),
        )
    else:
        yield _OK, "rp_filter is in nobody's way", ""


# --- L7 nodes


def _arp(ignore: int, announce: int, behind: bool) -> Iterator[tuple[Level, str, str]]:
    """`behind`: the configuration says that L4 nodes lead here."""
    if ignore in (1, 2) and announce == 2:
        yield _OK, "no ARP is answered for VIPs on the loopback interface", ""
    else:
        text = f"arp_ignore={ignore}, arp_announce={announce}: behind L4 nodes, this node takes the VIPs away from them"
        remedy = "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
        yield _ERROR if behind else _WARNING, text, remedy


def _vips_here(missing: Sequence[str]) -> Iterator[tuple[Level, str, str]]:
    for vip in missing:
        family = "-6 " if ":" in vip else ""
        bits = 128 if ":" in vip else 32
        yield _ERROR, f"the VIP {vip} is no address of this machine: L4 nodes bring its packets", \
            f"ip {family}addr add {vip}/{bits} dev lo"  # fmt: skip
    if not missing:
        yield _OK, "the VIPs are addresses of this machine", ""


def _queue(somaxconn: int) -> Iterator[tuple[Level, str, str]]:
    if somaxconn < 1024:
        text = f"{somaxconn} connections may wait to be accepted: a burst is refused"
        yield _WARNING, text, "sysctl -w net.core.somaxconn=4096"
    else:
        yield _OK, f"{somaxconn} connections may wait to be accepted", ""


def _migrate(value: int) -> Iterator[tuple[Level, str, str]]:
    if value:
        yield _OK, "connections in the queue of a process that ends go to another", ""
    else:
        text = "connections in the queue of a worker that crashes are lost"
        yield _NOTE, text, "sysctl -w net.ipv4.tcp_migrate_req=1"


def _port_range(low: int, high: int) -> Iterator[tuple[Level, str, str]]:
    if high - low < 20_000:
        text = f"{high - low + 1} ports for connections to each server"
        yield _WARNING, text, "sysctl -w net.ipv4.ip_local_port_range='10240 65535'"
    else:
        yield _OK, f"{high - low + 1} ports for connections to each server", ""


def _time_wait(value: int) -> Iterator[tuple[Level, str, str]]:
    if value == 1:
        yield _OK, "ports in TIME_WAIT are used again", ""
    else:
        yield _NOTE, "ports in TIME_WAIT are not used again for a minute", "sysctl -w net.ipv4.tcp_tw_reuse=1"


def _conntrack(count: int, most: int) -> Iterator[tuple[Level, str, str]]:
    if most and count * 10 >= most * 8:
        text = (
            f"connection tracking is {100 * count // most} % full ({count} of {most}): beyond it, packets are dropped"
        )
        yield _ERROR, text, f"sysctl -w net.netfilter.nf_conntrack_max={4 * most}, or no rules that track"
    elif most and most < 262_144:
        text = f"connection tracking has room for {most} connections"
        yield _WARNING, text, "sysctl -w net.netfilter.nf_conntrack_max=1048576, or no rules that track"
    else:
        yield _OK, "connection tracking is in nobody's way", ""


# --- directories, identities, units


def _state(found: Mapping[str, Any]) -> Iterator[tuple[Level, str, str]]:
    path = found["path"]
    if not found["exists"]:
        yield _NOTE, f"{path} is not there; the process makes it", ""
        return
    if not found["writable"]:
        yield (
            _ERROR,
            f"{path} cannot be written by this user",
            f"chown {found['user']} {path}, or run this as its owner",
        )
    if found["mode"] & 0o077:
        yield _WARNING, f"other users may look into {path} (mode {found['mode']:o})", f"chmod 700 {path}"
    free = found["free"]
    if free < 50 * MEGA:
        yield _ERROR, f"{free // MEGA} MiB are free where {path} is: nothing can be kept", "make room"
    elif free < GIGA:
        yield _WARNING, f"{free // MEGA} MiB are free where {path} is", "make room; does the access log rotate?"
    else:
        yield _OK, f"{path}: {free // MEGA} MiB are free", ""


def _identity(found: Mapping[str, Any], role: str, now: float) -> Iterator[tuple[Level, str, str]]:
    remedy = f"`paifang node invite --role {role} --name {found.get('name') or 'NAME'}` and `paifang join`"
    if found.get("why"):
        yield _ERROR, str(found["why"]), remedy
    elif role and found["role"] != role:
        yield _ERROR, f"it is the identity of a node of role {found['role']}, not {role}", remedy
    elif found["ends"] < now:
        yield _ERROR, f"the identity {found['name']} has ended", remedy
    elif found["ends"] - now < 3 * DAY_S:
        text = f"the identity {found['name']} ends in {(found['ends'] - now) / DAY_S:.1f} days and was not renewed"
        yield _WARNING, text, "is the control plane reached, and does it have --ca?"
    else:
        yield _OK, f"{found['role']} {found['name']}, for {(found['ends'] - now) / DAY_S:.0f} days", ""


def _unit(found: str, role: str) -> Iterator[tuple[Level, str, str]]:
    unit = f"paifang-{role}.service"
    if found == "active":
        yield _OK, f"{unit} runs", ""
    elif found:
        yield _WARNING, f"{unit} is {found}", f"journalctl -u {unit} -n 20; systemctl start {unit}"
    else:
        yield _NOTE, f"there is no {unit}: nobody starts the process with the machine", f"paifang install {role}"


def _configuration(findings: Sequence[tuple[str, str]]) -> Iterator[tuple[Level, str, str]]:
    for level, text in findings:
        yield Level(level), text, "paifang check FILE tells more"
    if not findings:
        yield _OK, "the configuration is valid, and its certificates are", ""


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the table. No roles: every one."""

    what: str
    needs: tuple[str, ...]
    judge: Judge
    roles: tuple[str, ...] = ()


CHECKS: Final = (
    Check("kernel", ("release",), _kernel, ("l4",)),
    Check("python", ("python",), _python),
    Check("openssl", ("openssl", "openssl_number", "openssl_shared"), _openssl, ("l7", "keyserver")),
    Check("files", ("files",), _files, ("l7", "control", "keyserver")),
    Check("cores", ("cores", "quota"), _cores),
    Check("memory", ("memory", "memory_limit"), _memory),
    Check("clock", ("synchronised",), _clock),
    Check("clock", ("skew",), _skew),
    Check("ports", ("wanted_ports", "used_ports"), _ports),
    Check("bpf", ("net.core.bpf_jit_enable",), _jit, ("l4",)),
    Check("bpf", ("kernel.unprivileged_bpf_disabled",), _unprivileged),
    Check("bpf", ("bpffs",), _bpffs, ("l4",)),
    Check("bpf", ("memlock", "release"), _memlock, ("l4",)),
    Check("xdp", ("l4fast",), _program, ("l4",)),
    Check("interface", ("interface",), _interface, ("l4",)),
    Check("interface", ("interface_2",), _interface, ("l4",)),
    Check("multicast", ("multicast", "group"), _multicast, ("l4",)),
    Check("vip", ("vip_method", "vip_program"), _announcer, ("l4",)),
    Check("rp_filter", ("rp_filter", "vip_method"), _rp_filter, ("l4",)),
    Check("arp", ("net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce", "behind"), _arp, ("l7",)),
    Check("vip", ("vips_missing",), _vips_here, ("l7",)),
    Check("queues", ("net.core.somaxconn",), _queue, ("l7", "control", "keyserver")),
    Check("queues", ("net.ipv4.tcp_migrate_req",), _migrate, ("l7",)),
    Check("queues", ("port_low", "port_high"), _port_range, ("l7",)),
    Check("queues", ("net.ipv4.tcp_tw_reuse",), _time_wait, ("l7",)),
    Check(
        "conntrack", ("net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"), _conntrack, ("l4", "l7")
    ),
    Check("state", ("state",), _state),
    Check("identity", ("identity", "role", "now"), _identity),
    Check("unit", ("unit", "role"), _unit),
    Check("configuration", ("configuration",), _configuration),
)
