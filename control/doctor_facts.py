"""Gathers what control/doctor.py judges. Whatever cannot be seen is noted with its reason, and the rest goes on."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import pwd
import resource
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from control import client_tls, doctor_net, prepare
from control.doctor import Facts
from control.node.identity import Identity, IdentityError
from core.errors import ConfigErrors
from core.model import Model, Protocol, Role

SYSCTLS: Final = (
    "net.core.bpf_jit_enable", "kernel.unprivileged_bpf_disabled", "net.ipv4.conf.all.arp_ignore",
    "net.ipv4.conf.all.arp_announce", "net.core.somaxconn", "net.ipv4.tcp_migrate_req", "net.ipv4.tcp_tw_reuse",
)  # fmt: skip
PORTS: Final[Mapping[str, tuple[tuple[str, int, str], ...]]] = {
    "l4": (("tcp", 8474, "metrics"), ("udp", 8848, "session sync")),
    "l7": (("tcp", 8472, "readiness"), ("tcp", 8475, "metrics")),
    "keyserver": (("tcp", 8473, "key server"),),
    "control": (("tcp", 8470, "users' API"), ("tcp", 8471, "nodes' API")),
}
ANNOUNCERS: Final = {"vrrp": "keepalived", "bgp": "bird"}
TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
UNLIMITED: Final = 1 << 60
WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be looked at besides the machine itself."""

    role: str = ""
    interfaces: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    state: Path | None = None
    identity: Path | None = None
    vip: str = "static"
    group: str = "224.0.0.81"
    api: str = ""
    ca: str | None = None


@dataclass(slots=True)
class _Seen:
    seen: dict[str, Any] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, look: Callable[[], Any]) -> None:
        try:
            self.seen[name] = look()
        except OSError as error:
            self.unseen[name] = f"{error.filename or ''} {error.strerror or error}".strip()
        except (ValueError, KeyError, IndexError) as error:
            self.unseen[name] = f"{type(error).__name__}: {error}"


def gather(wanted: Wanted) -> Facts:
    """Blocks, for seconds where the XDP program is compiled."""
    here = _Seen({"role": wanted.role, "now": time.time()})
    _machine(here)
    _kernel(here)
    model = _configuration(here, wanted) if wanted.files else None
    _places(here, wanted)
    _ports(here, wanted, model)
    if wanted.api:
        here.note("skew", lambda: _skew(wanted.api, wanted.ca))
    if wanted.role == "l4":
        _l4(here, wanted)
    if wanted.role == "l7":
        here.seen["behind"] = _behind_l4(model)
        if model is not None and not here.seen["behind"]:
            del here.seen["behind"]  # nobody asks for VIPs by ARP in vain
        elif model is not None:
            here.note("vips_missing", lambda: doctor_net.missing_here(_vips(model)))
    return Facts(here.seen, here.unseen)


