"""What is found of a machine: tables of facts, and this machine in network namespaces with bad settings."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control import doctor, doctor_net
from control.cli_doctor import render
from control.doctor import CHECKS, ROLES, Facts, Level, judged
from control.doctor_facts import Wanted, gather
from tests.control.conftest import Authority

ETH: dict[str, Any] = {
    "name": "eth0", "exists": True, "up": True, "mtu": 1500, "driver": "ixgbe", "lro": False, "rxvlan": False,
    "gro": False, "gro_hw": False, "vlans": [], "queues": 8, "cores": 8,
}  # fmt: skip
STATE: dict[str, Any] = {"path": "/s", "exists": True, "writable": True, "mode": 0o700, "free": 9 << 30, "user": "me"}
ARP = ("net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce")
DAY_S = 86_400
MINE = [("tcp", 80, "listener web"), ("tcp", 8472, "readiness")]
# Facts, the levels that they give, and words of the text or remedy.
TABLE: tuple[tuple[str, dict[str, Any], list[str], str], ...] = (
    ("l4", {"release": "6.1.0-18-amd64"}, ["ok"], "6.1.0"),
    ("l4", {"release": "5.10.0"}, ["error"], "later kernel"),
    ("", {"python": [3, 11, 2]}, ["ok"], ""),
    ("", {"python": [3, 9, 2]}, ["error"], "3.11"),
    ("l7", {"openssl": "OpenSSL 3.0", "openssl_number": 0x30000000, "openssl_shared": True}, ["ok"], ""),
    ("l7", {"openssl": "OpenSSL 1.1", "openssl_number": 0x1010100F, "openssl_shared": True}, ["error"], "OpenSSL 3"),
    ("l7", {"openssl": "3.0", "openssl_number": 0x30000000, "openssl_shared": False}, ["error"], "/usr/bin/python3"),
    ("l7", {"files": 1024}, ["error"], "LimitNOFILE"),
    ("l7", {"files": 20000}, ["warning"], "10000 connections"),
    ("l7", {"files": 1 << 20}, ["ok"], ""),
    ("", {"cores": 4, "quota": None}, ["ok"], ""),
    ("", {"cores": 4, "quota": 4.0}, ["ok"], ""),
    ("", {"cores": 4, "quota": 1.5}, ["warning"], "--workers 1"),
    ("", {"memory": 8 << 30, "memory_limit": None}, ["ok"], ""),
    ("", {"memory": 8 << 30, "memory_limit": 100 << 20}, ["error"], "100 MiB"),
    ("", {"memory": 500 << 20, "memory_limit": None}, ["warning"], "500 MiB"),
    ("", {"synchronised": True}, ["ok"], ""),
    ("", {"synchronised": False}, ["warning"], "chrony"),
    ("", {"skew": 0.4}, ["ok"], ""),
    ("", {"skew": -5.0}, ["warning"], "5 s behind"),
    ("", {"skew": 90.0}, ["error"], "90 s ahead"),
    ("l7", {"wanted_ports": MINE, "used_ports": [("udp", 80, "x"), ("tcp", 81, "x")]}, ["ok"], "2 ports"),
    ("l7", {"wanted_ports": MINE, "used_ports": [("tcp", 80, "17 nginx -g")]}, ["error"], "is taken by 17 nginx"),
    ("l7", {"wanted_ports": MINE, "used_ports": [("tcp", 80, "")]}, ["error"], "another process"),
    ("l7", {"wanted_ports": MINE, "used_ports": [("tcp", 80, "9 python -m proxy")]}, ["note"], "of ours"),
    ("l4", {"net.core.bpf_jit_enable": 1}, ["ok"], ""),
    ("l4", {"net.core.bpf_jit_enable": 0}, ["error"], "sysctl -w net.core.bpf_jit_enable=1"),
    ("l7", {"net.core.bpf_jit_enable": 0}, [], ""),
    ("l7", {"kernel.unprivileged_bpf_disabled": 0}, ["warning"], "sysctl -w kernel.unprivileged_bpf_disabled=1"),
    ("l4", {"bpffs": False}, ["error"], "mount -t bpf"),
    ("l4", {"bpffs": True}, ["ok"], ""),
    ("l4", {"memlock": 65536, "release": "6.1.0"}, ["ok", "ok"], ""),
    ("l4", {"memlock": 65536, "release": "5.4.0"}, ["error", "error"], "LimitMEMLOCK"),
    ("l4", {"memlock": -1, "release": "5.4.0"}, ["error", "ok"], ""),
    ("l4", {"l4fast": {"bcc": "is missing", "program": None, "seconds": 0}}, ["error"], "python3-bpfcc"),
    ("l4", {"l4fast": {"bcc": "", "program": "R1 invalid", "seconds": 0}}, ["error"], "R1 invalid"),
    ("l4", {"l4fast": {"bcc": "", "program": "", "seconds": 1.5}}, ["ok"], "1.5 s"),
    ("l4", {"l4fast": {"bcc": "", "program": None, "seconds": 0}}, ["note"], "only root"),
    ("l4", {"interface": {"name": "eth9", "exists": False}}, ["error"], "ip -br link"),
    ("l4", {"interface": ETH}, ["ok"], "native XDP"),
    ("l4", {"interface": {**ETH, "up": False}}, ["error", "ok"], "ip link set eth0 up"),
    ("l4", {"interface": {**ETH, "lro": True}}, ["error", "ok"], "ethtool -K eth0 lro off"),
    ("l4", {"interface": {**ETH, "rxvlan": True}}, ["note", "ok"], "rxvlan off"),
    ("l4", {"interface": {**ETH, "rxvlan": True, "vlans": ["eth0.20"]}}, ["warning", "ok"], "rxvlan off"),
    ("l4", {"interface": {**ETH, "queues": 1}}, ["ok", "note"], "combined 8"),
    ("l4", {"interface": {**ETH, "mtu": 1000}}, ["ok", "error"], "mtu 1500"),
    ("l4", {"interface": {**ETH, "driver": "veth"}}, ["note"], "gro on"),
    ("l4", {"interface": {**ETH, "driver": "virtio_net"}}, ["ok"], ""),
    ("l4", {"interface": {**ETH, "driver": "virtio_net", "gro_hw": True}}, ["warning"], "gro-hw off"),
    ("l4", {"interface": {**ETH, "driver": "dummy", "gro": True}}, ["note", "note"], "--xdp generic"),
    ("l4", {"multicast": "", "group": "224.0.0.81"}, ["ok"], ""),
    ("l4", {"multicast": "Network is unreachable", "group": "224.0.0.81"}, ["error"], "ip route add 224.0.0.81/32"),
    ("l4", {"vip_method": "vrrp", "vip_program": None}, ["error"], "apt install keepalived"),
    ("l4", {"vip_method": "bgp", "vip_program": None}, ["error"], "apt install bird2"),
    ("l4", {"vip_method": "bgp", "vip_program": "/usr/sbin/bird"}, ["ok"], ""),
    ("l4", {"vip_method": "vrrp", "rp_filter": {"all": 1, "eth0": 0}}, ["warning"], "net.ipv4.conf.eth0.rp_filter=0"),
    ("l4", {"vip_method": "vrrp", "rp_filter": {"all": 0, "eth0": 2}}, ["ok"], ""),
    ("l4", {"vip_method": "static", "rp_filter": {"all": 1, "eth0": 1}}, ["ok"], ""),
    ("l7", {ARP[0]: 1, ARP[1]: 2, "behind": True}, ["ok"], ""),
    ("l7", {ARP[0]: 0, ARP[1]: 2, "behind": True}, ["error"], "arp_ignore=1"),
    ("l7", {ARP[0]: 1, ARP[1]: 0, "behind": False}, ["warning"], "arp_announce=2"),
    ("l7", {"vips_missing": []}, ["ok"], ""),
    ("l7", {"vips_missing": ["192.0.2.1", "2001:db8::1"]}, ["error", "error"], "ip -6 addr add 2001:db8::1/128 dev lo"),
    ("l7", {"net.core.somaxconn": 128}, ["warning"], "somaxconn=4096"),
    ("l7", {"net.core.somaxconn": 4096}, ["ok"], ""),
    ("l7", {"net.ipv4.tcp_migrate_req": 0}, ["note"], "tcp_migrate_req=1"),
    ("l7", {"port_low": 32768, "port_high": 60999}, ["ok"], "28232 ports"),
    ("l7", {"port_low": 50000, "port_high": 60999}, ["warning"], "11000 ports"),
    ("l7", {"net.ipv4.tcp_tw_reuse": 2}, ["note"], "tcp_tw_reuse=1"),
    ("l4", {"net.netfilter.nf_conntrack_count": 0, "net.netfilter.nf_conntrack_max": 0}, ["ok"], ""),
    ("l4", {"net.netfilter.nf_conntrack_count": 9, "net.netfilter.nf_conntrack_max": 10}, ["error"], "90 % full"),
    ("l4", {"net.netfilter.nf_conntrack_count": 9, "net.netfilter.nf_conntrack_max": 65536}, ["warning"], "65536"),
    ("", {"state": STATE}, ["ok"], ""),
    ("", {"state": {"path": "/s", "exists": False}}, ["note"], "makes it"),
    ("", {"state": {**STATE, "writable": False}}, ["error", "ok"], "chown me /s"),
    ("", {"state": {**STATE, "mode": 0o755}}, ["warning", "ok"], "chmod 700 /s"),
    ("", {"state": {**STATE, "free": 10 << 20}}, ["error"], "10 MiB"),
    ("", {"state": {**STATE, "free": 500 << 20}}, ["warning"], "500 MiB"),
    ("l7", {"identity": {"role": "l7", "name": "a", "ends": 9e9}, "now": 1e9, "role": "l7"}, ["ok"], ""),
    ("l7", {"identity": {"role": "l4", "name": "a", "ends": 9e9}, "now": 1e9, "role": "l7"}, ["error"], "of role l4"),
    ("l7", {"identity": {"role": "l7", "name": "a", "ends": 1e9}, "now": 9e9, "role": "l7"}, ["error"], "has ended"),
    ("l7", {"identity": {"role": "l7", "name": "a", "ends": DAY_S}, "now": 0, "role": "l7"}, ["warning"], "1.0 days"),
    ("l7", {"identity": {"why": "no key.pem"}, "now": 1e9, "role": "l7"}, ["error"], "paifang node invite --role l7"),
    ("l7", {"unit": "active", "role": "l7"}, ["ok"], ""),
    ("l7", {"unit": "failed", "role": "l7"}, ["warning"], "journalctl -u paifang-l7.service"),
    ("l7", {"unit": "", "role": "l7"}, ["note"], "paifang install l7"),
    ("", {"configuration": []}, ["ok"], ""),
    ("", {"configuration": [("error", "site.toml:3: no"), ("warning", "soon")]}, ["error", "warning"], "site.toml:3"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("role", "facts", "levels", "says"),
    TABLE,
    ids=[f"{n}-{row[0]}-{next(iter(row[1]))}" for n, row in enumerate(TABLE)],
)
def test_facts_and_what_is_found(role: str, facts: dict[str, Any], levels: list[str], says: str) -> None:
    found = judged(Facts(facts, {}), role)
    assert [each.level.value for each in found] == levels
    assert says in render(found)
    for each in found:
        assert each.level is Level.OK or each.remedy or each.level is Level.NOTE, "what is wrong has a remedy"


def test_every_check_has_its_rows() -> None:
    judges = {check.judge for check in CHECKS}
    met = {
        check.judge for check in CHECKS for _, facts, levels, _ in TABLE if levels and set(check.needs) <= facts.keys()
    }
    assert judges == met
    assert {role for check in CHECKS for role in check.roles} <= set(ROLES)


def test_what_cannot_be_seen_is_said() -> None:
    found = judged(Facts({}, {"bpffs": "permission denied"}), "l4")
    assert [(each.level, each.text) for each in found] == [(Level.NOTE, "not looked at: permission denied")]


def test_this_machine_can_be_looked_at_by_anybody(authority: Authority, tmp_path: Path) -> None:
    identity = authority.issue("l7", "l7-1")
    facts = gather(Wanted("l7", state=tmp_path, identity=identity))
    found = {each.what: each.level for each in judged(facts, "l7")}
    assert found["identity"] is Level.WARNING, "it ends in a day"
    assert found["python"] is found["openssl"] is found["state"] is Level.OK
    assert facts.seen["cores"] >= 1
    assert gather(Wanted(identity=tmp_path / "none")).seen["identity"]["why"]


def test_who_has_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ((by),) = [by for protocol, at, by in doctor_net.listening() if (protocol, at) == ("tcp", port)]
    assert by.startswith(f"{os.getpid()} ")


def in_namespace(script: str, *words: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """What `paifang doctor` finds in a network namespace of its own, after this script."""
    command = shlex.join([sys.executable, "-m", "control.cli", "doctor", *words, "--json"])
    argv = ["unshare", "--net", "sh", "-ec", f"{script}\nexec {command}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, list[tuple[str, str]]] = {}
    for each in json.loads(done.stdout)["findings"]:
        found.setdefault(each["what"], []).append((each["level"], f"{each['text']} {each['remedy']}"))
    return done.returncode, found


SITE = {
    "instances": [{"name": "i", "vips": ["192.0.2.1"]}],
    "nodes": [
        {"name": "l4-1", "role": "l4", "address": "10.0.0.1"},
        {"name": "l7-1", "role": "l7", "address": "10.0.0.2"},
    ],
    "server_groups": [{"name": "g", "servers": [{"address": "10.0.0.3", "port": 80}]}],
    "backend_services": [{"name": "b", "protocol": "http", "server_group": "g"}],
    "listeners": [{"name": "web", "instance": "i", "protocol": "http", "port": 8099, "backend_service": "b"}],
}


@pytest.mark.root
def test_an_l7_machine_with_bad_settings_and_mended_as_told(tmp_path: Path) -> None:
    site = tmp_path / "site.json"
    site.write_text(json.dumps(SITE))
    words = ("--role", "l7", "--file", str(site))
    bad = f"""
        ip link set lo up
        sysctl -qw net.core.somaxconn=100 net.ipv4.ip_local_port_range='60000 61000'
        {sys.executable} -m http.server 8099 --bind 127.0.0.1 >/dev/null 2>&1 & holder=$!
        for _ in $(seq 400); do ss -ltn | grep -q :8099 && break; sleep 0.05; done
    """
    command = shlex.join([sys.executable, "-m", "control.cli", "doctor", *words, "--json"])
    code, found = in_namespace(bad + f"{command} && code=0 || code=1; kill $holder; exit $code\n", *words)
    assert code == 1
    assert found["arp"][0][0] == "error"
    assert found["vip"] == [("error", "the VIP 192.0.2.1 is no address of this machine: L4 nodes bring its packets "
                                      "ip addr add 192.0.2.1/32 dev lo")]  # fmt: skip
    assert "http.server 8099" in found["ports"][0][1]
    assert [level for level, _ in found["queues"] if level == "warning"] == ["warning", "warning"]
    good = """
        ip link set lo up
        ip addr add 192.0.2.1/32 dev lo
        sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2 net.core.somaxconn=4096
        sysctl -qw net.ipv4.tcp_migrate_req=1 net.ipv4.tcp_tw_reuse=1
    """
    _, found = in_namespace(good, *words)
    for what in ("arp", "vip", "ports", "queues", "configuration"):
        assert {level for level, _ in found[what]} == {"ok"}, found[what]


@pytest.mark.root
def test_an_l4_machine_with_bad_settings() -> None:
    bad = "ip link add pftdr0 type veth peer name pftdr1 && ip link set pftdr0 mtu 1000"
    code, found = in_namespace(bad, "--role", "l4", "--interface", "pftdr0", "--interface", "pftnone", "--vip", "vrrp")
    assert code == 1
    said = " ".join(text for _, text in found["interface"])
    assert "pftdr0 is down" in said
    assert "MTU of 1000" in said
    assert "pftdr0 is a veth" in said
    assert "there is no interface pftnone" in said
    assert found["multicast"][0][0] == "error"
    assert found["xdp"][0][0] == "ok", found["xdp"]
    assert found["vip"][0][0] == "ok"


@pytest.mark.root
def test_multicast_comes_back_where_it_may() -> None:
    script = """
        ip link add pftdm0 type veth peer name pftdm1
        ip link set pftdm0 up; ip link set pftdm1 up; ip addr add 10.9.9.1/24 dev pftdm0
    """
    look = (
        "import json; from control import doctor_net as d; group = '224.0.0.81'; "
        "print(json.dumps([d.multicast(group, 'pftdm0'), d.multicast(group, 'none'), d.interface('pftdm0')]))"
    )
    argv = ["unshare", "--net", "sh", "-ec", f"{script}\nexec {shlex.join([sys.executable, '-c', look])}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    back, none, found = json.loads(done.stdout)
    assert (back, none) == ("", "no interface with this name")
    assert (found["exists"], found["up"], found["driver"], found["mtu"]) == (True, True, "veth", 1500)


def test_levels_are_words() -> None:
    assert [*doctor.Level] == ["ok", "note", "warning", "error"]
