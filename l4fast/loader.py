"""Compiles the XDP programs, loads them and attaches the first: the only module that knows BCC.

The sources are compiled once for each IP version, into programs with maps of the same names and layouts of their own
(bpf/ip.h). That of IPv4 is attached, and hands IPv6 packets to the other by a tail call.

BCC wants kernel headers and needs almost none of them. It gets a small tree, made afresh in a temporary directory,
that leads to the UAPI headers of linux-libc-dev; this compiles in a tenth of a second and on machines without headers.
BCC rewrites map accesses in the main file only, so that our own headers are expanded in place before, with #line marks.

The program is not pinned: it is detached when the process ends in order, and stays, forwarding by its last tables, when
the process is killed (a restart replaces it atomically, but starts with empty session tables, filled by the peers).
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import logging
import os
import platform
import re
import resource
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from l4fast.bpf import syscall
from l4fast.errors import LoadError
from l4fast.interfaces import Interface, interface

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "bpf"
XdpMode = Literal["native", "generic"]
# Addresses of all the nodes' fullnat pools together.
POOL_ADDRESSES_MOST = 1024
# Room for 250 fragments on their way to the daemon; a power of two.
EARLY_RING_BYTES = 1 << 19
# From <linux/if_link.h>
XDP_FLAGS: Mapping[XdpMode, int] = {"generic": 1 << 1, "native": 1 << 2}
IP_VERSIONS = (4, 6)
# enum stage of types.h
STAGES = ("lb", "least", "toll", "untag", "other")
STAGES_IPV6 = {5: "lb", 6: "untag"}
# SYN_WAYS of types.h
SYN_WAYS = 4

# BCC's name for each architecture's directory below arch/ (bcc: frontends/clang/kbuild_helper.cc).
_ARCHITECTURES = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "riscv64": "riscv",
    "ppc64le": "powerpc",
    "s390x": "s390",
    "loongarch64": "loongarch",
}
_KCONFIG = """\
#define __KERNEL__
#define CONFIG_BPF_SYSCALL
#define __LINUX_BPF_H__  /* BCC brings its own */
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef signed char s8; typedef short s16; typedef int s32; typedef long long s64;
typedef unsigned long size_t; typedef unsigned long uintptr_t; typedef _Bool bool;
#define NULL ((void *)0)
"""


def _multiarch() -> Path:
    """Where the distribution keeps the headers below asm/ of this architecture."""
    machine = platform.machine()
    candidates = [Path(f"/usr/include/{machine}-linux-gnu"), Path(f"/usr/include/{machine}-linux-gnueabi")]
    if machine == "ppc64le":
        candidates.insert(0, Path("/usr/include/powerpc64le-linux-gnu"))
    candidates.append(Path("/usr/include"))
    for candidate in candidates:
        if (candidate / "asm/types.h").exists():
            return candidate
    raise LoadError("the kernel's user headers are missing (asm/types.h); install linux-libc-dev")


@contextlib.contextmanager
def kernel_tree() -> Iterator[None]:
    """Points BCC_KERNEL_SOURCE to a tree with the few headers that it needs."""
    if not Path("/usr/include/linux/bpf.h").exists():
        raise LoadError("the kernel's user headers are missing (linux/bpf.h); install linux-libc-dev")
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise LoadError(f"{platform.machine()} is not supported; supported are {', '.join(_ARCHITECTURES)}")
    with tempfile.TemporaryDirectory(prefix="paifang-bpf-") as name:
        root = Path(name)
        asm = root / f"arch/{architecture}/include/asm"
        for directory in (root / "include/linux", asm):
            directory.mkdir(parents=True)
        (root / "include/uapi").symlink_to("/usr/include")
        (root / f"arch/{architecture}/include/uapi").symlink_to(_multiarch())
        (root / "include/linux/kconfig.h").write_text(_KCONFIG)
        (root / "include/linux/log2.h").touch()
        (root / "include/linux/if.h").write_text("#define IFNAMSIZ 16\n")
        (asm / "page.h").write_text(f"#define PAGE_SIZE {resource.getpagesize()}\n")
        before = os.environ.get("BCC_KERNEL_SOURCE")
        os.environ["BCC_KERNEL_SOURCE"] = name
        try:
            yield
        finally:
            if before is None:
                del os.environ["BCC_KERNEL_SOURCE"]
            else:
                os.environ["BCC_KERNEL_SOURCE"] = before


def stitch(path: Path) -> str:
    """A source with its own #includes expanded in place; compiler messages still name the right file and line."""
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text().splitlines(), 1):
        include = re.fullmatch(r'\s*#include "([\w.]+)"\s*', line)
        if include:
            lines += [stitch(path.parent / include[1]), f'#line {number + 1} "{path.name}"']
        else:
            lines.append(line)
    return "\n".join(lines)


