"""The pages about the L4 tier and the lab, followed in a lab of a machine of its own.

Beside the lab stands a tier with the pages' own addresses: two L4 nodes that are started by the lines of all pages
together, one with BGP and two interfaces, one with VRRP; a router with the page's BIRD; a server that opens tunnels.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.docs.blocks import Step
from tests.docs.machine import Machine, machine
from tests.docs.pages import Page, follow

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

NETWORK = """
set -e
for host in sw c n1 n2 s r; do ip netns add $host; ip -n $host link set lo up; done
for bridge in br0 br1; do ip -n sw link add $bridge type bridge mcast_snooping 0; ip -n sw link set $bridge up; done
wire() {  # host device bridge address…
    ip -n sw link add $1-$2 type veth peer name $2 netns $1
    nsenter --net=/run/netns/sw ethtool -K $1-$2 tx off >/dev/null
    nsenter --net=/run/netns/$1 ethtool -K $2 tx off gro off >/dev/null
    ip -n sw link set $1-$2 master $3 up
    ip -n $1 link set $2 up
    ip -n $1 addr add $4 dev $2
}
wire c eth0 br0 10.0.0.5/24
wire n1 eth0 br0 10.0.0.11/24
wire n1 eth1 br1 10.0.1.11/24
wire n2 eth0 br0 10.0.0.12/24
wire s eth0 br0 10.0.0.21/24
wire r eth1 br0 10.0.0.1/24
for host in n1 n2 s; do ip -n $host route add default via 10.0.0.1; done
set +e
inside() { nsenter --net=/run/netns/$1 "${@:2}"; }
mkdir tier && cd tier && echo hello > index.html
paifang certs init ./ca
paifang certs issue ./ca --role control --name control-1 --ip 10.0.0.5 --out ./control-id
for node in edge-1 edge-2; do paifang certs issue ./ca --role l4 --name $node --out ./$node; done
"""
SITE = """
[[nodes]]
name = "edge-1"
role = "l4"
address = "10.0.0.11"

[[nodes]]
name = "edge-2"
role = "l4"
address = "10.0.0.12"

[[instances]]
name = "tier"
type = "nlb"
vips = ["192.0.2.25"]

[[listeners]]
name = "web"
instance = "tier"
protocol = "tcp"
port = 80
mode = "tunnel"
servers = ["10.0.0.21:80"]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A lab, as the page brings it up; `/var/lib/paifang/l4` is the state of its `l4-1`. And the tier."""
    with machine(tmp_path_factory.mktemp("lab")) as made:
        made.run("paifang lab up")
        made.run("mkdir -p /var/lib/paifang && ln -s /run/paifang-lab/pf/l4-1/state /var/lib/paifang/l4")
        made.run("mkdir -p /etc/paifang")
        tier(made)
        yield made


def tier(made: Machine) -> None:
    made.run(NETWORK)
    for step in Page("session-sync.md").block("--make-cluster-key").steps[:1]:
        made.run(step.command)
    made.write("bird.conf", "router id 10.0.0.1;\n" + Page("vip.md").block("protocol bfd").text + "\n")
    made.leave_running("inside r bird -f -c bird.conf -s bird.ctl", "")
    made.leave_running(
        "inside c paifang control --state ./control --nodes 10.0.0.5:8471 --identity ./control-id", "node API on"
    )
    made.write("site.toml", SITE)
    made.run("PAIFANG_TOKEN=$(cat control/token) inside c paifang apply site.toml")
    one_armed, two_armed = Page("l4.md").block("--interface eth0 --interface eth1").steps
    _, vrrp = Page("vip.md").block("paifang l4 --vip vrrp").steps
    _, bgp = Page("vip.md").block("paifang l4 --vip bgp").steps
    _, sync = Page("session-sync.md").block("--make-cluster-key").steps
    _, control = Page("stores.md").block("paifang l7 --control").steps
    for number, lines in ((1, (two_armed, bgp, sync, control)), (2, (one_armed, vrrp, sync, control))):
        own = f"--name edge-{number} --identity ./edge-{number} --state /run/edge-{number} --xdp generic"
        made.leave_running(f"inside n{number} {together(*lines)} {own}", "ready")


def together(*lines: Step) -> str:
    """One command of several lines of pages, each of which stands for a part: `paifang l4 … --this …`."""
    parts: list[str] = []
    for line in lines:
        words = [word.strip("[]") for word in shlex.split(line.command, comments=True) if word != "…"]
        assert words[:2] == ["paifang", "l4"], line
        begins = [*(n for n, word in enumerate(words) if word.startswith("--")), len(words)]
        parts += [shlex.join(words[begin:end]) for begin, end in pairwise(begins)]
    assert len(parts) > len(lines)
    return "paifang l4 " + " ".join(dict.fromkeys(parts))


def test_session_sync(mine: Machine) -> None:
    with follow("session-sync.md") as page:
        page.take("--make-cluster-key")  # the fixture ran it
        for number, peer in ((1, 2), (2, 1)):
            mine.eventually(f"paifang l4 ask status --state /run/edge-{number}", f"sync +complete(.|\\n)*edge-{peer} ")
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
        for begin in ("--vip vrrp", "--vip bgp"):
            install, _ = page.steps(f"paifang l4 {begin}")  # the fixture ran what follows it
            mine.run(f"{install.command} --simulate --no-upgrade")
        page.take("protocol bfd")  # the router's
        mine.eventually("ip -n r route show 192.0.2.25", "via 10.0.0.11 dev eth1")
        mine.eventually("ip -n r route show table 101", "default via 10.0.0.11")
        mine.eventually("ip -n n2 addr show dev eth0", "inet 192.0.2.25/32")


def test_l4(mine: Machine) -> None:
    with follow("l4.md") as page:
        page.take("--interface eth0 --interface eth1")  # the fixture ran it
        for step in page.steps("paifang sessions kill"):
            mine.run(step.command)
        ipip, decap = page.steps("paifang l4 decap")
        assert ipip.command.startswith("modprobe ipip;")  # needs a kernel's module, which not every machine has
        mine.run("ip -n s addr add 192.0.2.25/32 dev lo")
        mine.leave_running("inside s python3 -m http.server 80", "")
        mine.leave_running(f"inside s {decap.command.partition(' #')[0]} --xdp generic", "taking packets for")
        mine.eventually("inside r curl -s -m 2 http://192.0.2.25/", "hello")
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
