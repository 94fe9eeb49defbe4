"""Random packets: whatever comes, the program answers with a known verdict and forwards only sound packets.

What is forwarded is checked by a parser that shares nothing with the program: lengths consistent, checksums right where
they were right before, to a real's or the gateway's MAC address, and everything else unchanged.
"""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from core.model import Mode, Scheduler
from tests.packets import (
    ACK,
    GATEWAY_MAC,
    ICMP,
    INTERFACE,
    NODE,
    NODE_MAC,
    REAL_MACS,
    REALS,
    TCP,
    UDP,
    VIP,
    XDP_ABORTED,
    XDP_DROP,
    XDP_PASS,
    XDP_TX,
    Harness,
    Packet,
    checksum,
    icmp,
    service,
)

pytestmark = pytest.mark.root

SERVICES = (
    service(80),
    service(81, scheduler=Scheduler.WRR, real_port=8081),
    service(82, Mode.DR, Scheduler.RR),
    service(83, name="shared", real_port=8080),
    service(53, protocol="udp", real_port=5353),
    service(54, Mode.DR, protocol="udp"),
    service(84, Mode.TUNNEL),
    service(55, Mode.TUNNEL, Scheduler.WRR, protocol="udp"),
    service(85, Mode.FULLNAT, real_port=8085),
    service(56, Mode.FULLNAT, Scheduler.WRR, protocol="udp", real_port=8056),
)
POOL = ("10.0.9.1", "10.0.9.2")
PORTS = (80, 81, 82, 83, 84, 85, 53, 54, 55, 56, 8080, 8081, 5353, 8085, 8056, 9)
MTU = 400  # so that some of the larger packets do not fit into a tunnel
ADDRESSES = (VIP, *REALS, *POOL, "198.51.100.7", "203.0.113.9", "0.0.0.0", "127.0.0.1", "255.255.255.255", "10.0.0.10")


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    harness = Harness(sessions=512, half_open=256)
    harness.reset(SERVICES, POOL)
    harness.plane.use(replace(INTERFACE, mtu=MTU))
    yield harness
    harness.close()


def random_icmp(dice: random.Random, about: bytes) -> bytes:
    """An echo request, or an error about a packet that went the other way."""
    if dice.random() < 0.2:
        payload = icmp(8, 0, dice.randbytes(4), dice.randbytes(dice.choice((0, 1, 20))))
        return Packet(protocol=ICMP, payload=payload, ttl=dice.choice((1, 64))).frame()
    quoted = about[14:26] + about[30:34] + about[26:30] + about[36:38] + about[34:36] + about[38:]
    quoted = quoted[: dice.choice((27, 28, 29, 37, 38, 60, 548))]
    kind = dice.choice((3, 3, 11, 12, 5))
    return Packet(
        source=dice.choice(("203.0.113.1", *ADDRESSES)),
        destination=socket.inet_ntoa(quoted[12:16]) if dice.random() < 0.95 else dice.choice(ADDRESSES),
        protocol=ICMP,
        payload=icmp(kind, 4, dice.randbytes(4), quoted)[: -1 if dice.random() < 0.05 else None],
        ttl=dice.choice((1, 2, 64)),
    ).frame()


def random_packet(dice: random.Random) -> bytes:
    frame = random_flow_packet(dice)
    return random_icmp(dice, frame) if len(frame) > 54 and dice.random() < 0.15 else frame


