"""The loop side of session sync, with a socket pair in place of the network and a list in place of the data plane."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from l4fast.merging import Merged
from l4fast.sync_ends import AGAIN_S
from l4fast.sync_io import SyncIO, address_of, multicast_socket
from l4fast.sync_keys import ClusterKey
from l4fast.sync_peer import Sync
from l4fast.sync_peers import LISTEN_S, CatchingUp
from l4fast.sync_records import Layout
from tests.l4fast.netns import Network
from tests.waiting import until

KEY = ClusterKey(bytes(32))
ENDS = 2


class FakeTable:
    """A ring of each IP version that is a pipe; `pages` come out of it when it is drained."""

    def __init__(self) -> None:
        pipes = {ip: os.pipe2(os.O_NONBLOCK) for ip in (4, 6)}
        self.ring_fds = {ip: ring for ip, (ring, _) in pipes.items()}
        self.bells = {ip: bell for ip, (_, bell) in pipes.items()}
        self.pages: list[tuple[int, bytes, int, int]] = []
        self.written: list[tuple[int, bytes, int, int]] = []
        self.ended: list[tuple[int, bytes, int]] = []
        self.lacking: list[bool] = []
        self.flushes = 0
        self.fail: OSError | None = None
        self.room = 99

    def on_sync_page(self, callback: Callable[[int, bytes, int, int], None]) -> None:
        self._callback = callback

    def drain_ring(self, version: int) -> None:
        while mine := next((page for page in self.pages if page[0] == version), None):
            self.pages.remove(mine)
            self._callback(*mine)

    def flush_sync(self) -> None:
        self.flushes += 1
        if self.flushes == 1:
            raise OSError(12, "Cannot allocate memory")

    def hear_sessions(self, version: int, body: bytes, count: int, ends: int, shift_s: int = 0) -> Merged:
        if self.fail:
            raise self.fail
        self.written.append((version, body, count, ends))
        taken = min(count, self.room)
        return Merged(new=taken, full=count - taken)

    def end_keys(self, version: int, keys: bytes, until_s: int) -> int:
        self.ended.append((version, keys, until_s))
        return len(keys) // 4

    def set_lacking(self, lacking: bool) -> None:
        self.lacking.append(lacking)

    def close(self) -> None:
        for fd in (*self.ring_fds.values(), *self.bells.values()):
            os.close(fd)


class Wire:
    """A datagram socket whose `sendto` goes to the other end of a pair, or fails as told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.error: OSError | None = None

    def sendto(self, data: bytes, _: tuple[str, int]) -> int:
        if self.error:
            raise self.error
        return self.sock.send(data)

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        return self.sock.recv(size), ("192.0.2.7", 8848)

    def __getattr__(self, name: str) -> object:
        return getattr(self.sock, name)


def body(number: int, count: int, ip: int = 4) -> bytes:
    return number.to_bytes(4, "big") + bytes({4: 3, 6: 5}[ip] * ENDS + {4: 7, 6: 9}[ip] * count)


class End:
    def __init__(self, name: str, sock: socket.socket, queue_limit: int = 4) -> None:
        self.table = FakeTable()
        self.sync = Sync(
            name=name, keys=(KEY,), boot=1, salt=2, layouts={4: Layout(4, 8, 3, 7, 9), 6: Layout(4, 16, 5, 9, 9)},
            now=asyncio.get_running_loop().time(), refresh_s=60,
        )  # fmt: skip
        self.wire = Wire(sock)
        self.io = SyncIO(self.sync, self.table, self.wire, ("", 0), queue_limit=queue_limit)  # type: ignore[arg-type]
        self.io.start()

    def emit(self, number: int, count: int = 1, ip: int = 4) -> None:
        self.table.pages.append((ip, body(number, count, ip), count, ENDS))
        os.write(self.table.bells[ip], b"!")

    def close(self) -> None:
        self.io.close()
        self.table.close()


@pytest.fixture
async def ends() -> Iterator[tuple[End, End]]:  # type: ignore[misc]
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    a, b = End("a", left), End("b", right)
    yield a, b  # type: ignore[misc]
    a.close()
    b.close()


async def test_a_page_is_written_at_the_peer_in_one_batch(ends: tuple[End, End]) -> None:
    a, b = ends
    a.emit(7, count=20)
    await until(lambda: b.table.written)
    assert b.table.written == [(4, body(7, 20), 20, ENDS)]
    a.emit(8, count=3, ip=6)
    await until(lambda: len(b.table.written) == 2)
    assert b.table.written[1] == (6, body(8, 3, 6), 3, ENDS)
    await until(lambda: a.sync.counters["received_hellos"])
    await until(lambda: a.table.flushes > 2)  # although the first has failed


async def test_the_data_plane_is_told_what_it_lacks_when_that_changes(ends: tuple[End, End]) -> None:
    a, b = ends
    assert (a.table.lacking, b.table.lacking) == ([True], [True])
    b.sync.catching_up = CatchingUp(b.sync.peers, asyncio.get_running_loop().time() - LISTEN_S)
    b.sync.peers.clear()
    b.io._tick()
    assert b.table.lacking == [True, False]
    a.emit(7)
    await until(lambda: b.table.written)
    assert b.table.lacking == [True, False, True], "here is a peer"
    a.emit(8)
    await until(lambda: len(b.table.written) == 2)
    assert b.table.lacking == [True, False, True]


