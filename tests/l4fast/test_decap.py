"""The program that opens tunnel packets on a server: exact bytes, and who and what is let through."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from l4fast import links
from l4fast.bpf import syscall
from l4fast.decap import Decap, DecapSettings, parse
from l4fast.settings import SettingsError
from tests.packets import ACK, NODE, REAL_MACS, REALS, VIP, Packet, ip_header, ipv4_header, six

INNER = Packet(port=83, flags=ACK, payload=b"data", tos=0x0)
PASS, DROP = 2, 1


@pytest.fixture(scope="module")
def decap() -> Iterator[Decap]:
    decap = Decap([VIP, six(VIP)], [NODE, six(NODE)])
    yield decap
    decap.program.close()


def opened(packet: Packet, real: str = REALS[0]) -> bytes:
    """What is left of `packet.in_tunnel`."""
    return REAL_MACS[real] + packet.eth_destination + replace(packet, ttl=packet.ttl - 1).frame()[12:]


def outer(inner: bytes, *, source: str = NODE, protocol: int = 4, longer: int = 0) -> bytes:
    return INNER.in_tunnel(REALS[0])[:14] + ipv4_header(source, REALS[0], protocol, len(inner) + longer) + inner


def packet(**changes: object) -> bytes:
    return replace(INNER, **changes).frame()[14:]  # type: ignore[arg-type]


ECT, CE = 0x02, 0x03
CASES = [
    ("a TCP packet", INNER.in_tunnel(REALS[0]), "pass_opened", opened(INNER)),
    ("with Ethernet padding", replace(INNER, padding=b"x" * 6).in_tunnel(REALS[0]), "pass_opened",
     opened(replace(INNER, padding=b"x" * 6))),
    ("its ECN bits stay", replace(INNER, tos=ECT).in_tunnel(REALS[0]), "pass_opened", opened(replace(INNER, tos=ECT))),
    ("congestion on the way reaches the sender, ECT(0)", replace(INNER, tos=0x28 | 2).in_tunnel(REALS[0], tos=CE),
     "pass_opened", opened(replace(INNER, tos=0x28 | CE))),
    ("ECT(1)", replace(INNER, tos=1).in_tunnel(REALS[0], tos=CE), "pass_opened", opened(replace(INNER, tos=CE))),
    ("congestion met before", replace(INNER, tos=CE).in_tunnel(REALS[0]), "pass_opened",
     opened(replace(INNER, tos=CE))),
    ("congestion that cannot be told", INNER.in_tunnel(REALS[0], tos=CE), "drop_congestion", None),
    ("no tunnel packet", INNER.frame(), "pass_other", None),
    ("ARP", INNER.frame()[:12] + b"\x08\x06" + bytes(28), "pass_other", None),
    ("IPv6 inside", outer(packet(), protocol=41), "pass_other", None),
    ("for another address", outer(packet(destination="10.0.0.99")), "pass_other", None),
    ("ends in the inner header", outer(packet())[:53], "pass_other", None),
    ("ends in the outer header", outer(packet())[:33], "pass_other", None),
    ("from a stranger", outer(packet(), source="10.0.0.66"), "drop_not_from_node", None),
    ("options inside", outer(packet(version_length=0x46, options=b"\1\1\1\0")), "drop_malformed", None),
    ("inner longer than the frame", outer(packet(total_length=45)), "drop_malformed", None),
    ("inner longer than the frame, the outer agrees", outer(packet(total_length=45), longer=1), "drop_malformed", None),
    ("outer longer than the inner", outer(packet() + b"xx"), "drop_malformed", None),
    ("an inner length of 19", outer(packet(total_length=19)), "drop_malformed", None),
]  # fmt: skip


INNER6, REAL6 = INNER.as_version(6), six(REALS[0])


def in_six(**changes: object) -> bytes:
    return replace(INNER6, **changes).in_tunnel(REAL6)  # type: ignore[arg-type]


def marked(**changes: object) -> bytes:
    """From where congestion was met on the way."""
    return replace(INNER6, **changes).in_tunnel(REAL6, tos=CE)  # type: ignore[arg-type]


def opened6(**changes: object) -> bytes:
    return opened(replace(INNER6, **changes), REAL6)  # type: ignore[arg-type]


def outer6(inner: bytes, *, source: str = six(NODE), protocol: int = 41, longer: int = 0) -> bytes:
    return in_six()[:14] + ip_header(source, REAL6, protocol, len(inner) + longer) + inner


def packet6(**changes: object) -> bytes:
    return replace(INNER6, **changes).frame()[14:]  # type: ignore[arg-type]


CASES += [
    (f"IPv6: {name}", before, outcome, after)
    for name, before, outcome, after in [
        ("a TCP packet", in_six(), "pass_opened", opened6()),
        ("with Ethernet padding", in_six(padding=b"x" * 6), "pass_opened", opened6(padding=b"x" * 6)),
        ("traffic class and flow label stay", in_six(tos=0xB9, label=0xABCDE), "pass_opened",
         opened6(tos=0xB9, label=0xABCDE)),
        ("congestion on the way reaches the sender, ECT(0)", marked(tos=0x2A, label=0xF0001), "pass_opened",
         opened6(tos=0x2B, label=0xF0001)),
        ("ECT(1)", marked(tos=1), "pass_opened", opened6(tos=CE)),
        ("congestion met before", in_six(tos=CE), "pass_opened", opened6(tos=CE)),
        ("congestion that cannot be told", marked(), "drop_congestion", None),
        ("no tunnel packet", INNER6.frame(), "pass_other", None),
        ("IPv4 inside", outer6(packet(), protocol=4), "pass_other", None),
        ("behind an extension header", outer6(bytes([41, 0, 4, 1, 4, 1, 0, 0]) + packet6(), protocol=60), "pass_other",
         None),
        ("for another address", outer6(packet6(destination="2001:db8::99")), "pass_other", None),
        ("ends in the inner header", outer6(packet6())[:93], "pass_other", None),
        ("ends in the outer header", outer6(packet6())[:53], "pass_other", None),
        ("from a stranger", outer6(packet6(), source="2001:db8::66"), "drop_not_from_node", None),
        ("version 4 inside", outer6(b"\x45" + packet6()[1:]), "drop_malformed", None),
        ("inner longer than the frame", outer6(packet6(total_length=25)), "drop_malformed", None),
        ("inner longer than the frame, the outer agrees", outer6(packet6(total_length=25), longer=1),
         "drop_malformed", None),
        ("outer longer than the inner", outer6(packet6() + b"xx"), "drop_malformed", None),
    ]
]  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize(("before", "outcome", "after"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_outcome_and_bytes(decap: Decap, before: bytes, outcome: str, after: bytes | None) -> None:
    counted = decap.counters()
    verdict, actual, _ = syscall.run_program(decap.program.fd("decap"), before)
    assert [name for name, count in decap.counters().items() if count != counted[name]] == [outcome]
    assert verdict == (PASS if outcome.startswith("pass") else DROP)
    if outcome.startswith("pass"):
        assert actual.hex(" ") == (before if after is None else after).hex(" ")


@pytest.mark.root
def test_a_fragment_of_a_tunnel_packet_is_the_kernels(decap: Decap) -> None:
    whole = INNER.in_tunnel(REALS[0])
    fragment = whole[:20] + b"\x20\x00" + whole[22:]
    assert syscall.run_program(decap.program.fd("decap"), fragment)[:2] == (PASS, fragment)


@pytest.mark.root
def test_without_a_list_of_nodes_anybody_may_send() -> None:
    decap = Decap([VIP])
    try:
        before = outer(packet(), source="10.0.0.66")
        verdict, after, _ = syscall.run_program(decap.program.fd("decap"), before)
        assert (verdict, after) == (PASS, before[:14] + before[34:])
    finally:
        decap.program.close()


def test_the_command_line() -> None:
    words = "--interface eth0 --vip 192.0.2.1 192.0.2.2 --from 10.0.0.1 --xdp generic --replace"
    assert parse(words.split()) == DecapSettings("eth0", ("192.0.2.1", "192.0.2.2"), ("10.0.0.1",), "generic", True)
    both = "--interface e --vip 2001:DB8::1 192.0.2.1 --from 10.0.0.1 fd00:0::1"
    assert parse(both.split()) == DecapSettings(
        "e", ("2001:db8::1", "192.0.2.1"), ("10.0.0.1", "fd00::1"), "native", False
    )
    assert parse(["--interface", "e", "--vip", "1.2.3.4"]) == DecapSettings("e", ("1.2.3.4",), (), "native", False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--interface eth0", "the following arguments are required: --vip; --help"),
        ("--interface eth0 --vip x", "--vip x: give IP addresses"),
        ("--interface eth0 --vip 1.2.3.4 --from 1.2.3.4 fe80::1", "--from fe80::1: give IP addresses"),
        ("--interface eth0 --vip 2001:db8::1%eth0", "--vip 2001:db8::1%eth0: give IP addresses"),
        ("--interface eth0 --vip ::ffff:1.2.3.4", "--vip ::ffff:1.2.3.4: give IP addresses"),
        (
            "--interface eth0 --vip 1.2.3.4 2001:db8::1 --from 10.0.0.1",
            "--from: give addresses of IPv6 too, or 2001:db8::1 gets no packet",
        ),
        ("--interface eth0 --vip" + " 1.2.3.4" * 1025, "--vip: 1025 addresses; at most 1024 are supported"),
    ],
)
def test_refused(words: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse(words.split())


@pytest.fixture
def device() -> Iterator[str]:
    name = f"pftd{os.getpid()}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def start(device: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "l4fast", "decap", "--interface", device, "--vip", VIP, "--xdp", "generic", *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came; exit code {process.wait(10)}")


@pytest.mark.root
def test_a_life(device: str) -> None:
    process = start(device)
    try:
        assert f"`ip addr add {VIP}/32 dev lo`" in wait_for(process, "no address of this machine")
        wait_for(process, "taking packets for")
        link = links.find(device)
        assert link is not None
        assert (link.mode, link.program > 0) == ("generic", True)
        process.send_signal(signal.SIGUSR1)
        assert "pass_opened 0, pass_other " in wait_for(process, "packets:")
        second = start(device)
        _, text = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "carries an XDP program" in text
        process.kill()
        process.wait(10)
        process.stderr.close()  # type: ignore[union-attr]
        process = start(device, "--replace")
        wait_for(process, "taking packets for")
        process.terminate()
        wait_for(process, "packets:")
        assert process.wait(10) == 0
        link = links.find(device)
        assert link is not None
        assert link.program == 0
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close()  # type: ignore[union-attr]


@pytest.mark.root
def test_an_interface_that_is_not_there() -> None:
    process = start("pft-none")
    _, text = process.communicate(timeout=60)
    assert (process.returncode, text) == (
        1, "paifang-l4: no interface pft-none; `ip link` lists those of this machine\n",
    )  # fmt: skip
