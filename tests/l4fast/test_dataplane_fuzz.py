"""Random packets of both IP versions, while the configuration changes: whatever comes, the program answers with a known
verdict and forwards only sound packets.

What is forwarded is taken apart by tests/l4fast/dissect.py: lengths consistent, checksums right where they were right
before, to a real's or the gateway's MAC address, and everything else unchanged.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from core.limits import Limits
from core.model import Acl, Mode, Scheduler
from core.prefixes import Prefixes
from core.resolve import Access, L4Service
from tests.l4fast.dissect import ICMPS, TUNNELS, Parsed, ip_of, ones_complement, parsed
from tests.packets import (
    ACK,
    CLIENT,
    DF,
    ECHO,
    ECHO_ANSWER,
    GATEWAY_MAC,
    HEADER,
    HOP_BY_HOP,
    ICMP_ERRORS,
    ICMP_PROTOCOL,
    INTERFACE,
    MORE,
    NODE,
    NODE_MAC,
    OPTIONS,
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
    as_version,
    echo,
    icmp_error,
    service,
    six,
)

pytestmark = pytest.mark.root

POOL = ("10.0.9.1", "10.0.9.2")
DENIED = "203.0.113.9"
ADDRESSES = (VIP, *REALS, *POOL, CLIENT, DENIED, "0.0.0.0", "127.0.0.1", "255.255.255.255", NODE)
UDP_PORTS = (53, 54, 55, 56, 57, 58)
PORTS = (80, 81, 82, 83, 84, 85, 86, 87, 88, *UDP_PORTS)
REAL_PORTS = (8080, 8081, 5353, 8085, 8056, 8086, 8057, 8088)
# So small that some of the larger packets do not fit into a tunnel.
MTU = 460


def services(version: int) -> list[L4Service]:
    denied = {4: [f"{DENIED}/32"], 6: [f"{six(DENIED)}/128"]}[version]
    of = (
        service(80, version=version),
        service(81, scheduler=Scheduler.WRR, real_port=8081, version=version),
        service(82, Mode.DR, Scheduler.RR, version=version),
        service(83, name="shared", real_port=8080, version=version),
        service(84, Mode.TUNNEL, version=version),
        service(85, Mode.FULLNAT, real_port=8085, version=version),
        service(86, stateless=True, real_port=8086, version=version),
        service(87, Mode.TUNNEL, Scheduler.TCH, stateless=True, version=version),
        service(88, scheduler=Scheduler.WLC, real_port=8088, persistence=(60, 32 if version == 4 else 128),
                access=Access(Acl.BLACK, Prefixes.of(denied, version)), version=version),
        service(53, protocol="udp", real_port=5353, version=version),
        service(54, Mode.DR, protocol="udp", version=version),
        service(55, Mode.TUNNEL, Scheduler.WRR, protocol="udp", version=version),
        service(56, Mode.FULLNAT, Scheduler.WRR, protocol="udp", real_port=8056, version=version),
        service(57, protocol="udp", stateless=True, real_port=8057, version=version),
        service(58, Mode.DR, protocol="udp", stateless=True, version=version),
    )  # fmt: skip
    limits = {88: Limits(new_connections_per_s=5), 54: Limits(connections=3)}
    return [
        replace(each, listener=f"{each.listener}-{version}", limits=limits.get(each.port, each.limits)) for each in of
    ]


BOTH = [*services(4), *services(6)]


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    harness = Harness(sessions=512, half_open=256, sync_ring_bytes=4096)
    harness.reset(BOTH, [*POOL, *map(six, POOL)])
    harness.plane.use(replace(INTERFACE, mtu=MTU))
    harness.plane.set(echo_per_cpu_s=20, unproven_per_cpu_s=20, held_per_cpu_s=20)
    yield harness
    harness.close()


def reconfigure(harness: Harness, dice: random.Random) -> None:
    """Some listeners, weights, failed servers and next hops of the day; a second later."""
    some = [each for each in BOTH if dice.random() < 0.9]
    some = [
        replace(each, reals=tuple(replace(real, weight=dice.choice((0, 1, 100, 100))) for real in each.reals))
        if dice.random() < 0.3 and not each.stateless else each
        for each in some
    ]  # fmt: skip
    down = {(real.address, real.port, each.protocol) for each in some for real in each.reals if dice.random() < 0.05}
    macs = {address: mac for address, mac in harness.macs.items() if dice.random() < 0.97}
    harness.tables.set_epoch(harness.plane.settings[4].now_s + dice.choice((0, 1, 1, 100)))
    harness.tables.set_pools([pool for pool in (*POOL, *map(six, POOL)) if dice.random() < 0.9], ())
    harness.tables.set_lacking(dice.random() < 0.2)
    harness.tables.apply(some, down, macs)


# Packets


def random_packet(dice: random.Random) -> bytes:
    version = dice.choice((4, 6))
    packet = random_flow_packet(dice, version)
    if dice.random() < 0.15:
        packet = random_icmp(dice, packet)
    elif dice.random() < 0.1:
        return random_fragment(dice, packet)
    return damaged(dice, packet.frame())


def damaged(dice: random.Random, frame: bytes) -> bytes:
    """In a few cases a byte is another one, or the end is missing."""
    data = bytearray(frame)
    if dice.random() < 0.1:
        data[dice.randrange(len(data))] = dice.randrange(256)
    if dice.random() < 0.05:
        del data[dice.randrange(14, len(data) + 1) :]
    return bytes(data)


def random_fragment(dice: random.Random, packet: Packet) -> bytes:
    """One of its fragments: of an id that others use too, mostly of the first ones."""
    l4 = packet.l4()
    offset = dice.choice((0, 0, 1, 3, dice.randrange(1 << 13)))
    size = dice.choice((8, 24, 24, 25, 400, len(l4)))
    field = offset | dice.choice((0, MORE, MORE)) | dice.choice((0, DF))
    return damaged(dice, replace(packet, fragment=field, id=dice.randrange(3)).around(l4[offset : offset + size]))


def random_icmp(dice: random.Random, about: Packet) -> Packet:
    """An echo request, or an error about a packet that went the other way."""
    version = about.version
    if dice.random() < 0.2:
        payload = echo(version, dice.randbytes(4), dice.randbytes(dice.choice((0, 1, 20))))
        packet = Packet(protocol=ICMP_PROTOCOL[version], payload=payload).as_version(version)
        return replace(packet, ttl=dice.choice((1, 64)))
    turned = replace(
        about, source=about.destination, destination=about.source, source_port=about.port, port=about.source_port
    )
    (router,) = as_version(version, dice.choice(("203.0.113.1", *ADDRESSES)))
    behind = dice.choice((7, 8, 9, 17, 18, 40, 528))
    error = icmp_error(turned, dice.choice(sorted(ICMP_ERRORS)), behind=behind, source=router)
    if dice.random() < 0.05:
        error = replace(error, payload=error.payload[:-1])
    if dice.random() < 0.05:
        error = replace(error, destination=as_version(version, dice.choice(ADDRESSES))[0])
    return replace(error, ttl=dice.choice((1, 2, 64)))


def random_flow_packet(dice: random.Random, version: int) -> Packet:
    """A sound packet towards a VIP or back; in half of the cases one to three things are wrong."""
    towards = dice.random() < 0.75
    port = dice.choice(PORTS)
    client = dice.choice((CLIENT, CLIENT, CLIENT, DENIED))
    packet = Packet(
        source=client if towards else dice.choice(REALS),
        destination=VIP if towards else client,
        source_port=dice.randrange(1024, 1400) if towards else dice.choice(REAL_PORTS),
        port=port if towards else dice.randrange(1024, 1400),
        protocol=UDP if port in UDP_PORTS else TCP,
        flags=dice.choice((0x02, ACK, ACK, 0x18, 0x11, 0x04)),
        sequence=dice.choice((1000, 1001)),
        payload=dice.randbytes(dice.choice((0, 0, 1, 2, 7, 8, 40, 400))),
        fragment=dice.choice((0, 0, 0, DF)),
        label=dice.randrange(1 << 20),
        tos=dice.choice((0, dice.randrange(256))),
        padding=dice.randbytes(dice.choice((0, 0, 6))),
    ).as_version(version)
    faults: dict[str, Callable[[], object]] = {
        "source": lambda: as_version(version, dice.choice(ADDRESSES))[0],
        "destination": lambda: as_version(version, dice.choice(ADDRESSES))[0],
        "source_port": lambda: dice.randrange(65536),
        "port": lambda: dice.choice((*PORTS, *REAL_PORTS, dice.randrange(65536))),
        "protocol": lambda: dice.choice((TCP, UDP, ICMP_PROTOCOL[version], dice.randrange(256))),
        "flags": lambda: dice.randrange(256),
        "sequence": lambda: dice.randrange(1 << 32),
        "ttl": lambda: dice.randrange(3),
        "l4_checksum": lambda: dice.choice((0, dice.randrange(65536))),
        "data_offset": lambda: dice.randrange(16),
        "udp_length": lambda: dice.choice((7, 8, 9, dice.randrange(65536))),
        "total_length": lambda: dice.choice((dice.randrange(100), dice.randrange(65536))),
        "version_length": lambda: dice.choice((0x46, 0x4F, 0x44, 0x65, dice.randrange(256))),
        "fragment": lambda: dice.choice((DF, MORE, dice.randrange(65536))),
        "extensions": lambda: ((dice.choice((HOP_BY_HOP, OPTIONS)), b"\1\4" + dice.randbytes(4)),),
        "eth_type": lambda: dice.choice((0x0800, 0x86DD, 0x0806, 0x8100)),
    }
    wrong = dice.sample(sorted(faults), dice.choice((0, 0, 0, 1, 2, 3)))
    return replace(packet, **{name: faults[name]() for name in wrong})  # type: ignore[arg-type]


# What is forwarded


def check(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def assert_sound(before: bytes, after: bytes) -> None:
    """`after` is what may become of `before`."""
    was, now = ip_of(before), ip_of(after)
    check(was.version == now.version, "the version")
    check(after[6:12] == NODE_MAC, "from the node")
    ours = {six(NODE), NODE} & {now.source}
    if now.protocol == TUNNELS[now.version] and ours:
        check(after[:6] == REAL_MACS.get(now.destination), "to that real")
        assert_tunnelled(was, now)
    elif now.protocol == ICMPS[now.version]:
        assert_icmp(before, after, was, now)
    else:
        assert_ends(after[:6], was, now)
        assert_forwarded(was, now)


def assert_ends(to: bytes, was: Parsed, now: Parsed) -> None:
    """To a real, its own or the VIP's packet, from the client or a pool; or from the VIP to a client."""
    if to == GATEWAY_MAC:
        check(now.source in (VIP, six(VIP)), "from the VIP")
        return
    check(to in REAL_MACS.values(), "to a neighbour")
    if now.destination != was.destination:
        check(to == REAL_MACS.get(now.destination), "to that real")
    check(now.source in (was.source, *POOL, *map(six, POOL)), "from the client")


