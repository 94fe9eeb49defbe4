"""The bpf(2) system call for what BCC 0.26 does not wrap or does item by item: map access with ctypes layouts, batches,
inner maps, test runs. Structures and command numbers are those of <linux/bpf.h>.

Layouts of keys and values are ctypes structures that BCC derived from the C source; nothing here knows a field.
"""

from __future__ import annotations

import ctypes as ct
import errno
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "s390x": 351}

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE = 0, 1, 2, 3
PROG_LOAD = 5
PROG_TEST_RUN = 10
MAP_LOOKUP_BATCH, MAP_UPDATE_BATCH, MAP_DELETE_BATCH = 24, 26, 27

OBJ_PIN, OBJ_GET = 6, 7
BPF_FS_MAGIC = 0xCAFE4A11  # <linux/magic.h>

SMALLEST_FRAME = 14  # what a test run of an XDP program accepts
MAP_TYPE_ARRAY, MAP_TYPE_LPM_TRIE = 2, 11
F_NO_PREALLOC, F_INNER_MAP = 0x1, 0x1000
F_TEST_LIVE_FRAMES = 0x2
PROG_TYPE_XDP = 6
VERIFIER_LOG_BYTES = 1 << 24

_libc = ct.CDLL(None, use_errno=True)

K = TypeVar("K", bound="ct.Structure | ct._SimpleCData[Any]")
V = TypeVar("V", bound="ct.Structure | ct._SimpleCData[Any]")