def random_flow_packet(dice: random.Random) -> bytes:
    """A sound packet towards a VIP or back; in half of the cases one to three things are wrong; a few are cut short."""
    towards = dice.random() < 0.75
    port = dice.choice(PORTS[:10])
    packet = Packet(
        source="198.51.100.7" if towards else dice.choice(REALS),
        destination=VIP if towards else "198.51.100.7",
        source_port=dice.randrange(1024, 1400) if towards else dice.choice(PORTS[10:15]),
        port=port if towards else dice.randrange(1024, 1400),
        protocol=UDP if port in (53, 54, 55, 56) else TCP,
        flags=dice.choice((0x02, ACK, ACK, 0x18, 0x11, 0x04)),
        sequence=dice.choice((1000, 1001)),
        payload=dice.randbytes(dice.choice((0, 0, 1, 2, 7, 8, 40, 400))),
        padding=dice.randbytes(dice.choice((0, 0, 6))),
    )
    faults: dict[str, Callable[[], object]] = {
        "source": lambda: dice.choice(ADDRESSES),
        "destination": lambda: dice.choice(ADDRESSES),
        "source_port": lambda: dice.randrange(65536),
        "port": lambda: dice.choice((*PORTS, dice.randrange(65536))),
        "protocol": lambda: dice.choice((TCP, UDP, 1, dice.randrange(256))),
        "flags": lambda: dice.randrange(256),
        "sequence": lambda: dice.randrange(1 << 32),
        "ttl": lambda: dice.randrange(3),
        "l4_checksum": lambda: dice.choice((0, dice.randrange(65536))),
        "data_offset": lambda: dice.randrange(16),
        "udp_length": lambda: dice.choice((7, 8, 9, dice.randrange(65536))),
        "total_length": lambda: dice.choice((dice.randrange(100), dice.randrange(65536))),
        "version_length": lambda: dice.choice((0x46, 0x4F, 0x44, 0x65, dice.randrange(256))),
        "fragment": lambda: dice.choice((0x4000, 0x2000, dice.randrange(65536))),
    }
    wrong = dice.sample(sorted(faults), dice.choice((0, 0, 0, 1, 2, 3)))
    frame = bytearray(replace(packet, **{name: faults[name]() for name in wrong}).frame())  # type: ignore[arg-type]
    if dice.random() < 0.1:
        frame[dice.randrange(len(frame))] = dice.randrange(256)
    if dice.random() < 0.05:
        del frame[dice.randrange(14, len(frame) + 1) :]
    return bytes(frame)


def l4_sum(frame: bytes) -> int:
    """0 if the TCP or UDP checksum is right."""
    length = struct.unpack("!H", frame[16:18])[0]
    l4 = frame[34 : 14 + length]
    return checksum(frame[26:34] + struct.pack("!BBH", 0, frame[23], len(l4)) + l4)


def assert_answered(before: bytes, after: bytes) -> None:
    """An ICMP error about `before`, for its sender."""
    assert after[:14] == before[6:12] + NODE_MAC + b"\x08\x00"
    assert struct.unpack("!H", after[16:18]) == (56,)
    assert checksum(after[14:34]) == checksum(after[34:]) == 0
    assert after[26:34] == before[30:34] + before[26:30]
    assert after[34:36] == b"\3\4"
    assert after[40:42] == (MTU - 20).to_bytes(2)
    assert after[42:] == before[14:42]
    assert struct.unpack("!H", before[16:18])[0] + 20 > MTU


def assert_tunnelled(before: bytes, after: bytes) -> None:
    """The whole packet, one hop older, in another one."""
    assert after[:6] in REAL_MACS.values()
    assert after[6:15] == NODE_MAC + b"\x08\x00\x45"
    assert checksum(after[14:34]) == 0
    assert after[23] == 4
    assert after[26:30] == socket.inet_aton(NODE)
    assert REAL_MACS[socket.inet_ntoa(after[30:34])] == after[:6]
    lengths = struct.unpack("!H", after[16:18])[0], struct.unpack("!H", before[16:18])[0]
    assert lengths[0] == lengths[1] + 20 <= MTU
    aged = bytearray(before[14:])
    aged[8] -= 1
    assert aged[8] > 0
    assert after[34:44] + after[46:] == aged[:10] + aged[12:]
    if checksum(before[14:34]) == 0:
        assert checksum(after[34:54]) == 0


def assert_icmp(before: bytes, after: bytes) -> None:
    """An echo answer, or an error with other addresses and ports, outside and in what it quotes."""
    assert len(after) == len(before)
    (length,) = struct.unpack("!H", after[16:18])
    assert before[:14] != after[:14]
    assert after[6:12] == NODE_MAC
    assert after[15:22] + after[23:24] == before[15:22] + before[23:24]
    if checksum(before[14:34]) == 0:
        assert checksum(after[14:34]) == 0
    if checksum(before[34 : 14 + length]) == 0:
        assert checksum(after[34 : 14 + length]) == 0
    if before[34] == 8:
        assert after[:6] == before[6:12]
        assert after[26:34] == before[30:34] + before[26:30]
        assert (after[22], after[34:36], after[38:]) == (64, b"\0" + before[35:36], before[38:])
        return
    assert after[:6] in REAL_MACS.values() or after[:6] == GATEWAY_MAC
    nat = after[26:34] != before[26:34] or after[22] != before[22]
    assert after[22] == before[22] - nat > 0 or not nat
    assert (after[34:36], after[38:52], after[66:68]) == (before[34:36], before[38:52], before[66:68])
    if checksum(before[42:62]) == 0:
        assert checksum(after[42:62]) == 0
    check = 78 if after[51] == TCP else 68
    assert after[68:check] + after[check + 2 :] == before[68:check] + before[check + 2 :]