def assert_forwarded(was: Parsed, now: Parsed) -> None:
    """Addresses, ports and with them TTL and checksums have changed at most."""
    moved = (was.source, was.destination) != (now.source, now.destination) or was.ttl != now.ttl
    check((now.ttl == was.ttl - moved and now.ttl > 0) or not moved, "TTL")
    check(now.rest == was.rest and now.protocol == was.protocol, "the header")
    check(len(now.l4) == len(was.l4) and now.trailing == was.trailing, "the length")
    check(now.header_sound or not was.header_sound, "the header's sum")
    if was.later:
        check(now.l4 == was.l4, "a later fragment's data")
        return
    at, header = (16, 20) if was.protocol == TCP else (6, 8)
    check(len(now.l4) >= header, "the L4 header")
    check(now.l4[4:at] + now.l4[at + 2 :] == was.l4[4:at] + was.l4[at + 2 :], "the data")
    no_sum = was.protocol == UDP and was.l4[6:8] == b"\0\0"
    check(now.l4[6:8] == b"\0\0" if no_sum else True, "no sum")
    if not was.fragment:
        check(now.l4_sound or not was.l4_sound, "the L4 sum")
    elif not no_sum:
        check(sum_moved_along(was, now, at), "the L4 sum of a first fragment")


def sum_moved_along(was: Parsed, now: Parsed, at: int) -> bool:
    """A first fragment's sum is of data that are not here: it has to make up for what has changed."""

    def words(packet: Parsed) -> int:
        return ones_complement(packet.ends + packet.l4[:4] + packet.l4[at : at + 2])

    return words(was) == words(now)