def reasons(header: Path = SOURCES / "stats.h", enum: str = "reason") -> dict[str, int]:
    """The counters' names and numbers, in lower case, from the one place that defines them: `enum reason`."""
    body = re.search(rf"enum {enum} \{{(.*?)\n\}};", header.read_text(), re.S)
    if body is None:
        raise LoadError(f"{header}: no enum {enum}; reinstall paifang")
    names: dict[str, int] = {}
    for name in re.findall(r"^\s*([A-Z]\w+)\b", body[1], re.M):
        if name == f"{enum.upper()}_COUNT":
            return names
        if not name.endswith("_FIRST"):
            names[name.lower()] = len(names)
    raise LoadError(f"{header}: enum {enum} has no {enum.upper()}_COUNT; reinstall paifang")


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """BCC's compiler and the verifier write to descriptor 2; their text belongs into our error."""
    saved = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


class Program:
    """One compiled source: its functions, loaded as XDP programs, and its maps."""

    def __init__(self, source: Path, functions: tuple[str, ...], defines: Mapping[str, int]) -> None:
        try:
            import bcc
        except ImportError as error:
            raise LoadError(f"BCC's Python module is missing ({error}); install python3-bpfcc") from None
        if os.geteuid() != 0:
            raise LoadError("XDP needs root (CAP_BPF, CAP_NET_ADMIN); run as root")
        self._callbacks: dict[str, Callable[[int, int], None]] = {}
        flags = [f"-D{name}={value}" for name, value in defines.items()] + ["-Wno-macro-redefined"]
        with tempfile.TemporaryDirectory(prefix="paifang-bpf-") as directory, kernel_tree():
            messages = Path(directory) / "messages"
            try:
                with _stderr_to(messages):
                    self._bpf = bcc.BPF(text=stitch(source).encode(), cflags=flags)
                    self.functions = {name: self._bpf.load_func(name.encode(), bcc.BPF.XDP) for name in functions}
            except Exception as error:  # BCC raises bare Exception
                text = messages.read_text(errors="replace").strip()
                log.error("%s does not load: %s\n%s", source.name, error, text[-6000:])
                raise LoadError(
                    f"{source.name} does not load ({error}); Linux 5.13 or later with CONFIG_BPF_SYSCALL and "
                    "CONFIG_BPF_JIT is needed, and the log has the compiler's words"
                ) from None

    def fd(self, function: str) -> int:
        return int(self.functions[function].fd)

    def map(self, name: str) -> syscall.Map[Any, Any]:
        """A map with the layouts of its C declaration."""
        table = self._bpf[name.encode()]
        value = getattr(table, "sLeaf", table.Leaf)  # of a per-CPU map: one CPU's
        return syscall.Map(int(table.map_fd), name, table.Key, value, int(table.max_entries))

    def map_fd(self, name: str) -> int:
        return int(self._bpf[name.encode()].map_fd)

    def open_ring(self, name: str, callback: Callable[[int, int], None]) -> None:
        """`callback`, instead of one given before, gets address and size of each record, during `consume`."""
        known = name in self._callbacks
        self._callbacks[name] = callback
        if not known:
            self._bpf[name.encode()].open_ring_buffer(lambda _, address, size: self._callbacks[name](address, size))

    def consume(self) -> None:
        self._bpf.ring_buffer_consume()

    def attach(self, device: str, function: str, flags: int) -> None:
        self._bpf.attach_xdp(device.encode(), self.functions[function], flags)

    def detach(self, device: str, flags: int) -> None:
        self._bpf.remove_xdp(device.encode(), flags)

    def close(self) -> None:
        self._bpf.cleanup()


def possible_cpus() -> int:
    """How many values a per-CPU map has (kernel: /sys/devices/system/cpu/possible, "0-3" or "0")."""
    return int(Path("/sys/devices/system/cpu/possible").read_text().strip().split("-")[-1].split(",")[-1]) + 1


