"""The loader: stitched sources, the reasons' names, compiling without kernel headers, errors that say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4fast import compiler, loader, sources
from l4fast.bpf import syscall
from l4fast.errors import LoadError
from l4fast.loader import DataPlane, Program
from l4fast.sources import SOURCES, kernel_tree, reasons, stitch


def test_own_includes_are_expanded_in_place_and_lines_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text('#include <linux/bpf.h>\n#include "a.h"\nint x;\n')
    (tmp_path / "a.h").write_text('int a;\n#include "b.h"\nint c;\n')
    (tmp_path / "b.h").write_text("int b;\n")
    assert stitch(tmp_path / "main.c").splitlines() == [
        '#line 1 "main.c"',
        "#include <linux/bpf.h>",
        '#line 1 "a.h"',
        "int a;",
        '#line 1 "b.h"',
        "int b;",
        '#line 3 "a.h"',
        "int c;",
        '#line 3 "main.c"',
        "int x;",
    ]


def test_reasons_are_numbered_as_the_compiler_numbers_them(tmp_path: Path) -> None:
    header = tmp_path / "stats.h"
    header.write_text(
        "enum reason {\n    TX_A, /* B, C */\n\n    PASS_FIRST,\n    PASS_B = PASS_FIRST,\n    DROP_FIRST,\n"
        "    DROP_C = DROP_FIRST,\n    DROP_D,\n    REASON_COUNT,\n    LB_NEXT = REASON_COUNT,\n};\n"
    )
    assert reasons(header) == {"tx_a": 0, "pass_b": 1, "drop_c": 2, "drop_d": 3}


@pytest.mark.parametrize("text", ["enum other {\n    A,\n};\n", "enum reason {\n    A,\n};\n"])
def test_a_header_without_reasons_is_refused(tmp_path: Path, text: str) -> None:
    header = tmp_path / "stats.h"
    header.write_text(text)
    with pytest.raises(LoadError, match="reinstall paifang"):
        reasons(header)


def test_every_reason_says_what_becomes_of_the_packet() -> None:
    names = list(reasons())
    kinds = [name.partition("_")[0] for name in names]
    assert sorted(set(kinds), key=kinds.index) == ["tx", "pass", "drop", "event"]
    assert kinds == sorted(kinds, key=["tx", "pass", "drop", "event"].index)


def test_every_reason_is_in_the_manual() -> None:
    manual = (Path(__file__).parents[2] / "docs/l4.md").read_text()
    assert [name for name in reasons() if f"| {name} |" not in manual] == []


@pytest.mark.parametrize("before", [None, "/somewhere"])
def test_the_kernel_tree_is_temporary(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    if before:
        monkeypatch.setenv("BCC_KERNEL_SOURCE", before)
    with kernel_tree():
        root = Path(os.environ["BCC_KERNEL_SOURCE"])
        assert (root / "include/uapi/linux/bpf.h").exists()
        assert next(root.glob("arch/*/include/uapi/asm/types.h")).exists()
    assert not root.exists()
    assert os.environ.get("BCC_KERNEL_SOURCE") == before


@pytest.mark.parametrize(("machine", "directory"), [("x86_64", "x86"), ("aarch64", "arm64"), ("riscv64", "riscv")])
def test_the_kernel_tree_of_other_architectures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, directory: str
) -> None:
    monkeypatch.setattr(sources.platform, "machine", lambda: machine)
    monkeypatch.setattr(sources, "_multiarch", lambda: tmp_path)
    with kernel_tree():
        root = Path(os.environ["BCC_KERNEL_SOURCE"])
        assert (root / f"arch/{directory}/include/uapi").readlink() == tmp_path
        assert (root / f"arch/{directory}/include/asm/page.h").exists()


def test_an_unknown_architecture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.platform, "machine", lambda: "vax")
    with pytest.raises(LoadError, match="vax is not supported; supported are x86_64"), kernel_tree():
        pass


def test_without_root_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader.os, "geteuid", lambda: 1000)
    with pytest.raises(LoadError, match="run as root"):
        DataPlane.load()


def test_without_bcc_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(LoadError, match="install python3-bpfcc"):
        DataPlane.load()


def test_too_many_reals_are_refused() -> None:
    with pytest.raises(LoadError, match="members=65536 is out of range; give 2 to 65535"):
        DataPlane.load(members=65536)


@pytest.mark.root
def test_a_compiler_error_names_file_and_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "broken.c").write_text('#include <linux/bpf.h>\n#include "part.h"\n')
    (tmp_path / "part.h").write_text("\nint lb(struct xdp_md *ctx) { return nonsense; }\n")
    with pytest.raises(LoadError, match=r"broken\.c does not load.*the words of the compiler"):
        Program(tmp_path / "broken.c", ("lb",), {})
    assert "part.h:2:" in caplog.text
    assert "nonsense" in caplog.text


@pytest.mark.root
def test_the_verifier_is_quoted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "unsafe.c").write_text(
        "#include <linux/bpf.h>\nint lb(struct xdp_md *ctx) { return *(int *)(long)ctx->data; }\n"
    )
    with pytest.raises(LoadError, match=r"unsafe\.c does not load"):
        Program(tmp_path / "unsafe.c", ("lb",), {})
    assert "invalid access to packet" in caplog.text


SMALL = """
#include <linux/bpf.h>
#define TEXT_OF(name) #name
#define LOADED(name) __extension__({ __u64 value; asm("%0 = " TEXT_OF(name) " ll" : "=r"(value)); value; })
BPF_TABLE("array", int, __u64, numbers, SIZED);
BPF_TABLE("array", int, __u32, pattern, 2);
BPF_ARRAY_OF_MAPS(groups, "pattern", SIZED);
int lb(struct xdp_md *ctx)
{
    int last = 4;
    __u64 *number = numbers.lookup(&last);

    if (number)
        *number += LOADED(ANSWER);
    return number ? XDP_TX : XDP_PASS;
}
"""


@pytest.mark.root
def test_one_compilation_serves_every_size_and_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    source = tmp_path / "small.c"
    source.write_text(SMALL)
    results = []
    for size, answer in ((5, 42), (4, 7), (6, 1 << 62)):
        sizes, constants = {"numbers": size, "groups": size}, {"ANSWER": answer}
        program = Program(source, ("lb",), {"SIZED": loader.SIZED}, sizes=sizes, constants=constants)
        monkeypatch.setattr(compiler, "_compile", None)  # from now on it has to be there
        numbers = program.map("numbers")
        action, _, _ = syscall.run_program(program.fd("lb"), bytes(64))
        results.append((numbers.max_entries, action, getattr(numbers.get(numbers.key(4)), "value", None)))
        program.close()
    assert results == [(5, 3, 42), (4, 2, None), (6, 3, 1 << 62)]


@pytest.mark.root
def test_what_is_closed_leaves_no_descriptor(tmp_path: Path) -> None:
    source = tmp_path / "small.c"
    source.write_text(SMALL)

    def use() -> None:
        sizes = {"numbers": 5, "groups": 5}
        Program(source, ("lb",), {"SIZED": loader.SIZED}, sizes=sizes, constants={"ANSWER": 1}).close()

    use()
    before = len(os.listdir("/proc/self/fd"))
    use()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def device() -> Iterator[str]:
    name = f"pftb{os.getpid()}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
    subprocess.run(["ip", "link", "set", name, "address", "02:00:00:00:00:77", "mtu", "1400", "up"], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def attached(device: str) -> str:
    return subprocess.run(["ip", "link", "show", device], check=True, capture_output=True, text=True).stdout


@pytest.mark.root
def test_attach_and_detach(device: str) -> None:
    plane = DataPlane.load(sessions=16, half_open=16)
    try:
        for mode, word in (("native", "xdp "), ("generic", "xdpgeneric")):
            plane.attach(device, mode)  # type: ignore[arg-type]
            assert word in attached(device)
            assert bytes(plane.settings[4].interfaces[0].mac) == bytes.fromhex("020000000077")
            assert plane.settings[4].interfaces[0].mtu == 1400
            plane.detach()
            assert "xdp" not in attached(device)
        plane.detach()
    finally:
        plane.close()


@pytest.mark.root
def test_detaching_from_a_link_that_has_gone_is_no_error(device: str) -> None:
    plane = DataPlane.load(sessions=16, half_open=16)
    try:
        plane.attach(device, "generic")
        subprocess.run(["ip", "link", "del", device], check=True)
        plane.detach()
    finally:
        plane.close()


@pytest.mark.root
def test_attaching_where_it_cannot_be_says_what_to_do(device: str) -> None:
    plane = DataPlane.load(sessions=16, half_open=16)
    other = DataPlane.load(sessions=16, half_open=16)
    try:
        with pytest.raises(LoadError, match="interface pft-none: No such device; `ip link` lists"):
            plane.attach("pft-none", "native")
        with pytest.raises(LoadError, match=r"cannot attach to lo in native mode .*use --xdp generic"):
            plane.attach("lo", "native")
        other.attach(device, "generic")
        with pytest.raises(LoadError, match=f"another XDP program is there: `ip link set dev {device} xdp off`"):
            plane.attach(device, "native")
    finally:
        plane.close()
        other.close()


def test_the_sources_are_packaged() -> None:
    names = {path.name for path in SOURCES.iterdir()}
    assert {"tunnel.h", "icmp.h", "forward.h", "decap.c", "decap.h"} <= names
    assert {"lb.c", "types.h", "maps.h", "parse.h", "select.h", "rewrite.h", "sync.h", "stats.h"} <= names