def assert_tunnelled(was: Parsed, now: Parsed) -> None:
    """The whole packet, one hop older, in another one."""
    inner = parsed(now.l4)
    check(now.header_sound and not inner.trailing and now.ttl == 64, "the outer header")
    outer = b"\x45" + was.rest[1:2] + b"\0\0\x40\0" if was.version == 4 else was.rest[:4]
    check(now.rest == outer, "the outer header's other fields")
    check(now.whole == was.whole + HEADER[was.version] <= MTU, "the MTU")
    check(now.trailing == was.trailing, "padding stays outside")
    check(inner.ttl == was.ttl - 1 > 0, "TTL")
    check(inner.header_sound or not was.header_sound, "the inner header's sum")
    check(replace(inner, ttl=was.ttl, header_sound=was.header_sound) == replace(was, trailing=b""), "the inner packet")


def assert_icmp(before: bytes, after: bytes, was: Parsed, now: Parsed) -> None:
    """Our own "too big", an echo answer, or an error with other ends outside and in what it quotes."""
    version = was.version
    check(now.header_sound or not was.header_sound, "the header's sum")
    if was.protocol != ICMPS[version]:
        check(now.l4_sound, "the sum")
        check(after[:6] == before[6:12], "to its sender")
        check((now.source, now.destination) == (was.destination, was.source), "the ends")
        check(now.l4[:2] == bytes(ICMP_ERRORS["too big"][version]), "type and code")
        check(struct.unpack("!I", now.l4[4:8])[0] == MTU - HEADER[version], "the MTU")
        check(now.l4[8:] == before[14:][: {4: 28, 6: 56}[version]], "the quotation")
        check(was.whole + HEADER[version] > MTU, "it was too big")
        check(now.rest == bytes.fromhex({4: "45c000004000", 6: "6c000000"}[version]), "the header")
        check(now.ttl == 64 and not now.trailing, "TTL, length")
        return
    check(now.l4_sound or not was.l4_sound, "ICMP's sum")
    check(len(now.l4) == len(was.l4) and now.trailing == was.trailing, "the length")
    check(now.rest == was.rest, "the header")
    if was.l4[0] == ECHO[version]:
        check(after[:6] == before[6:12], "to its sender")
        check((now.source, now.destination) == (was.destination, was.source), "the ends")
        check(now.l4[:2] == bytes((ECHO_ANSWER[version],)) + was.l4[1:2] and now.l4[4:] == was.l4[4:], "the echo")
        check(now.ttl == 64, "TTL")
        return
    assert_ends(after[:6], was, now)
    moved = (was.source, was.destination) != (now.source, now.destination) or was.ttl != now.ttl
    check(now.ttl == was.ttl - moved > 0 or not moved, "TTL")
    check(now.l4[:2] + now.l4[4:8] == was.l4[:2] + was.l4[4:8], "the ICMP header")
    assert_quoted(was.l4[8:], now.l4[8:], version)