def _machine(here: _Seen) -> None:
    here.seen |= {
        "python": list(sys.version_info[:3]), "openssl": ssl.OPENSSL_VERSION,
        "openssl_number": ssl.OPENSSL_VERSION_NUMBER, "release": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip
    here.note("openssl_shared", lambda: "libssl.so" in Path("/proc/self/maps").read_text())
    here.note("files", lambda: _unlimited(resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    here.note("memlock", lambda: resource.getrlimit(resource.RLIMIT_MEMLOCK)[1])
    here.note("quota", _quota)
    here.note("memory", lambda: _meminfo()["MemAvailable"])
    here.note("memory_limit", _memory_limit)
    here.note("synchronised", _synchronised)


def _unlimited(limit: int) -> int:
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit


def _group_file(controller: str, name: str) -> str:
    """A file of this process's control group, of either version; the root's where a container shows no other."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            base = Path("/sys/fs/cgroup") / (controllers and controller)
            for at in (base / path.lstrip("/"), base):
                if (at / name).exists():
                    return (at / name).read_text().strip()
    return ""


def _quota() -> float | None:
    """How many cores' time the control group allows; None: all."""
    both = _group_file("cpu", "cpu.max").split()
    if both:
        return None if both[0] == "max" else int(both[0]) / int(both[1])
    quota, period = _group_file("cpu", "cpu.cfs_quota_us"), _group_file("cpu", "cpu.cfs_period_us")
    return None if not quota or int(quota) < 0 else int(quota) / int(period)


def _memory_limit() -> int | None:
    limit = _group_file("memory", "memory.max") or _group_file("memory", "memory.limit_in_bytes")
    return None if limit in ("", "max") or int(limit) > UNLIMITED else int(limit)


def _meminfo() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}


def _synchronised() -> bool:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(512))
    if state < 0:
        raise OSError(ctypes.get_errno(), "adjtimex is not allowed here")
    return bool(state != TIME_ERROR)


def _kernel(here: _Seen) -> None:
    for name in SYSCTLS:
        here.note(name, lambda name=name: int(_sysctl(name)))  # type: ignore[misc]
    for name in ("net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"):
        loaded = Path("/proc/sys", *name.split(".")).exists()  # without the module nothing is tracked
        here.note(name, lambda name=name, loaded=loaded: int(_sysctl(name)) if loaded else 0)  # type: ignore[misc]
    here.note("bpffs", lambda: any(line.split()[1:3] == ["/sys/fs/bpf", "bpf"] for line in _mounts()))
    for at, name in enumerate(("port_low", "port_high")):
        here.note(name, lambda at=at: int(_sysctl("net.ipv4.ip_local_port_range").split()[at]))  # type: ignore[misc]


def _mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


def _sysctl(name: str) -> str:
    return Path("/proc/sys", *name.split(".")).read_text().strip()


def _configuration(here: _Seen, wanted: Wanted) -> Model | None:
    """The files' model; None where they are not valid."""
    findings: list[tuple[str, str]] = []
    model = None
    try:
        document = prepare.read(*wanted.files)
        model = document.model
        prepared = prepare.inline(document)
        findings = [("warning", str(warning)) for warning in (*prepared.warnings, *prepared.notes)]
    except ConfigErrors as errors:
        findings = [("error", str(error)) for error in errors.errors]
    here.seen["configuration"] = findings
    return model


def _behind_l4(model: Model | None) -> bool:
    return model is not None and any(node.role is Role.L4 for node in model.nodes.values())


def _vips(model: Model) -> list[str]:
    """Those of http and https listeners."""
    web = [each for each in model.listeners.values() if each.protocol in (Protocol.HTTP, Protocol.HTTPS)]
    return [vip for each in web for vip in model.instances[each.instance].vips]


def _ports(here: _Seen, wanted: Wanted, model: Model | None) -> None:
    ports = list(PORTS.get(wanted.role, ()))
    if model is not None and wanted.role == "l7":
        web = [each for each in model.listeners.values() if each.protocol in (Protocol.HTTP, Protocol.HTTPS)]
        ports += dict.fromkeys(("tcp", each.port, f"listener {each.name}") for each in web if each.enabled)
    if ports:
        here.seen["wanted_ports"] = ports
        here.note("used_ports", doctor_net.listening)


def _places(here: _Seen, wanted: Wanted) -> None:
    if wanted.state is not None:
        here.note("state", lambda: _state(wanted.state))  # type: ignore[arg-type]
    if wanted.identity is not None:
        here.note("identity", lambda: _identity(wanted.identity))  # type: ignore[arg-type]
    if wanted.role:
        here.note("unit", lambda: _unit(f"paifang-{wanted.role}.service"))


def _state(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"path": str(path), "exists": False}
    status, room = path.stat(), os.statvfs(path)
    return {
        "path": str(path), "exists": True, "writable": os.access(path, os.W_OK | os.X_OK),
        "mode": status.st_mode & 0o777, "free": room.f_bavail * room.f_frsize,
        "user": pwd.getpwuid(os.geteuid()).pw_name,
    }  # fmt: skip


def _identity(directory: Path) -> dict[str, Any]:
    """Raises PermissionError."""
    if directory.exists() and not os.access(directory / "key.pem", os.R_OK) and (directory / "key.pem").exists():
        raise PermissionError(f"{directory}: only its owner and root may look")
    try:
        found = Identity.load(directory)
    except IdentityError as error:
        return {"why": str(error)}
    return {"role": found.role, "name": found.name, "ends": found.ends}


def _unit(name: str) -> str:
    """Its state; empty where there is none. Raises OSError where there is no systemd."""
    program = shutil.which("systemctl")
    if program is None or not Path("/run/systemd/system").exists():
        raise OSError("there is no systemd on this machine")
    shown = subprocess.run(
        [program, "show", "-p", "LoadState,ActiveState", "--value", name], capture_output=True, text=True, check=False
    )
    load, active = [*shown.stdout.split(), "", ""][:2]
    return "" if load in ("not-found", "") else active


def _skew(api: str, ca: str | None) -> float:
    """How far this clock is ahead of the control plane's, in seconds; within a second it is 0. Raises OSError."""
    tls = client_tls.context(ca) if api.startswith("https://") else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
    before = time.time()
    try:
        with opener.open(f"{api.rstrip('/')}/v1/healthz", timeout=5) as response:
            told = response.headers["Date"]
    except urllib.error.URLError as error:
        raise OSError(f"{api}: {error.reason}") from None
    after = time.time()
    theirs = parsedate_to_datetime(told).timestamp()  # cut off to the second
    return 0.0 if before - 1 <= theirs + 1 and theirs <= after + 1 else (before + after) / 2 - (theirs + 0.5)


def _l4(here: _Seen, wanted: Wanted) -> None:
    here.note("l4fast", _data_plane)
    for name, device in zip(("interface", "interface_2"), wanted.interfaces, strict=False):
        here.note(name, lambda device=device: doctor_net.interface(device))  # type: ignore[misc]
    here.seen |= {"group": wanted.group, "vip_method": wanted.vip}
    here.note("multicast", lambda: doctor_net.multicast(wanted.group, next(iter(wanted.interfaces), "")))
    if wanted.vip in ANNOUNCERS:
        here.seen["vip_program"] = shutil.which(ANNOUNCERS[wanted.vip], path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    names = ("all", *wanted.interfaces)
    here.note("rp_filter", lambda: {name: int(_sysctl_of(name, "rp_filter")) for name in names})


def _sysctl_of(device: str, name: str) -> str:
    """A device's name may have dots."""
    return Path("/proc/sys/net/ipv4/conf", device, name).read_text().strip()


def _data_plane() -> dict[str, Any]:
    """What `python -m l4fast doctor` says: BCC and the program are its own. Raises OSError or ValueError."""
    argv = [sys.executable, "-m", "l4fast", "doctor"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer within {WAIT_S:g} s") from None
    if done.returncode:
        raise OSError(done.stderr.strip()[-300:] or f"exit code {done.returncode}")
    return dict(json.loads(done.stdout))
