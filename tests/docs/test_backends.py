"""The page about servers, followed in the network that it shows: router, L4 node, two servers, client.

The router's namespace is the machine itself, which has the bridge, the control plane (10.0.0.5) and the neighbour that
asks for the VIP's MAC address. Services and client are the lab's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.docs.machine import Left, Machine, machine
from tests.docs.pages import Page, follow

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

# Host: last part of its addresses. XDP asks for finished checksums (docs/lab.md).
HOSTS = {"l4-1": 11, "db-1": 101, "db-2": 102}
NETWORK = """
set -e
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0
sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0
ip link add eth0 type bridge forward_delay 0; ip link set eth0 up
ip addr add 10.0.0.1/24 dev eth0; ip addr add 10.0.0.5/24 dev eth0; ip addr add 2001:db8:0:1::1/64 dev eth0 nodad
lay() {  # name, the device here
    ip netns add $1; ip link add $2 type veth peer name eth0 netns $1; ip link set $2 up
    ethtool -K $2 tx off >/dev/null; ip netns exec $1 ethtool -K eth0 tx off >/dev/null
    ip netns exec $1 sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    ip -n $1 link set lo up; ip -n $1 link set eth0 up
}
lay client to-client
ip addr add 198.51.100.1/24 dev to-client; ip addr add 2001:db8:0:2::1/64 dev to-client nodad
ip -n client addr add 198.51.100.7/24 dev eth0; ip -n client addr add 2001:db8:0:2::7/64 dev eth0 nodad
ip -n client route add default via 198.51.100.1; ip -n client route add default via 2001:db8:0:2::1
"""
HOST = """
lay {name} to-{name}; ip link set to-{name} master eth0
ip -n {name} addr add 10.0.0.{last}/24 dev eth0; ip -n {name} addr add 2001:db8:0:1::{last}/64 dev eth0 nodad
ip -n {name} route add default via 10.0.0.1; ip -n {name} route add default via 2001:db8:0:1::1
"""
CONTROL = """
paifang certs init ca >/dev/null; mkdir -p /var/lib/paifang
paifang certs issue ca --role control --name control --ip 10.0.0.5 --out control-id >/dev/null
paifang certs issue ca --role l4 --name l4-1 --ip 10.0.0.11 --out l4-id >/dev/null
paifang l4 --make-cluster-key cluster.key
"""
VIPS = ("192.0.2.25", "[2001:db8::25]")
NETWORKD = (
    "mkdir -p /run/systemd/netif/links; chown -R systemd-network:systemd-network /run/systemd/netif;"
    " mount -o remount,bind,ro /sys; exec /lib/systemd/systemd-networkd"
)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The page's cluster at work, before anything was done on its servers but to start the services."""
    page = Page("backends.md")
    with machine(tmp_path_factory.mktemp("backends")) as made:
        hosts = "".join(HOST.format(name=name, last=last) for name, last in HOSTS.items())
        made.run(f"( {NETWORK}{hosts} )")
        made.run(CONTROL)
        made.leave_running(
            "paifang control --state /var/lib/paifang/control --nodes 10.0.0.5:8471 --identity control-id", "node API"
        )
        made.run("export PAIFANG_API=http://127.0.0.1:8470 PAIFANG_TOKEN=$(cat /var/lib/paifang/control/token)")
        made.write("site.toml", page.block('name = "orders"').text)
        made.run("paifang apply site.toml")
        made.run(page.block("ip route add 192.0.2.25 via").text)
        for name, ports in (("db-1", "--tcp 9000 --udp 9053"), ("db-2", "--tcp 7001 --udp 7054")):
            vips = "--address 192.0.2.25 --address 2001:db8::25" if name == "db-2" else ""
            own = f"--address 10.0.0.{HOSTS[name]} --address 2001:db8:0:1::{HOSTS[name]}"
            # The service of dr listens on the VIP, which the host has not got yet.
            on(made, name, "sysctl -qw net.ipv4.ip_nonlocal_bind=1 net.ipv6.ip_nonlocal_bind=1")
            made.leave_running(inside(name, f"python -m deploy.lab.backend --name {name} {own} {vips} {ports}"), "")
        made.leave_running(
            inside(
                "l4-1",
                "paifang l4 --name l4-1 --control https://10.0.0.5:8471 --identity l4-id --interface eth0 --xdp generic"
                " --state /var/lib/paifang-l4 --cluster-key cluster.key",
            ),
            "",
        )
        yield made


def inside(host: str, command: str) -> str:
    return f"nsenter --net=/run/netns/{host} -- {command}"


def on(mine: Machine, host: str, script: str) -> None:
    """Runs lines of the page on a host, which all have to succeed."""
    mine.write("lines.sh", "set -e\n" + script + "\n")
    mine.run(inside(host, "bash lines.sh"))


def ask(vip: str, port: int, kind: str) -> str:
    """The command of a client that is answered."""
    return inside("client", f"timeout 5 python -m deploy.lab.client {kind} {vip}:{port} --bytes 100000")


def served(mine: Machine, server: str, tcp: int, udp: int) -> None:
    """TCP and UDP, IPv4 and IPv6: the server answers, and sees the client's own address."""
    asked = (ask(vip, port, kind) for vip in VIPS for kind, port in (("tcp", tcp), ("udp", udp)))
    text = mine.eventually(f"( {' & '.join(asked)} & wait )", f"(?s)({server}.*){{4}}")
    assert [text.count(client) for client in ("198.51.100.7", "2001:db8:0:2::7")] == [2, 2], text