def assert_quoted(was: bytes, now: bytes, version: int) -> None:
    """Nothing but the quoted packet's ends and sums has changed."""
    header = HEADER[version]
    ends = 12 if version == 4 else 8
    kept = slice(0, 10) if version == 4 else slice(0, ends)
    check(now[kept] == was[kept], "the quoted header")
    if version == 4:
        check(ones_complement(now[:20]) == 0 or ones_complement(was[:20]) != 0, "the quoted header's sum")
    at = header + (16 if now[9 if version == 4 else 6] == TCP else 6)
    check(now[header + 4 : at] + now[at + 2 :] == was[header + 4 : at] + was[at + 2 :], "the quoted data")


def fuzz(harness: Harness, seed: int, count: int, *, every: int = 1000) -> Counter[int]:
    """So many packets, with a change of configuration now and then."""
    dice = random.Random(seed)
    verdicts: Counter[int] = Counter()
    for n in range(count):
        if n % every == every - 1:
            reconfigure(harness, dice)
        before = random_packet(dice)
        action, after = harness.plane.run(before)
        verdicts[action] += 1
        try:
            if action == XDP_TX:
                assert_sound(before, after)
            else:
                check(action in (XDP_PASS, XDP_DROP), f"verdict {action}")
                check(after == before, "left alone")
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"seed {seed}, packet {n}: {error}: {before.hex()} became {after.hex()}") from error
    return verdicts


