"""Loads the XDP programs and attaches the first.

The sources are compiled once for each IP version, into programs with maps of the same names and layouts of their own
(bpf/ip.h). That of IPv4 is attached, and hands IPv6 packets to the other by a tail call.

The program is detached when the process ends in order, and stays, forwarding by its last tables, when the process is
killed; the next one takes its place over the same maps (pins.py).
"""

from __future__ import annotations

import ctypes as ct
import errno
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from l4fast.bpf import syscall
from l4fast.bytecode import placeholder
from l4fast.compiler import compiled, library, unloadable
from l4fast.errors import LoadError
from l4fast.interfaces import Interface, interface
from l4fast.sources import SOURCES, reasons

log = logging.getLogger(__name__)

XdpMode = Literal["native", "generic"]
# Addresses of all the nodes' fullnat pools together.
POOL_ADDRESSES_MOST = 1024
# Room for 250 fragments on their way to the daemon; a power of two.
EARLY_RING_BYTES = 1 << 19
# From <linux/if_link.h>
XDP_FLAGS: Mapping[XdpMode, int] = {"generic": 1 << 1, "native": 1 << 2}
IP_VERSIONS = (4, 6)
FUNCTIONS = ("lb", "least", "other", "toll", "untag", "flush", "account", "merge", "release", "tell", "hear")
FUNCTIONS_IPV6 = (*FUNCTIONS, "fragmented")
# SYN_WAYS of types.h
SYN_WAYS = 4
# In place of the sizes of maps that are given when loading (maps.h).
SIZED = 3


