"""An agent that is killed leaves programs whose tail calls still work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from l4fast.interfaces import interface
from l4fast.loader import DataPlane
from l4fast.pins import BPFFS, Pins
from tests.l4fast.netns import Network
from tests.packets import Packet, six

pytestmark = pytest.mark.root

AGENT = """
import pathlib, sys, time
from core.model import Mode, Scheduler
from l4fast.pins import Pins
from tests.packets import GATEWAY_MAC, REALS, Harness, service, six
pins = Pins(pathlib.Path(sys.argv[1]))
harness = Harness(sessions=64, half_open=64)
if sys.argv[2] == "pinned":
    pins.hold(harness.plane, 1)
harness.reset()
harness.plane.attach("eth0", "generic")
pins.settle()
services = [service(80, Mode.DR, Scheduler.LC), service(80, Mode.DR, version=6)]
harness.tables.apply(services, set(), harness.macs)
print("attached", flush=True)
time.sleep(600)
"""


def frames_out(network: Network, packets: list[Packet]) -> list[bytes]:
    """What comes back from the node, which sends to the MAC addresses of reals that are not there."""

    def run() -> list[bytes]:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        with raw:
            raw.bind(("node", 0))
            raw.settimeout(0.5)
            found = []
            for packet in packets:
                raw.send(packet.frame())
                try:
                    while True:
                        frame, (_, _, kind, *_) = raw.recvfrom(2048)
                        if kind != socket.PACKET_OUTGOING and frame[:4] == bytes.fromhex("02000000"):
                            found.append(frame)
                except TimeoutError:
                    pass
            return found

    return network.inside("sw", run)


@pytest.mark.parametrize("pinned", ["pinned", "loose"])
def test_a_killed_agents_programs_go_on(tmp_path: Path, pinned: str) -> None:
    """What comes of IPv6 and of lc, with the pins and (to see that they are what it takes) without."""
    with Network(f"pft{uuid.uuid4().hex[:6]}") as network:
        network.host("node", "10.0.0.2/24")
        pins = Pins(tmp_path)
        with subprocess.Popen(
            ["nsenter", f"--net={network.path('node')}", sys.executable, "-c", AGENT, tmp_path, pinned],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        ) as agent:  # fmt: skip
            try:
                assert agent.stdout is not None
                assert agent.stdout.readline() == "attached\n"
                node = network.inside("node", lambda: interface("eth0")).mac
                four = Packet(eth_destination=node)
                packets = [four, replace(four, source=six(four.source), destination=six(four.destination))]
                assert len(frames_out(network, packets)) == 2
            finally:
                agent.kill()
        for source_port in range(41000, 41020):  # the kernel empties arrays a little later, by a work queue
            left = frames_out(network, [replace(packet, source_port=source_port) for packet in packets])
            if pinned == "pinned" or not left:
                break
        assert len(left) == (2 if pinned == "pinned" else 0)
        pins.release()
        assert not list(BPFFS.glob(f"{pins.directory.name}*"))


def test_a_start_takes_over_and_an_orderly_end_leaves_nothing(tmp_path: Path) -> None:
    plane = DataPlane.load(sessions=16, half_open=16)
    try:
        pins = Pins(tmp_path)
        for life in (1, 26):
            pins.hold(plane, life)
            assert (pins.directory / f"{life:x}/stages-6").exists()
            assert (tmp_path / "maps").resolve() == pins.directory
            pins.settle()
            assert [path.name for path in pins.directory.iterdir()] == [f"{life:x}"]
        pins.hold(plane, 27)
        pins.abandon()
        assert [path.name for path in pins.directory.iterdir()] == ["1a"]
        pins.release()
        assert not pins.directory.exists()
        pins.release()
        pins.hold(plane, 28)
        pins.abandon()
        assert not pins.directory.exists()
    finally:
        plane.close()


def test_the_log_tells_maps_that_are_missing_from_an_orderly_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plane = DataPlane.load(sessions=16, half_open=16)
    pins = Pins(tmp_path)
    try:
        pins.hold(plane, 1)
        with pins.left(2, 0, 0) as left:  # another life's, where there is one
            assert left is None
        (record,) = caplog.records
        assert "what the agent before has left cannot be used" in record.getMessage()
        pins.release()
        caplog.clear()
        with pins.left(1, 0, 0) as left:
            assert left is None
        assert not caplog.records
    finally:
        pins.release()
        plane.close()


def test_without_bpffs_the_log_says_what_it_means(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plane = DataPlane.load(sessions=16, half_open=16)
    try:
        Pins(tmp_path, tmp_path / "missing").hold(plane, 1)
    finally:
        plane.close()
    (record,) = caplog.records
    assert "IPv6, fragments, VLANs and new flows of lc, wlc and fullnat stop" in record.getMessage()