class _CreateAttr(ct.Structure):
    _fields_ = (
        ("map_type", ct.c_uint32),
        ("key_size", ct.c_uint32),
        ("value_size", ct.c_uint32),
        ("max_entries", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
        ("numa_node", ct.c_uint32),
        ("map_name", ct.c_char * 16),
    )


class _LoadAttr(ct.Structure):
    _fields_ = (
        ("prog_type", ct.c_uint32),
        ("count", ct.c_uint32),
        ("instructions", ct.c_uint64),
        ("license", ct.c_uint64),
        ("log_level", ct.c_uint32),
        ("log_size", ct.c_uint32),
        ("log", ct.c_uint64),
        ("kern_version", ct.c_uint32),
        ("prog_flags", ct.c_uint32),
        ("name", ct.c_char * 16),
    )


class VerifierError(OSError):
    """A program that the kernel refuses, and `words`: why."""

    def __init__(self, code: int | None, message: str | None, words: str) -> None:
        super().__init__(code, message)
        self.words = words


class _ElementAttr(ct.Structure):
    _fields_ = (
        ("map_fd", ct.c_uint32),
        ("key", ct.c_uint64),
        ("value", ct.c_uint64),
        ("flags", ct.c_uint64),
    )


class _BatchAttr(ct.Structure):
    _fields_ = (
        ("in_batch", ct.c_uint64),
        ("out_batch", ct.c_uint64),
        ("keys", ct.c_uint64),
        ("values", ct.c_uint64),
        ("count", ct.c_uint32),
        ("map_fd", ct.c_uint32),
        ("elem_flags", ct.c_uint64),
        ("flags", ct.c_uint64),
    )


class _TestRunAttr(ct.Structure):
    _fields_ = (
        ("prog_fd", ct.c_uint32),
        ("retval", ct.c_uint32),
        ("data_size_in", ct.c_uint32),
        ("data_size_out", ct.c_uint32),
        ("data_in", ct.c_uint64),
        ("data_out", ct.c_uint64),
        ("repeat", ct.c_uint32),
        ("duration", ct.c_uint32),
        ("ctx_size_in", ct.c_uint32),
        ("ctx_size_out", ct.c_uint32),
        ("ctx_in", ct.c_uint64),
        ("ctx_out", ct.c_uint64),
        ("flags", ct.c_uint32),
        ("cpu", ct.c_uint32),
        ("batch_size", ct.c_uint32),
    )


class _XdpContext(ct.Structure):
    """struct xdp_md: lengths in place of pointers."""

    _fields_ = (
        ("data", ct.c_uint32),
        ("data_end", ct.c_uint32),
        ("data_meta", ct.c_uint32),
        ("ingress_ifindex", ct.c_uint32),
        ("rx_queue_index", ct.c_uint32),
        ("egress_ifindex", ct.c_uint32),
    )


def bpf(command: int, attributes: ct.Structure) -> int:
    """bpf(2). Raises OSError."""
    number = _SYS_BPF[platform.machine()]
    result = int(_libc.syscall(number, command, ct.byref(attributes), ct.sizeof(attributes)))
    if result < 0:
        code = ct.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def create_map(
    map_type: int, key_size: int, value_size: int, max_entries: int, flags: int, name: str, inner: int = 0
) -> int:
    """A new map. `inner`: descriptor of a map like those that it will hold. The caller closes the descriptor."""
    return bpf(
        MAP_CREATE, _CreateAttr(map_type, key_size, value_size, max_entries, flags, inner, 0, name.encode()[:15])
    )


def load_xdp(instructions: bytes, name: str) -> int:
    """A new XDP program. The caller closes the descriptor. Raises VerifierError."""
    attributes = _LoadAttr(
        prog_type=PROG_TYPE_XDP,
        count=len(instructions) // 8,
        instructions=_address(instructions),
        license=_address(b"GPL\0"),
        name=name.encode()[:15],
    )
    try:
        return bpf(PROG_LOAD, attributes)
    except OSError:
        words = ct.create_string_buffer(VERIFIER_LOG_BYTES)
        attributes.log_level, attributes.log_size, attributes.log = 1, len(words), ct.addressof(words)
        try:
            return bpf(PROG_LOAD, attributes)
        except OSError as error:
            raise VerifierError(error.errno, error.strerror, words.value.decode(errors="replace")) from None


class _ObjectAttr(ct.Structure):
    _fields_ = (("pathname", ct.c_uint64), ("bpf_fd", ct.c_uint32), ("file_flags", ct.c_uint32))


def pin(fd: int, path: Path) -> None:
    """Gives a map or program a name in bpffs. Raises OSError."""
    name = os.fsencode(path)  # lives as long as the call
    bpf(OBJ_PIN, _ObjectAttr(_address(name), fd, 0))


def pinned(path: Path) -> int:
    """The map or program of this name in bpffs; the caller closes the descriptor. Raises OSError."""
    name = os.fsencode(path)
    return bpf(OBJ_GET, _ObjectAttr(_address(name), 0, 0))


def is_bpffs(path: Path) -> bool:
    """statfs(2)."""
    room = (ct.c_long * 64)()
    return not _libc.statfs(os.fsencode(path), ct.byref(room)) and room[0] == BPF_FS_MAGIC


def update_batch(map_fd: int, keys: ct.Array[Any] | bytes, values: ct.Array[Any] | bytes, count: int) -> int:
    """Writes `count` elements in one call; returns how many were written when the map refuses one for lack of room."""
    attributes = _BatchAttr(0, 0, _address(keys), _address(values), count, map_fd, 0, 0)
    try:
        bpf(MAP_UPDATE_BATCH, attributes)
    except OSError as error:
        if error.errno not in (errno.E2BIG, errno.ENOMEM):
            raise
    return int(attributes.count)


def run_program(program_fd: int, data: bytes, repeat: int = 1) -> tuple[int, bytes, int]:
    """Runs an XDP program over a frame of at least 14 bytes: (verdict, frame afterwards, nanoseconds a run)."""
    out = ct.create_string_buffer(len(data) + 512)
    attributes = _TestRunAttr(
        prog_fd=program_fd,
        data_size_in=len(data),
        data_size_out=len(out),
        data_in=_address(data),
        data_out=ct.addressof(out),
        repeat=repeat,
    )
    bpf(PROG_TEST_RUN, attributes)
    return int(attributes.retval), out.raw[: attributes.data_size_out], int(attributes.duration)


class Runner:
    """Runs one XDP program over and over, on frames that nobody wants back: half the cost of `run_program`."""

    def __init__(self, program_fd: int, size: int) -> None:
        """`size`: of the largest frame, 3,520 bytes at most (a page less head and tail room)."""
        self._frame = (ct.c_char * size)()
        self._address = ct.addressof(self._frame)
        self._attributes = _TestRunAttr(prog_fd=program_fd, data_in=self._address, repeat=1)
        self._call = (_SYS_BPF[platform.machine()], PROG_TEST_RUN, ct.byref(self._attributes), ct.sizeof(_TestRunAttr))

    def run(self, *parts: bytes) -> int:
        """What the program returns for a frame of these parts. Raises OSError."""
        size = 0
        for part in parts:
            assert size + len(part) <= len(self._frame), "the caller's frame"
            ct.memmove(self._address + size, part, len(part))
            size += len(part)
        self._attributes.data_size_in, self._attributes.data_size_out = size, 0  # the kernel writes the latter
        if _libc.syscall(*self._call) < 0:
            code = ct.get_errno()
            raise OSError(code, os.strerror(code))
        return int(self._attributes.retval)


def run_live(program_fd: int, data: bytes, repeat: int, ifindex: int) -> None:
    """Runs an XDP program `repeat` times over copies of a frame, as if the link had received them: what it sends is
    sent, what it passes goes to the kernel (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18). The link needs a native XDP
    program."""
    context = _XdpContext(data_end=len(data), ingress_ifindex=ifindex)
    attributes = _TestRunAttr(
        prog_fd=program_fd,
        data_size_in=len(data),
        data_in=_address(data),
        repeat=repeat,
        ctx_size_in=ct.sizeof(context),
        ctx_in=ct.addressof(context),
        flags=F_TEST_LIVE_FRAMES,
    )
    bpf(PROG_TEST_RUN, attributes)


def _address(buffer: ct.Array[Any] | bytes) -> int:
    if isinstance(buffer, bytes):
        return ct.cast(ct.c_char_p(buffer), ct.c_void_p).value or 0
    return ct.addressof(buffer)


class Map(Generic[K, V]):
    """One map: keys and values are ctypes objects of the types that its C declaration has."""

    def __init__(self, fd: int, name: str, key: type[K], value: type[V], max_entries: int) -> None:
        self.fd = fd
        self.name = name
        self.key = key
        self.value = value
        self.max_entries = max_entries

    def get(self, key: K) -> V | None:
        value = self.value()
        return value if self._element(MAP_LOOKUP, key, value) else None

    def entry(self, number: int) -> V:
        """Of an array. Raises IndexError."""
        value = self.get(self.key(number))
        if value is None:
            raise IndexError(number)
        return value

    def get_per_cpu(self, key: K, cpus: int) -> list[V]:
        """One value for each possible CPU; the kernel rounds each up to eight bytes."""
        size = ct.sizeof(self.value)
        step = (size + 7) // 8 * 8
        raw = ct.create_string_buffer(step * cpus)
        self._element(MAP_LOOKUP, key, raw)
        return [cast(V, self.value.from_buffer(raw, step * cpu)) for cpu in range(cpus)]

    def first_per_cpu(self, count: int, cpus: int) -> memoryview:
        """The first `count` elements of a per-CPU array as 64-bit words: of each element, each CPU's value in turn
        (Linux 5.13)."""
        words = (ct.sizeof(self.value) + 7) // 8 * cpus
        keys, cursor = (ct.c_uint32 * count)(), ct.c_uint32()
        values = (ct.c_uint64 * (words * count))()
        attributes = _BatchAttr(
            0, ct.addressof(cursor), ct.addressof(keys), ct.addressof(values), count, self.fd, 0, 0
        )  # fmt: skip
        try:
            bpf(MAP_LOOKUP_BATCH, attributes)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the end of the array
                raise OSError(error.errno, f"map {self.name}: {error.strerror}") from None
        return memoryview(values).cast("B").cast("Q")

    def put_per_cpu(self, key: K, values: Sequence[V]) -> None:
        step = (ct.sizeof(self.value) + 7) // 8 * 8
        raw = ct.create_string_buffer(step * len(values))
        for cpu, value in enumerate(values):
            ct.memmove(ct.addressof(raw) + step * cpu, ct.byref(value), ct.sizeof(value))
        self._element(MAP_UPDATE, key, raw)

    def put(self, key: K, value: V) -> None:
        self._element(MAP_UPDATE, key, value)

    def delete(self, key: K) -> bool:
        """Says whether it was there."""
        return self._element(MAP_DELETE, key, None)

    def put_many(self, keys: bytes, values: bytes, count: int) -> int:
        """Writes `count` elements that stand in two blocks; returns how many had room."""
        return update_batch(self.fd, keys, values, count)

    def delete_many(self, keys: bytes, count: int) -> int:
        """Deletes `count` elements; returns how many were there."""
        size, done = ct.sizeof(self.key), 0
        while done < count:
            block = keys[done * size :]
            attributes = _BatchAttr(0, 0, _address(block), 0, count - done, self.fd, 0, 0)
            try:
                bpf(MAP_DELETE_BATCH, attributes)
                return done + int(attributes.count)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
            # The batch stops at a key that has gone meanwhile: step over it.
            done += int(attributes.count) + 1
        return done

    def blocks(self, batch: int) -> Iterator[tuple[bytes, bytes, int]]:
        """Everything in the map, as (keys, values, count) of at most about `batch` elements.

        Elements that are added or deleted meanwhile may or may not be seen; no bucket is read twice.
        """
        key_size, value_size = ct.sizeof(self.key), ct.sizeof(self.value)
        cursor = ct.create_string_buffer(max(key_size, 4))
        first = True
        while True:
            keys = ct.create_string_buffer(key_size * batch)
            values = ct.create_string_buffer(value_size * batch)
            attributes = _BatchAttr(
                0 if first else ct.addressof(cursor), ct.addressof(cursor), ct.addressof(keys), ct.addressof(values),
                batch, self.fd, 0, 0,
            )  # fmt: skip
            ended = False
            try:
                bpf(MAP_LOOKUP_BATCH, attributes)
            except OSError as error:
                if error.errno == errno.ENOSPC:  # one bucket holds more than the batch
                    batch *= 2
                    continue
                if error.errno != errno.ENOENT:
                    raise
                ended = True
            count = int(attributes.count)
            first = False
            if count:
                yield keys.raw[: count * key_size], values.raw[: count * value_size], count
            if ended:
                return

    def _element(self, command: int, key: ct._CData, value: ct._CData | None) -> bool:
        address = ct.addressof(value) if value is not None else 0
        attributes = _ElementAttr(self.fd, ct.addressof(key), address, 0)
        try:
            bpf(command, attributes)
        except OSError as error:
            if error.errno == errno.ENOENT and command != MAP_UPDATE:
                return False
            raise OSError(error.errno, f"map {self.name}: {error.strerror}") from None
        return True