async def test_a_full_socket_fills_the_queue_and_then_drops_counted(ends: tuple[End, End]) -> None:
    a, b = ends
    await until(lambda: b.sync.counters["received_hellos"])
    a.wire.error = BlockingIOError()
    for number in range(10):
        a.emit(number)
    await until(lambda: not a.table.pages)
    assert a.sync.counters["send_queue_full"] == 6
    assert a.sync.status(asyncio.get_running_loop().time())["overflowed"] is True
    a.wire.error = None
    await until(lambda: len(b.table.written) == 10)  # the peer has asked again for what was dropped
    assert {int.from_bytes(told[:4], "big") for _, told, _, _ in b.table.written} == set(range(10))
    assert b.sync.counters["lost"] == 0


async def test_an_error_of_the_network_is_counted_and_survived(
    ends: tuple[End, End], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = ends
    await until(lambda: b.sync.counters["received_hellos"])
    a.wire.error = OSError(100, "Network is down")
    a.emit(1)
    await until(lambda: a.sync.counters["send_error"])
    assert "session sync cannot send: [Errno 100] Network is down" in caplog.text
    a.wire.error = None
    a.emit(2)
    await until(lambda: len(b.table.written) == 2)


async def test_a_full_table_is_counted_and_survived(ends: tuple[End, End]) -> None:
    a, b = ends
    b.table.fail = OSError(9, "Bad file descriptor")
    a.emit(1, count=3)
    await until(lambda: b.sync.counters["write_failed"])
    assert b.sync.counters["write_failed"] == 3
    b.table.fail, b.table.room = None, 2
    a.emit(2, count=20)
    await until(lambda: b.table.written)
    assert b.sync.counters["write_failed"] == 3 + 18


async def test_noise_is_counted_and_survived(ends: tuple[End, End]) -> None:
    a, b = ends
    for noise in (b"", b"x", bytes(1472), bytes(1473), bytes(4000)):
        a.wire.sock.send(noise)
    await until(lambda: b.sync.counters["malformed"] == 5)
    a.emit(1)
    await until(lambda: b.table.written)


async def test_ends_are_carried_out_at_once_and_again(ends: tuple[End, End]) -> None:
    """What somebody else has put into the state machine is sent without waiting for a page or a hello."""
    a, b = ends
    await until(lambda: a.sync.peers and b.sync.peers)
    wall_us = time.time_ns() // 1000
    a.sync.send_ended(6, b"12345678", asyncio.get_running_loop().time(), wall_us)
    async with asyncio.timeout(AGAIN_S / 2):
        while not b.table.ended:
            await asyncio.sleep(0.001)
    assert b.table.ended == [(6, b"12345678", wall_us // 1_000_000)]
    await until(lambda: len(b.table.ended) == 2 == len(a.table.ended) + 1)
    assert b.sync.peers[a.sync.node].address == "192.0.2.7"


def test_addresses_of_one_link_keep_their_zone() -> None:
    assert address_of(("192.0.2.7", 1)) == "192.0.2.7"
    assert address_of(("fe80::1", 1, 0, 5)) == "fe80::1%5"
    assert address_of(("2001:db8::1", 1, 0, 0)) == "2001:db8::1"


async def test_what_lies_in_the_ring_is_sent_before_the_end() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    a = End("a", left)
    await asyncio.sleep(0)
    a.table.pages += [(4, body(1, 1), 1, ENDS), (6, body(1, 1, 6), 1, ENDS)]
    a.close()
    received = [right.recv(2000), right.recv(2000), right.recv(2000)]
    right.close()
    assert [len(each) for each in received[1:]] == [56 + 4 + 6 + 7 + 16, 56 + 4 + 10 + 9 + 16]  # after the hello


def test_the_socket_is_bound_to_one_interface() -> None:
    with multicast_socket("224.0.0.81", 0, "lo") as sock:
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP) == 0
        assert sock.getsockname()[0] == "224.0.0.81"
    with multicast_socket("ff02::81", 0, "lo") as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS) == 1
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP) == 0
        assert sock.getsockname()[::3] == ("ff02::81", socket.if_nametoindex("lo"))
    for group in ("224.0.0.81", "ff02::81"):
        with pytest.raises(OSError, match=r"No such device|no interface"):
            multicast_socket(group, 0, "pftnone")


@pytest.mark.root
@pytest.mark.parametrize("group", ["224.0.0.81", "ff02::81"])
async def test_nodes_on_a_link_hear_each_other(group: str) -> None:
    """And not themselves, although both have the group and port."""
    with Network(f"pftsio{os.getpid()}") as network:
        hosts = ("one", "two")
        for number, host in enumerate(hosts, 1):
            network.host(host, f"10.77.3.{number}/24")
        a, b = (network.inside(host, lambda: multicast_socket(group, 8848, "eth0")) for host in hosts)
        with a, b:
            for sender, receiver, name in ((a, b, b"one"), (b, a, b"two")):
                assert await heard(sender, receiver, name, (group, 8848)) == name


async def heard(sender: socket.socket, receiver: socket.socket, name: bytes, group: tuple[str, int]) -> bytes:
    """What comes first to one while another says its name, again and again: before an address has been found to be
    unique nothing can be sent, and before the link and the membership are there on both sides it is lost."""
    loop = asyncio.get_running_loop()
    hearing = asyncio.ensure_future(loop.sock_recv(receiver, 100))
    async with asyncio.timeout(30):
        while not hearing.done():
            with suppress(OSError):
                sender.sendto(name, group)
            await asyncio.wait([hearing], timeout=0.05)
    return hearing.result()