# Reasons that a fuzz need not come across.
RARE = {"drop_internal", "drop_no_address", "event_no_port", "pass_no_listener", "pass_served_here", "drop_no_listener"}
RARE |= {"drop_connection_rate", "drop_connections", "drop_bandwidth_in", "drop_bandwidth_out"}


@pytest.mark.timeout(300)
def test_random_packets(harness: Harness) -> None:
    counters = harness.tables.counters()
    verdicts = fuzz(harness, 20, 50_000)
    assert verdicts[XDP_ABORTED] == 0
    assert min(verdicts[action] for action in (XDP_DROP, XDP_PASS, XDP_TX)) > 2000
    gained = {name: n - counters[name] for name, n in harness.tables.counters().items()}
    assert gained["drop_internal"] == 0
    assert {name for name, n in gained.items() if not n} <= RARE
    assert sum(n for name, n in gained.items() if not name.startswith("event_")) == 50_000


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_more_random_packets(harness: Harness, seed: int) -> None:
    """Ten million in all."""
    assert fuzz(harness, seed, 500_000, every=5000)[XDP_ABORTED] == 0


def sound_pairs(version: int) -> dict[str, tuple[bytes, bytes]]:
    """What goes in and what may come out, of every kind."""
    client, vip, real, pool, router = as_version(version, CLIENT, VIP, REALS[0], POOL[0], "203.0.113.1")
    packet = replace(Packet(flags=ACK, payload=b"data", tos=0x28, label=0xABCDE).as_version(version), padding=b"x" * 6)
    answer = replace(packet, source=real, destination=client, source_port=8080, port=40000)
    large = replace(packet, payload=bytes(range(200)), padding=b"")
    to_real = large.to_real(real)
    over = replace(packet, payload=bytes(MTU), fragment=DF)
    ping = replace(packet, protocol=ICMP_PROTOCOL[version], payload=echo(version, data=b"data"))
    pong = replace(ping, source=vip, destination=client, payload=echo(version, data=b"data", answer=True), ttl=64)
    about = answer.to_client(vip, 80)
    error = icmp_error(about, "no route", source=router)
    inside = icmp_error(replace(about, source=real, source_port=8080), "no route", source=router)
    return {
        "dr": (packet.frame(), packet.to_mac(REAL_MACS[real]).frame()),
        "nat": (packet.frame(), packet.to_real(real).frame()),
        "reply": (answer.frame(), answer.to_client(vip, 80).frame()),
        "fullnat": (packet.frame(), packet.translated((pool, 1025), (real, 8080)).frame()),
        "tunnel": (packet.frame(), packet.in_tunnel(real)),
        "first fragment": (large.fragments(80)[0], to_real.fragments(80)[0]),
        "later fragment": (large.fragments(80)[1], to_real.fragments(80)[1]),
        "too big": (over.frame(), over.too_big(MTU - HEADER[version])),
        "echo": (ping.frame(), pong.to_mac(ping.eth_source).frame()),
        "error, dr": (error.frame(), error.to_mac(REAL_MACS[real]).frame()),
        "error, nat": (error.frame(), replace(inside, destination=vip).to_real(real).frame()),
    }


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", sound_pairs(4))
def test_no_wrong_bit_passes(version: int, kind: str) -> None:
    before, after = sound_pairs(version)[kind]
    assert_sound(before, after)
    missed = []
    for bit in range(8 * len(after)):
        wrong = bytearray(after)
        wrong[bit // 8] ^= 1 << bit % 8
        if bytes(wrong[:6]) != after[:6] and bytes(wrong[:6]) in REAL_MACS.values() and kind != "tunnel":
            continue  # another real may have been chosen
        with contextlib.suppress(AssertionError, ValueError):
            assert_sound(before, bytes(wrong))
            missed.append((bit // 8, bit % 8))
    assert not missed
    for wrong_length in (after[:-1], after + b"x"):
        with pytest.raises((AssertionError, ValueError)):
            assert_sound(before, wrong_length)