def assert_sound(before: bytes, after: bytes) -> None:
    if after[23] == 1:
        (assert_icmp if before[23] == 1 else assert_answered)(before, after)
        return
    if after[23] == 4:
        assert_tunnelled(before, after)
        return
    assert len(after) == len(before)
    assert after[6:12] == NODE_MAC
    assert after[:6] in REAL_MACS.values() or after[:6] == GATEWAY_MAC
    assert after[12:15] == b"\x08\x00\x45"
    (length,) = struct.unpack("!H", after[16:18])
    protocol = after[23]
    later = bool(struct.unpack("!H", after[20:22])[0] & 0x1FFF)
    assert after[18:22] == before[18:22]
    header = {TCP: 20, UDP: 8}[protocol] if not later else 0
    assert 20 + header <= length <= len(after) - 14
    nat = after[26:34] != before[26:34] or after[22] != before[22]
    assert after[22] == before[22] - nat > 0 or not nat
    if checksum(before[14:34]) == 0:
        assert checksum(after[14:34]) == 0
    if later:
        assert after[34:] == before[34:]
        return
    if l4_sum(before) == 0 or (protocol == UDP and before[40:42] == b"\0\0"):
        assert l4_sum(after) == 0 or (protocol == UDP and after[40:42] == before[40:42] == b"\0\0")
    assert (
        after[14 + 20 + 4 : 14 + 20 + (16 if protocol == TCP else 6)]
        == before[38 : 34 + (16 if protocol == TCP else 6)]
    )
    assert after[34 + header :] == before[34 + header :]


def fuzz(harness: Harness, seed: int, count: int) -> Counter[int]:
    dice = random.Random(seed)
    verdicts: Counter[int] = Counter()
    ours = {socket.inet_aton(address) for address in (VIP, *REALS)}
    for n in range(count):
        before = random_packet(dice)
        action, after = harness.plane.run(before)
        verdicts[action] += 1
        if action == XDP_TX:
            try:
                assert ours & {before[26:30], before[30:34], before[58:62]}
                assert_sound(before, after)
            except (AssertionError, KeyError) as error:
                raise AssertionError(f"seed {seed}, packet {n}: {before.hex()} became {after.hex()}") from error
        else:
            assert action in (XDP_PASS, XDP_DROP), f"seed {seed}, packet {n}: verdict {action}: {before.hex()}"
            assert after == before
    return verdicts


def test_random_packets(harness: Harness) -> None:
    counters = harness.tables.counters()
    verdicts = fuzz(harness, 20, 50_000)
    assert verdicts[XDP_ABORTED] == 0
    assert min(verdicts[action] for action in (XDP_DROP, XDP_PASS, XDP_TX)) > 2000
    gained = {name: n - counters[name] for name, n in harness.tables.counters().items()}
    assert min(gained["tx_too_big"], gained["drop_too_big"]) > 4
    assert gained["drop_no_session"] > 100
    assert min(gained[name] for name in ("tx_echo", "tx_error", "tx_reply_error", "pass_icmp", "drop_bad_icmp")) > 50
    assert min(gained[name] for name in ("tx_fragment", "drop_fragment", "drop_bad_fragment")) > 20
    assert gained["drop_internal"] == 0
    assert sum(n for name, n in gained.items() if not name.startswith("event_")) == 50_000


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_more_random_packets(harness: Harness, seed: int) -> None:
    assert fuzz(harness, seed, 500_000)[XDP_ABORTED] == 0


def test_the_check_can_fail() -> None:
    before = Packet()
    after = before.to_real(REALS[0])
    assert_sound(before.frame(), after.frame())
    for broken in (
        after.frame()[:-1],
        after.to_mac(b"\2\0\0\0\7\7").frame(),
        after.frame()[:50] + b"\1\1" + after.frame()[52:],
        before.in_tunnel(REALS[0], mac=b"\2\0\0\0\7\7"),
        before.in_tunnel(REALS[0])[:-1],
        before.too_big(MTU - 20),
    ):
        with pytest.raises(AssertionError):
            assert_sound(before.frame(), broken)
    request = Packet(protocol=ICMP, payload=icmp(8, 0, b"data"))
    answer = replace(request, source=VIP, destination=request.source).to_mac(request.eth_source)
    assert_sound(request.frame(), replace(answer, payload=icmp(0, 0, b"data")).frame())
    for payload in (icmp(0, 0, b"dada"), icmp(0, 1, b"data"), request.payload):
        with pytest.raises(AssertionError):
            assert_sound(request.frame(), replace(answer, payload=payload).frame())
