"""A compiled source, apart from the compiler that made it: programs, and what maps they want.

Compiling takes seconds, and gives the same for the same source whatever the sizes of the maps: so they are given when
the programs are loaded, and the result is kept on disk (`kept`). In the instructions stand, until they are loaded, the
places of the maps in `Bytecode.maps`, and in place of each number that differs from load to load its `placeholder`.

What is kept is loaded into the kernel as it is: nobody but root may write to its directory, or it is not used.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from control.node.files import write_atomic

log = logging.getLogger(__name__)

FORMAT: Final = 1  # of a kept file
KEPT_FILES: Final = 32  # two a release, and the benchmarks' and tests' own

_INSTRUCTION: Final = struct.Struct("=BBhi")  # struct bpf_insn: code, registers, offset, immediate
_LOAD_64: Final = 0x18  # BPF_LD | BPF_DW | BPF_IMM, of two instructions
_PSEUDO_MAP_FD: Final = 1


@dataclass(frozen=True, slots=True)
class MapSpec:
    """What BPF_MAP_CREATE wants. `inner`: the map that is the pattern of those in this one, or nothing. Layouts are
    BCC's descriptions of key and value."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    inner: str
    key_layout: str
    value_layout: str


@dataclass(frozen=True, slots=True)
class Bytecode:
    """Maps by name, patterns before those that need them; instructions of each function."""

    maps: Mapping[str, MapSpec]
    functions: Mapping[str, bytes]

    def linked(self, function: str, fds: Sequence[int], constants: Mapping[str, int]) -> bytes:
        """The instructions for the kernel. `fds`: of the maps, in their order; `constants`: below 2**63."""
        numbers = {placeholder(name): value for name, value in constants.items()}

        def change(registers: int, number: int) -> int:
            if registers >> 4 == _PSEUDO_MAP_FD:
                return fds[number]
            return number if registers >> 4 else numbers.get(number, number)

        return _with_numbers(self.functions[function], change)


def placed(instructions: bytes, place: Callable[[int], int]) -> bytes:
    """The instructions with each map's descriptor replaced by its place."""
    return _with_numbers(
        instructions, lambda registers, number: place(number) if registers >> 4 == _PSEUDO_MAP_FD else number
    )


def placeholder(name: str) -> int:
    """The number that stands for the constant in compiled code; it is compiled in by this define."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def _with_numbers(instructions: bytes, change: Callable[[int, int], int]) -> bytes:
    """The instructions, the number of each 64-bit load replaced by what `change` makes of its registers and itself."""
    out = bytearray(instructions)
    at = 0
    while at < len(out):
        code, registers, offset, low = _INSTRUCTION.unpack_from(out, at)
        if code != _LOAD_64:
            at += _INSTRUCTION.size
            continue
        *second, high = _INSTRUCTION.unpack_from(out, at + _INSTRUCTION.size)
        number = change(registers, (high & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF)
        low, high = struct.unpack("=ii", struct.pack("=II", number & 0xFFFFFFFF, number >> 32))
        _INSTRUCTION.pack_into(out, at, code, registers, offset, low)
        _INSTRUCTION.pack_into(out, at + _INSTRUCTION.size, *second, high)
        at += 2 * _INSTRUCTION.size
    return bytes(out)


# Keeping


def directory() -> Path:
    """Where compiled sources are kept (systemd.exec(5): CacheDirectory=)."""
    return Path(os.environ.get("CACHE_DIRECTORY", "/var/cache/paifang"))


def kept(key: str, make: Callable[[], Bytecode]) -> Bytecode:
    """What was made for this key before, on this machine, or what `make` gives now. `key`: a name for a file, of all
    that the result depends on."""
    path = directory() / f"bpf-{key}.json"
    try:
        directory().mkdir(mode=0o700, parents=True, exist_ok=True)
        _only_roots(directory())
        if found := _read(path):
            return found
        with _alone(path):
            found = _read(path)  # another process may have made it meanwhile
            made = found or make()
            if found is None:
                write_atomic(path, _dump(made))
                _forget_old(directory())
            return made
    except OSError as error:
        log.warning("%s: %s; compiled programs are not kept, so that each start takes seconds", directory(), error)
        return make()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Several nodes of one machine that start together compile once."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _only_roots(path: Path) -> None:
    """Raises PermissionError."""
    found = path.lstat()
    if found.st_uid != os.geteuid() or stat.S_ISLNK(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o022:
        raise PermissionError(f"others may write to {path}; `chown root` and `chmod go-w` it")


def _read(path: Path) -> Bytecode | None:
    if not os.path.lexists(path):
        return None
    _only_roots(path)
    try:
        document = json.loads(path.read_bytes())
        maps = {name: MapSpec(**spec) for name, spec in document["maps"].items()}
        functions = {name: base64.b64decode(text, validate=True) for name, text in document["functions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        log.warning("%s is damaged (%s); compiling again", path, error)
        return None
    return Bytecode(maps, functions)


def _dump(bytecode: Bytecode) -> bytes:
    maps = {name: asdict(spec) for name, spec in bytecode.maps.items()}
    functions = {name: base64.b64encode(code).decode() for name, code in bytecode.functions.items()}
    return json.dumps({"maps": maps, "functions": functions}).encode()


def _forget_old(path: Path) -> None:
    files = sorted(path.glob("bpf-*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[KEPT_FILES:]:
        file.unlink(missing_ok=True)
        file.with_suffix(".lock").unlink(missing_ok=True)