def unserved(mine: Machine, port: int) -> None:
    """No connection comes about: the SYN's answer does not arrive, or is not the VIP's."""
    mine.run(inside("client", f"timeout 1 bash -c '</dev/tcp/{VIPS[0]}/{port}'"), code=124)


def networkd(mine: Machine, host: str) -> Left:
    """systemd-networkd on a host; it says all that it does."""
    mine.run("mkdir -p /etc/systemd/network")
    start = f"SYSTEMD_LOG_LEVEL=debug {inside(host, f'unshare -m sh -c {json.dumps(NETWORKD)}')}"
    return mine.leave_running(start, "Enumeration completed")


def neighbour(mine: Machine, page: Page) -> str:
    """What the page's way to see whether the VIP is hidden shows."""
    route, ping, show = page.steps("ip neigh show")
    mine.run("ip route del 192.0.2.25; sysctl -qw net.ipv4.neigh.eth0.retrans_time_ms=100")
    mine.run(f"{route.command}; {ping.command} >/dev/null; true")
    shown = mine.run(show.command).out
    mine.run("ip route del 192.0.2.25 dev eth0; ip neigh flush 192.0.2.25; true")
    mine.run("ip route add 192.0.2.25 via 10.0.0.11")
    return shown


def test_backends(mine: Machine) -> None:
    with follow("backends.md") as page:
        page.take("ip route add 192.0.2.25 via")
        (status,) = page.steps("paifang l4 ask status")
        mine.eventually(inside("l4-1", status.command), r"(?s)(\bup\b.*){8}")
        behind_nat(mine, page)
        direct(mine, page)
        through_a_tunnel(mine, page)


def behind_nat(mine: Machine, page: Page) -> None:
    unserved(mine, 7000)
    on(mine, "db-1", page.take("sport 9000 lookup 100").text)
    served(mine, "db-1", 7000, 7053)
    # The same by systemd-networkd, on a host that has nothing any more.
    mine.run("for v in -4 -6; do ip $v -n db-1 rule del lookup 100; ip $v -n db-1 rule del lookup 100; done")
    mine.run("ip -n db-1 route flush table 100; ip -n db-1 -6 route flush table 100")
    unserved(mine, 7000)
    mine.write("/etc/systemd/network/20-eth0.network", page.take("[RoutingPolicyRule]").text)
    mine.run("ip -n db-1 addr flush dev eth0 scope global")
    running = networkd(mine, "db-1")
    served(mine, "db-1", 7000, 7053)
    mine.stop(running)
    mine.run("rm /etc/systemd/network/20-eth0.network")


def direct(mine: Machine, page: Page) -> None:
    unserved(mine, 7001)
    by_hand = page.take("ip addr add 192.0.2.25/32 dev lo")
    addresses, settings = by_hand.text.rsplit("\n", 1)
    on(mine, "db-2", addresses)
    assert "lladdr" in neighbour(mine, page)  # not hidden yet
    on(mine, "db-2", settings)
    assert re.search("FAILED|INCOMPLETE", neighbour(mine, page))
    served(mine, "db-2", 7001, 7054)

    hidden = "net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce"
    before = mine.run(inside("db-2", f"sysctl {hidden}")).out
    on(mine, "db-2", "sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0; ip addr flush dev lo")
    unserved(mine, 7001)
    mine.write("/etc/sysctl.d/60-vip.conf", page.take("net.ipv4.conf.all.arp_ignore = 1").text)
    on(mine, "db-2", "/lib/systemd/systemd-sysctl /etc/sysctl.d/60-vip.conf")
    assert mine.run(inside("db-2", f"sysctl {hidden}")).out == before
    mine.write("/etc/systemd/network/10-vip.netdev", page.take("Kind=dummy").text)
    mine.write("/etc/systemd/network/10-vip.network", page.take("DuplicateAddressDetection=none").text)
    running = networkd(mine, "db-2")
    served(mine, "db-2", 7001, 7054)
    assert re.search("FAILED|INCOMPLETE", neighbour(mine, page))
    assert 'vip0: loaded "dummy"' in running.text
    assert "Unknown" not in running.text
    mine.stop(running)


def through_a_tunnel(mine: Machine, page: Page) -> None:
    """The listeners of dr in mode tunnel, to the same server, which opens the packets."""
    mine.run("""sed -i 's/mode = "dr"/mode = "tunnel"/' site.toml && paifang apply site.toml""")
    mine.eventually("paifang status", "in step")
    unserved(mine, 7001)
    (start,) = page.first("paifang l4 decap --interface eth0").steps
    unit = page.take("Type=notify").text
    assert f"ExecStart=/usr/local/bin/{start.command}\n" in unit
    mine.run("ln -sf $(which paifang) /usr/local/bin/paifang")
    mine.write("paifang-decap.service", unit)
    assert "paifang-decap" not in mine.run("systemd-analyze verify ./paifang-decap.service").text
    mine.leave_running(inside("db-2", start.command + " --xdp generic"), ".")
    served(mine, "db-2", 7001, 7054)
    on(mine, "db-2", page.take("advmss 1440").text)
    segment = "import socket; s = socket.create_connection(('{}', 7001)); print(s.getsockopt(6, socket.TCP_MAXSEG))"
    for vip, most in (("192.0.2.25", 1440), ("2001:db8::25", 1400)):
        found = int(mine.run(inside("client", f'python -c "{segment.format(vip)}"')).out)
        assert most - 20 <= found <= most