class Program:
    """One source: its functions, loaded as XDP programs, and its maps.

    `sizes` of maps, by name, in elements (of rings in bytes), where the source does not say; `constants`: numbers that
    the source takes by LOADED(). `maps`: descriptors of those that there are. Raises LoadError.
    """

    def __init__(
        self, source: Path, functions: tuple[str, ...], defines: Mapping[str, int], *,
        sizes: Mapping[str, int] | None = None, constants: Mapping[str, int] | None = None,
        maps: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        constants = constants or {}
        self.sizes = sizes or {}
        self._bpf = compiled(source, {**defines, **{name: placeholder(name) for name in constants}})
        self._bcc = library()
        self._lib = self._bcc.libbcc.lib
        self._decode: Callable[[Any], Any] = self._bcc.BPF._decode_table_type
        self._maps: dict[str, syscall.Map[Any, Any]] = {}
        self._callbacks: dict[str, Callable[[int, int], None]] = {}
        self._on_record: dict[str, object] = {}  # what the library calls, kept as long as it may
        self._rings: int | None = None
        self._fds: dict[str, int] = {}
        self._map_fds: dict[str, int] = {}
        try:
            self._make_maps(maps or {})
            for name in functions:
                code = self._bpf.linked(name, [self._map_fds[each] for each in self._bpf.maps], constants)
                self._fds[name] = syscall.load_xdp(code, name)
        except OSError as error:
            self.close()
            log.error("%s is refused: %s\n%s", source.name, error.strerror, getattr(error, "words", "")[-6000:])
            raise unloadable(source.name, error) from None

    def _make_maps(self, there: Mapping[str, int]) -> None:
        unknown = self.sizes.keys() - self._bpf.maps.keys()
        assert not unknown, unknown
        for name, spec in sorted(self._bpf.maps.items(), key=lambda item: bool(item[1].inner)):
            if name in there:
                self._map_fds[name] = os.dup(there[name])
                continue
            entries = self.sizes.get(name, spec.max_entries)
            assert entries != SIZED, name
            inner = self._map_fds[spec.inner] if spec.inner else 0
            self._map_fds[name] = syscall.create_map(
                spec.type, spec.key_size, spec.value_size, entries, spec.flags, name, inner
            )

    @property
    def maps(self) -> Mapping[str, int]:
        """Descriptors by name."""
        return self._map_fds

    @property
    def functions(self) -> Collection[str]:
        return self._fds.keys()

    def fd(self, function: str) -> int:
        return self._fds[function]

    def map_fd(self, name: str) -> int:
        return self._map_fds[name]

    def map(self, name: str) -> syscall.Map[Any, Any]:
        """A map with the layouts of its C declaration."""
        if name not in self._maps:
            spec = self._bpf.maps[name]
            key, value = (self._decode(json.loads(layout)) for layout in (spec.key_layout, spec.value_layout))
            self._maps[name] = syscall.Map(
                self._map_fds[name], name, key, value, self.sizes.get(name, spec.max_entries)
            )
        return self._maps[name]

    def open_ring(self, name: str, callback: Callable[[int, int], None]) -> None:
        """`callback`, instead of one given before, gets address and size of each record, during `consume`."""
        known = name in self._callbacks
        self._callbacks[name] = callback
        if known:
            return

        def on_record(_context: int, address: int, size: int) -> int:
            self._callbacks[name](address, size)
            return 0

        self._on_record[name] = function = self._bcc.libbcc._RINGBUF_CB_TYPE(on_record)
        if self._rings is None:
            self._rings = self._lib.bpf_new_ringbuf(self._map_fds[name], function, None)
            opened = bool(self._rings)
        else:
            opened = self._lib.bpf_add_ringbuf(self._rings, self._map_fds[name], function, None) >= 0
        if not opened:
            raise LoadError(f"the ring {name} cannot be mapped ({os.strerror(ct.get_errno())})")

    def consume(self) -> None:
        if self._rings is not None:
            self._lib.bpf_consume_ringbuf(self._rings)

    def attach(self, device: str, function: str, flags: int) -> None:
        """Raises OSError."""
        self._set_link(device, self._fds[function], flags)

    def detach(self, device: str, flags: int) -> None:
        """Raises OSError."""
        self._set_link(device, -1, flags)

    def _set_link(self, device: str, fd: int, flags: int) -> None:
        if self._lib.bpf_attach_xdp(device.encode(), fd, flags) < 0:
            code = ct.get_errno()
            raise OSError(code, os.strerror(code))

    def close(self) -> None:
        if self._rings is not None:
            self._lib.bpf_free_ringbuf(self._rings)
            self._rings = None
        for fds in self._fds, self._map_fds:
            while fds:
                os.close(fds.popitem()[1])


def possible_cpus() -> int:
    """How many values a per-CPU map has (kernel: /sys/devices/system/cpu/possible, "0-3" or "0")."""
    return int(Path("/sys/devices/system/cpu/possible").read_text().strip().split("-")[-1].split(",")[-1]) + 1


@dataclass(frozen=True, slots=True)
class Estate:
    """What an agent leaves to the next: descriptors of its maps, by IP version and name, under what contract they were
    written, and the seed of its half-open flows."""

    contract: int
    seed: int
    maps: Mapping[int, Mapping[str, int]]


class DataPlane:
    """The loaded XDP programs of an L4 node, by IP version. `Tables` writes their maps; one process has one of each.

    `inherited`: the maps are those of an agent before.
    """

    def __init__(
        self, programs: Mapping[int, Program], sizes: Mapping[str, int], estate: Estate, *, inherited: bool
    ) -> None:
        self.programs = programs
        self.sizes = sizes
        self.estate = estate
        self.inherited = inherited
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
        left: Estate | None = None,
    ) -> DataPlane:
        """Compiles and loads; each argument is the size of a table, of which there is one for each IP version.

        `members`: pairs of a listener and a server, at most 65,535. `left` by an agent before: its maps are used, if
        this agent's would mean the same. Raises LoadError.
        """
        if not 2 <= members <= 65535:
            raise LoadError(f"members={members} is out of range; give 2 to 65535")
        sizes = {
            "sessions": sessions,
            "half_open": -(-half_open // SYN_WAYS),
            "half_open_fullnat": half_open,
            "half_open_answers": half_open,
            "fragments": fragments,
            "early_fragments": EARLY_RING_BYTES,
            "vips": listeners + POOL_ADDRESSES_MOST,
            "members": members,
            "member_numbers": members,
            "member_stats": members,
            "loads": members,
            "reverse": members,
            "hops": members + 2,
            "hop_numbers": members + 2,
            "node_macs": members + 2,
            "clients": clients,
            "rings": 3 * listeners,  # those in use, those that replace them, those that a packet may still read
            "access_lists": 2 * access_lists,  # those in use and those that replace them
            "sync_ring": sync_ring_bytes,
        } | dict.fromkeys(("listeners", "listener_stats", "limits", "spendings"), listeners + 1)  # 0 is nobody's
        contract = _contract(sizes)
        inherited = left is not None and left.contract == contract
        maps, seed = (left.maps, left.seed) if left is not None and inherited else ({}, secrets.randbits(63))
        programs = {
            version: Program(
                SOURCES / "lb.c", functions, {"IP_VERSION": version, "SIZED": SIZED}, sizes=sizes,
                constants={"SYN_BUCKETS": sizes["half_open"], "SYN_SEED": seed}, maps=maps.get(version),
            )
            for version, functions in ((4, FUNCTIONS), (6, FUNCTIONS_IPV6))
        }  # fmt: skip
        _join_stages(programs)
        estate = Estate(contract, seed, {version: program.maps for version, program in programs.items()})
        return cls(programs, sizes, estate, inherited=inherited)

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
        if link not in self.interfaces:
            self.use(*self.interfaces[: len(self._attached)], link)
        try:
            self.programs[4].attach(device, "lb", XDP_FLAGS[mode])
        except OSError as error:
            raise LoadError(_attach_advice(device, mode, error)) from None
        self._attached.append((device, mode))

    @property
    def attached(self) -> bool:
        return bool(self._attached)

    def detach(self) -> None:
        """Takes the program off its links; one that has gone is no error."""
        while self._attached:
            device, mode = self._attached.pop()
            try:
                self.programs[4].detach(device, XDP_FLAGS[mode])
            except OSError as error:
                log.warning("detach from %s: %s", device, error.strerror)

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


def _contract(sizes: Mapping[str, int]) -> int:
    """Differs where the same bytes in the maps may mean something else: another layout, another size."""
    texts = [(SOURCES / name).read_text() for name in ("types.h", "maps.h", "stats.h")]
    return int.from_bytes(hashlib.sha256(repr((texts, sorted(sizes.items()))).encode()).digest()[:7], "big")


def _join_stages(programs: Mapping[int, Program]) -> None:
    """Fills the arrays by which programs call one another (types.h: enum stage)."""
    number = reasons(SOURCES / "types.h", "stage")
    found = [(of, f"stage_{name}", of.fd(name)) for of in programs.values() for name in of.functions]
    found += [
        (programs[4], "stage_ipv6", programs[6].fd("lb")),
        (programs[4], "stage_untag_ipv6", programs[6].fd("untag")),
    ]
    for program, stage, fd in found:
        if stage in number:
            stages = program.map("stages")
            stages.put(stages.key(number[stage]), stages.value(fd))


def _attach_advice(device: str, mode: XdpMode, error: OSError) -> str:
    remedy = "use --xdp generic" if mode == "native" else "check `ip link show`"
    if error.errno in (errno.EBUSY, errno.EEXIST):
        remedy = f"another XDP program is there: `ip link set dev {device} xdp off`"
    return f"cannot attach to {device} in {mode} mode ({error.strerror}); {remedy}"
