"""The C sources as the compiler wants them, and what Python has to know of them.

BCC wants kernel headers and needs almost none of them. It gets a small tree, made afresh in a temporary directory,
that leads to the UAPI headers of linux-libc-dev; this compiles on machines without headers, and fast. BCC rewrites map
accesses in the main file only, so that our own headers are expanded in place before, with #line marks.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from l4fast.errors import LoadError

SOURCES = Path(__file__).parent / "bpf"

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
