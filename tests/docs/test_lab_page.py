"""The pages about the L4 tier and the lab, followed in a lab of a machine of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs.machine import Machine, machine
from tests.docs.pages import follow

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A lab, as the page brings it up; `/var/lib/paifang/l4` is the state of its `l4-1`."""
    with machine(tmp_path_factory.mktemp("lab")) as made:
        made.run("paifang lab up")
        made.run("mkdir -p /var/lib/paifang && ln -s /run/paifang-lab/pf/l4-1/state /var/lib/paifang/l4")
        made.run("mkdir -p /etc/paifang")
        yield made


def test_session_sync(mine: Machine) -> None:
    with follow("session-sync.md") as page:
        make, _ = page.block("--make-cluster-key").steps
        mine.run(make.command)
        mine.run("test $(stat -c %a /etc/paifang/cluster.key) = 600")
        for step in page.steps("paifang l4 ask counters"):
            assert mine.run(step.command.replace("[", "").replace("]", "").replace("N", "5")).out


def test_metrics(mine: Machine) -> None:
    with follow("metrics.md") as page:
        for step in page.steps("paifang top --once --json"):
            command = step.command.partition(" #")[0].rstrip()
            if "--state" not in command:
                command = f"paifang lab exec control -- {command}"
            if "--once" not in command:
                command += " --once"  # without a terminal it would go on for ever
            assert "l4-1" in mine.run(command).out


def test_vip(mine: Machine) -> None:
    with follow("vip.md") as page:
        status, ask = page.steps("one node: states, since when")
        assert "l4-1" in mine.run("paifang lab exec control -- " + status.command).out
        assert "10.81.2.100" in mine.run(ask.command).out
        mine.run(page.take("net.ipv6.fib_multipath_hash_policy=1").text)
        mine.write("bird.conf", "router id 10.0.0.1;\n" + page.take("protocol bfd").text + "\n")
        mine.run("bird -p -c bird.conf")


def test_l4(mine: Machine) -> None:
    with follow("l4.md") as page:
        for step in page.steps("paifang sessions kill"):
            mine.run(step.command)
        for begin in ("arp_announce=2", "nodad"):
            block = page.take(begin) if begin == "nodad" else page.first("arp_announce=2")
            mine.write("hidden.sh", "set -e\n" + block.text + "\n")
            mine.run("ip netns add pftserver && ip netns exec pftserver bash hidden.sh && ip netns del pftserver")


def test_lab(mine: Machine) -> None:
    with follow("lab.md") as page:
        transfers = page.steps("--rate 5000000")
        for step in transfers:
            command = step.command.replace("-- tcpdump", "-- timeout 1 tcpdump").replace(
                "paifang top", "paifang top --once"
            )
            mine.run(command + ("; test $? = 124" if "tcpdump" in command else ""))
        up, curl, kill, status, down = page.steps("paifang lab kill l4-1")
        assert "is up already" in mine.run(up.command, code=1).err
        mine.run(curl.command)
        mine.run(kill.command)
        mine.run(status.command, code=1)
        mine.run(curl.command)
        mine.run(down.command)
