"""Compiles the sources: the only module that imports BCC.

BCC compiles, and says what keys and values look like; maps and programs are made by bpf(2) from what it gives
(bytecode.py), which is kept for the next start. Of its library the loader also uses rings and attaching.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import hashlib
import logging
import os
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from l4fast.bytecode import FORMAT, Bytecode, MapSpec, kept, placed
from l4fast.errors import LoadError
from l4fast.sources import kernel_tree, stitch

log = logging.getLogger(__name__)


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


def compiled(source: Path, defines: Mapping[str, int | str]) -> Bytecode:
    """The bytecode of a source, from an earlier compilation if there was one. Raises LoadError."""
    bcc = library()
    text = stitch(source)
    flags = [f"-D{name}={value}" for name, value in defines.items()] + ["-Wno-macro-redefined"]
    release = Path("/usr/include/linux/version.h")
    depends = (
        FORMAT, bcc.__version__, platform.release(), platform.machine(), release.exists() and release.read_text(), text,
        flags,
    )  # fmt: skip
    key = hashlib.sha256(repr(depends).encode()).hexdigest()[:32]
    return kept(key, lambda: _compile(bcc, source.name, text, flags))


def library() -> Any:
    """BCC's Python module. Raises LoadError."""
    try:
        import bcc
    except ImportError as error:
        raise LoadError(f"BCC's Python module is missing ({error}); install python3-bpfcc") from None
    if os.geteuid() != 0:
        raise LoadError("XDP needs root (CAP_BPF, CAP_NET_ADMIN); run as root")
    return bcc


def _compile(bcc: Any, name: str, text: str, flags: Sequence[str]) -> Bytecode:
    """Raises LoadError."""
    log.info("compiling %s", name)
    with tempfile.TemporaryDirectory(prefix="paifang-bpf-") as directory, kernel_tree():
        messages = Path(directory) / "messages"
        try:
            with _stderr_to(messages):
                module = bcc.BPF(text=text.encode(), cflags=flags)
        except Exception as error:  # BCC raises bare Exception
            words = messages.read_text(errors="replace").strip()
            log.error("%s does not compile: %s\n%s", name, error, words[-6000:])
            raise unloadable(name, error) from None
    try:
        return _extracted(bcc, module.module, dict(re.findall(r'BPF_ARRAY_OF_MAPS\((\w+), "(\w+)"', text)))
    finally:
        module.cleanup()


def unloadable(name: str, error: Exception) -> LoadError:
    return LoadError(
        f"{name} does not load ({error}); Linux 5.13 or later with CONFIG_BPF_SYSCALL and CONFIG_BPF_JIT is needed, "
        "and the log has the words of the compiler or the kernel"
    )


def _extracted(bcc: Any, module: int, inner: Mapping[str, str]) -> Bytecode:
    """What BCC has compiled. `inner`: patterns of the maps that maps hold."""
    lib = bcc.libbcc.lib
    lib.bpf_num_tables.argtypes, lib.bpf_num_tables.restype = [ct.c_void_p], ct.c_size_t
    for call in lib.bpf_table_key_size_id, lib.bpf_table_leaf_size_id:
        call.argtypes, call.restype = [ct.c_void_p, ct.c_size_t], ct.c_size_t
    lib.bpf_table_name.argtypes, lib.bpf_table_name.restype = [ct.c_void_p, ct.c_size_t], ct.c_char_p
    maps: dict[str, MapSpec] = {}
    places: dict[int, int] = {}
    for number in range(lib.bpf_num_tables(module)):
        name = lib.bpf_table_name(module, number)
        places[lib.bpf_table_fd(module, name)] = number
        maps[name.decode()] = MapSpec(
            type=lib.bpf_table_type_id(module, number),
            key_size=lib.bpf_table_key_size_id(module, number),
            value_size=lib.bpf_table_leaf_size_id(module, number),
            max_entries=lib.bpf_table_max_entries_id(module, number),
            flags=lib.bpf_table_flags_id(module, number),
            inner=inner.get(name.decode(), ""),
            key_layout=lib.bpf_table_key_desc(module, name).decode(),
            value_layout=lib.bpf_table_leaf_desc(module, name).decode(),
        )
    functions = {}
    for number in range(lib.bpf_num_functions(module)):
        name = lib.bpf_function_name(module, number)
        code = ct.string_at(lib.bpf_function_start(module, name), lib.bpf_function_size(module, name))
        functions[name.decode()] = placed(code, places.__getitem__)
    return Bytecode(maps, functions)