class DataPlane:
    """The loaded XDP programs of an L4 node, by IP version. `Tables` writes their maps; one process has one of each."""

    def __init__(self, programs: Mapping[int, Program], sizes: Mapping[str, int]) -> None:
        self.programs = programs
        self.sizes = sizes
        self.cpus = possible_cpus()
        self._settings_maps = {version: program.map("node_settings") for version, program in programs.items()}
        self.settings: dict[int, Any] = {version: of.get(of.key(0)) for version, of in self._settings_maps.items()}
        self.interfaces: tuple[Interface, ...] = ()
        self._attached: list[tuple[str, XdpMode]] = []

    @classmethod
    def load(
        cls,
        *,
        sessions: int = 1 << 18,
        half_open: int = 1 << 16,
        fragments: int = 1 << 13,
        listeners: int = 1 << 12,
        members: int = 1 << 14,
        clients: int = 1 << 16,
        access_lists: int = 1 << 8,
        sync_ring_bytes: int = 1 << 20,
    ) -> DataPlane:
        """Compiles and loads; each argument is the size of a table, of which there is one for each IP version.

        `members`: pairs of a listener and a server, at most 65,535. Raises LoadError.
        """
        if not 2 <= members <= 65535:
            raise LoadError(f"members={members} is out of range; give 2 to 65535")
        sizes = {
            "MAX_SESSIONS": sessions,
            "MAX_HALF_OPEN": half_open,
            "SYN_BUCKETS": -(-half_open // SYN_WAYS),
            "SYN_SEED": secrets.randbits(63),
            "MAX_FRAGMENTS": fragments,
            "MAX_LISTENERS": listeners + 1,  # index 0 is nobody's
            "MAX_VIPS": listeners + POOL_ADDRESSES_MOST,
            "MAX_MEMBERS": members,
            "MAX_HOPS": members + 2,
            "MAX_CLIENTS": clients,
            "MAX_RINGS": 3 * listeners,  # those in use, those that replace them, those that a packet may still read
            "MAX_ACCESS_LISTS": 2 * access_lists,  # those in use and those that replace them
            "EARLY_RING_PAGES": max(1, EARLY_RING_BYTES // resource.getpagesize()),
            "SYNC_RING_PAGES": max(1, sync_ring_bytes // resource.getpagesize()),
        }
        functions = ("lb", "least", "other", "toll", "untag", "flush", "account", "release")
        programs = {
            version: Program(SOURCES / "lb.c", functions, sizes | {"IP_VERSION": version}) for version in IP_VERSIONS
        }
        for program in programs.values():
            stages = program.map("stages")
            for number, name in enumerate(STAGES):
                stages.put(stages.key(number), stages.value(program.fd(name)))
        entry = programs[4].map("stages")
        for number, name in STAGES_IPV6.items():
            entry.put(entry.key(number), entry.value(programs[6].fd(name)))
        return cls(programs, sizes)

    def set(self, *versions: int, **fields: int | bytes | Sequence[int]) -> None:
        """Writes fields of `struct settings`, of these IP versions or of all; `interfaces` are written by `attach`.

        An address, or several, are given as the bytes that stand in packets.
        """
        for version in versions or IP_VERSIONS:
            settings = self.settings[version]
            for name, value in fields.items():
                if isinstance(value, int):
                    setattr(settings, name, value)
                elif isinstance(value, bytes):
                    field = getattr(type(settings), name)
                    if len(value) != field.size:
                        raise ValueError(f"{name} has {field.size} bytes, not {len(value)}")
                    ct.memmove(ct.addressof(settings) + field.offset, value, field.size)
                else:
                    getattr(settings, name)[:] = value
            of = self._settings_maps[version]
            of.put(of.key(0), settings)

    def use(self, *interfaces: Interface) -> None:
        """These are the node's interfaces, from which its packets come and by which they go."""
        self.interfaces = interfaces
        for version, settings in self.settings.items():
            for slot, field in enumerate(settings.interfaces):
                of = interfaces[slot % len(interfaces)]
                field.index, field.mtu = of.index, of.mtu
                field.mac[:] = of.mac
            self.set(version)

    def attach(self, device: str, mode: XdpMode) -> None:
        """Attaches to a link, in place of whatever program is there; of several links, to one after the other, before
        `Tables.apply`. Raises LoadError."""
        most = len(self.settings[4].interfaces)
        if len(self._attached) == most:
            raise LoadError(f"interface {device}: {most} interfaces are the most; give fewer")
        try:
            link = interface(device)
            for version in IP_VERSIONS:
                devices = self.map("devices", version)
                devices.put(devices.key(len(self._attached)), devices.value(link.index))
        except OSError as error:
            raise LoadError(f"interface {device}: {error.strerror}; `ip link` lists the interfaces") from None
        self.use(*self.interfaces[: len(self._attached)], link)
        try:
            self.programs[4].attach(device, "lb", XDP_FLAGS[mode])
        except Exception as error:  # BCC raises bare Exception
            raise LoadError(_attach_advice(device, mode, str(error))) from None
        self._attached.append((device, mode))

    def detach(self) -> None:
        """Takes the program off its links; one that has gone is no error."""
        while self._attached:
            device, mode = self._attached.pop()
            try:
                self.programs[4].detach(device, XDP_FLAGS[mode])
            except Exception as error:
                log.warning("detach from %s: %s", device, error)

    def close(self) -> None:
        """Detaches and frees the maps."""
        self.detach()
        for program in self.programs.values():
            program.close()

    def map(self, name: str, version: int = 4) -> syscall.Map[Any, Any]:
        return self.programs[version].map(name)

    def run(self, frame: bytes, function: str = "lb", version: int = 4) -> tuple[int, bytes]:
        """One BPF_PROG_TEST_RUN: (XDP action, frame afterwards). `lb` of version 4 takes every frame."""
        action, after, _ = syscall.run_program(self.programs[version].fd(function), frame)
        return action, after


def _attach_advice(device: str, mode: XdpMode, why: str) -> str:
    remedy = "use --xdp generic" if mode == "native" else "check `ip link show`"
    if os.strerror(errno.EBUSY) in why or os.strerror(errno.EEXIST) in why:
        remedy = f"another XDP program is there: `ip link set dev {device} xdp off`"
    return f"cannot attach to {device} in {mode} mode ({why}); {remedy}"
