"""A lab by its command line, as a user has it: every tier runs, every kind of traffic passes, nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.endpoints import endpoint
from deploy.lab import model, namespaces, state
from deploy.lab.topology import CLIENT, CLIENT6, VIP, VIP6
from l4fast.sources import reasons
from tests.e2e import alibaba_user, jdcloud_user
from tests.leaks import LEAST, family, forms, in_files, in_proc, key_forms

pytestmark = pytest.mark.root

NAME = f"pftlab{os.getpid()}"
CLIENTS = {VIP: f"{CLIENT}:", VIP6: f"[{CLIENT6}]:"}
DEADLINE_S = 30.0


def lab(*words: str, name: str = NAME) -> subprocess.CompletedProcess[str]:
    """`paifang lab COMMAND --name NAME …`"""
    return subprocess.run(
        [sys.executable, "-m", "deploy.lab", words[0], "--name", name, *words[1:]], capture_output=True, text=True
    )


def run(host: str, *words: str) -> subprocess.CompletedProcess[str]:
    return lab("exec", host, "--", *words)


def traces(name: str) -> list[object]:
    """Whatever is left of a lab."""
    left = namespaces.existing(f"{name}-")
    return [*left, *namespaces.inhabitants(left), *state.STATE_DIR.glob(f"{name}/*")]


@pytest.fixture(scope="module")
def up() -> Iterator[dict[str, Any]]:
    """A lab of uncommon shape; the demonstration's test has the common one."""
    shape = ["--l4", "3", "--l7", "1", "--keyservers", "2", "--backends", "2", "--xdp", "generic"]
    made = lab("up", *shape, "--json")
    try:
        assert made.returncode == 0, made.stderr
        yield json.loads(made.stdout)
    finally:
        down = lab("down")
        assert down.returncode == 0, down.stderr
        assert traces(NAME) == []


def status() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(lab("status", "--json").stdout)
    return document


def pid_of(host: str) -> int | None:
    pid: int | None = next(each["pid"] for each in status()["hosts"] if each["name"] == host)
    return pid


def test_every_process_runs_and_every_node_is_in_step(up: dict[str, Any]) -> None:
    assert up["phase"] == "up"
    assert {host["name"]: host["runs"] for host in up["hosts"] if host["role"] != "client"} == dict.fromkeys(
        ["router", "control", "l4-1", "l4-2", "l4-3", "l7-1", "key-1", "key-2", "be-1", "be-2"], True
    )
    deadline = time.monotonic() + DEADLINE_S
    nodes = status()["cluster"]["nodes"]
    while any(node["step"] != "in step" for node in nodes):
        assert time.monotonic() < deadline, nodes
        nodes = status()["cluster"]["nodes"]
    assert {node["name"] for node in nodes} == {"l4-1", "l4-2", "l4-3", "l7-1"}


def test_explaining_says_where_connections_go_and_then_where_they_are(up: dict[str, Any]) -> None:
    """Of flows whose server the hash decides; and of a request, by its id, that is over and one that goes on."""
    # Sessions with a server that closes at once are remembered for seconds: those two connections are made again.
    script = (
        "import socket, struct, sys, threading, time\n"
        "def again(source):\n"
        "    while True:\n"
        "        with socket.socket() as sock:\n"
        "            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n"
        f"            sock.bind(({CLIENT!r}, source))\n"
        "            sock.settimeout(5)\n"
        "            try:\n"
        f"                sock.connect(({VIP!r}, 5000)); sock.recv(99)\n"
        "            except OSError: pass\n"
        "        time.sleep(0.5)\n"
        "for source in (4101, 4102):\n"
        "    threading.Thread(target=again, args=(source,), daemon=True).start()\n"
        f"kept = socket.create_connection(({VIP!r}, 80), 20, ({CLIENT!r}, 4103))\n"
        "head = 'POST / HTTP/1.1\\r\\nHost: a\\r\\nX-Request-Id: look-%d\\r\\nContent-Length: %d\\r\\n\\r\\n'\n"
        "kept.sendall((head % (1, 0)).encode()); kept.recv(65536)\n"
        "kept.sendall((head % (2, 99)).encode())\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )

    def explain(*words: str) -> dict[str, Any]:
        return dict(json.loads(run("control", sys.executable, "-m", "control.cli", "explain", *words, "--json").stdout))

    argv = [sys.executable, "-m", "deploy.lab", "exec", "--name", NAME, "client", "--", sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        try:
            assert client.stdout.readline() == "ready\n"
            for source in (4101, 4102):
                flow = ("tcp", f"{CLIENT}:{source}", f"{VIP}:5000")
                told, deadline = explain(*flow), time.monotonic() + DEADLINE_S
                while not (found := explain(*flow, "--live"))["sessions"]:
                    assert time.monotonic() < deadline, found
                assert told["server"] in {session["real"] for session in found["sessions"]}, (told, found)
            deadline = time.monotonic() + DEADLINE_S
            while not (found := explain("look-1", "--live"))["requests"]:  # the log is written once a second
                assert time.monotonic() < deadline, found
            assert [row["status"] for row in found["requests"]] == [200]
            found = explain("tcp", f"{CLIENT}:4103", f"{VIP}:80", "--live")
            assert [(row["request_id"], row["requests"]) for row in found["connections"]] == [("look-2", 2)]
            assert found["silent"] == {}
        finally:
            client.stdin.close()


def test_only_what_changes_the_kernel_has_rights(up: dict[str, Any]) -> None:
    for host in up["hosts"]:
        if host["pid"] is None:
            continue
        facts = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{host['pid']}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert (int(facts["CapEff"], 16) == 0) is (host["role"] not in ("l4", "router")), host


def test_no_process_lets_others_look_into_it(up: dict[str, Any]) -> None:
    """Not even those of its own user: what /proc shows of it is root's, and it leaves no core file."""
    roles = {"control", "l4", "l7", "keyserver"}
    pids = [pid for host in up["hosts"] if host["role"] in roles for pid in family(host["pid"])]
    assert len(pids) >= 1 + 3 + 2 + 2 * 2
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text()
        if re.search(r"^Name:\t(keepalived|bird)", Path(f"/proc/{pid}/status").read_text(), re.M) is None:
            assert Path(f"/proc/{pid}/environ").stat().st_uid == 0, Path(f"/proc/{pid}/cmdline").read_bytes()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.M), Path(f"/proc/{pid}/cmdline").read_bytes()


def test_no_secret_is_in_logs_command_lines_or_environments(up: dict[str, Any]) -> None:
    """Every key, token and cluster key of the lab, in everything that its processes write and show."""
    root = state.directory(NAME)
    needles: dict[str, bytes] = {}
    for path in (each for each in root.rglob("*") if each.is_file()):
        if path.name in ("token", "ticket-secret", "cluster.key", "access.key"):
            for number, word in enumerate(path.read_bytes().split()):
                if len(word) >= LEAST:
                    needles |= forms(f"{path} {number}", word)
        elif b"PRIVATE KEY-----" in (text := path.read_bytes()):
            needles |= key_forms(str(path), text)
    assert {Path(name.split()[0]).name for name in needles} > {
        "token",
        "ticket-secret",
        "cluster.key",
        "access.key",
        "key.pem",
    }
    logs = [path for path in root.rglob("*") if path.is_file() and "log" in path.name]
    assert in_files(logs, {"marker": b" INFO "})
    assert in_files(logs, needles) == set()
    pids = [pid for host in up["hosts"] if host["pid"] for pid in family(host["pid"])]
    assert in_proc(pids, {"marker": b"keyserver"})
    assert in_proc(pids, needles) == set()


def test_the_readable_status_has_a_line_for_each_host(up: dict[str, Any]) -> None:
    shown = lab("status")
    assert shown.returncode == 0
    assert all(host["netns"] in shown.stdout for host in up["hosts"])
    assert "tcp-dr" in shown.stdout
    assert "DOES NOT RUN" not in shown.stdout


@pytest.mark.parametrize("port", [model.TCP_NAT_PORT, model.TCP_DR_PORT])
@pytest.mark.parametrize("what", ["tcp", "upload"])
@pytest.mark.parametrize("vip", [VIP, VIP6])
@pytest.mark.usefixtures("up")
def test_tcp(what: str, port: int, vip: str) -> None:
    done = run("client", "python", "-m", "deploy.lab.client", what, endpoint(vip, port), "--bytes", "5000000")
    assert done.returncode == 0, done.stderr
    transfer = json.loads(done.stdout)
    assert transfer["correct"]
    assert transfer["seen_client"].startswith(CLIENTS[vip])


@pytest.mark.parametrize("port", [model.UDP_NAT_PORT, model.UDP_DR_PORT])
@pytest.mark.parametrize("vip", [VIP, VIP6])
@pytest.mark.usefixtures("up")
def test_udp(port: int, vip: str) -> None:
    done = run("client", "python", "-m", "deploy.lab.client", "udp", endpoint(vip, port))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["client"].startswith(CLIENTS[vip])


def curl(*words: str) -> subprocess.CompletedProcess[str]:
    trust = ["--cacert", str(state.directory(NAME) / "ca.pem"), "--resolve", f"{model.DOMAIN}:443:{VIP}"]
    return run("client", "curl", "-sS", "--max-time", "10", *trust, *words)


@pytest.mark.parametrize("url", [f"http://{VIP}/a", f"https://{model.DOMAIN}/a"])
@pytest.mark.usefixtures("up")
def test_http_and_https(url: str) -> None:
    done = curl(url)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["server"] in ("be-1", "be-2")
    assert facts["headers"]["x-forwarded-for"] == [CLIENT]
    assert facts["headers"]["via"] == ["2.0 l7-1" if url.startswith("https") else "1.1 l7-1"]


@pytest.mark.usefixtures("up")
def test_https_over_ipv6_through_both_tiers() -> None:
    trust = ["--cacert", str(state.directory(NAME) / "ca.pem"), "--resolve", f"{model.DOMAIN}:443:[{VIP6}]"]
    done = run("client", "curl", "-sS", "--max-time", "10", *trust, f"https://{model.DOMAIN}/a")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["headers"]["x-forwarded-for"] == [CLIENT6]
    assert facts["headers"]["via"] == ["2.0 l7-1"]


@pytest.mark.usefixtures("up")
def test_a_vip_of_ipv6_answers_to_ping() -> None:
    done = run("client", "ping", "-6", "-c", "1", "-W", "5", VIP6)
    assert done.returncode == 0, done.stdout


@pytest.mark.usefixtures("up")
def test_large_bodies_pass_both_ways() -> None:
    size = 3_000_000
    done = curl(f"https://{model.DOMAIN}/?size={size}", "--output", "/dev/null", "--write-out", "%{size_download}")
    assert (done.returncode, done.stdout) == (0, str(size)), done.stderr
    upload = subprocess.run(
        [*namespaces.enter(f"{NAME}-client"), "curl", "-sS", "--data-binary", "@-", f"http://{VIP}/"],
        input=bytes(size), capture_output=True,
    )  # fmt: skip
    assert upload.returncode == 0, upload.stderr
    assert json.loads(upload.stdout)["body_bytes"] == size


@pytest.mark.usefixtures("up")
def test_a_second_key_server_signs_when_the_first_is_dead() -> None:
    assert lab("kill", "key-1").returncode == 0
    try:
        assert pid_of("key-1") is None
        assert lab("status").returncode == 1
        deadline = time.monotonic() + DEADLINE_S
        while (done := curl(f"https://{model.DOMAIN}/")).returncode:  # the node notices that its key server is gone
            assert time.monotonic() < deadline, done.stderr
    finally:
        started = lab("start", "key-1")
    assert started.returncode == 0, started.stderr
    assert pid_of("key-1") is not None


@pytest.mark.usefixtures("up")
def test_a_dead_l4_node_leaves_the_next_hops_and_comes_back() -> None:
    def hops(host: str) -> int:
        return run(host, "ip", "route").stdout.count("via 10.81.0.1")

    def hops6(host: str) -> int:
        return run(host, "ip", "-6", "route").stdout.count("via fe80::1")

    before = {host: hops(host) for host in ("router", "be-1", "be-2")}
    before6 = {host: hops6(host) for host in before}
    assert lab("kill", "l4-2").returncode == 0
    try:
        deadline = time.monotonic() + DEADLINE_S
        while any("10.81.0.12" in run(host, "ip", "route").stdout for host in before):
            assert time.monotonic() < deadline
        while any("fe80::12" in run(host, "ip", "-6", "route").stdout for host in before):
            assert time.monotonic() < deadline
        for vip in (VIP, f"[{VIP6}]"):
            assert curl(f"http://{vip}/").returncode == 0
    finally:
        assert lab("start", "l4-2").returncode == 0
    deadline = time.monotonic() + DEADLINE_S
    while ({host: hops(host) for host in before}, {host: hops6(host) for host in before}) != (before, before6):
        assert time.monotonic() < deadline


def scraped(host: str) -> dict[tuple[str, ...], float]:
    done = run(host, "curl", "-sS", "http://127.0.0.1:8474/metrics")
    assert done.returncode == 0, done.stderr
    families = text_string_to_metric_families(done.stdout)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


@pytest.mark.usefixtures("up")
def test_what_passes_is_in_metrics_and_top() -> None:
    size = 2_000_000
    before = [scraped(f"l4-{n}") for n in (1, 2, 3)]
    words = [*namespaces.enter(f"{NAME}-client"), sys.executable, "-m", "deploy.lab.client"]
    transfer = [*words, "tcp", f"{VIP}:{model.TCP_NAT_PORT}", "--bytes", str(size), "--rate", "500000"]
    with subprocess.Popen(transfer, stdout=subprocess.DEVNULL) as passing:
        time.sleep(1)
        picture = json.loads(run("control", "paifang", "top", "--once", "--json").stdout)
    assert passing.returncode == 0
    time.sleep(1)  # /metrics may be a second old
    after = [scraped(f"l4-{n}") for n in (1, 2, 3)]

    def gained(*key: str) -> float:
        return sum(late[key] - early[key] for late, early in zip(after, before, strict=True))

    assert gained("paifang_l4_listener_bytes_total", "tcp-nat", "out") > size
    assert gained("paifang_l4_listener_new_sessions_total", "tcp-nat") == 1
    servers = [f"10.81.0.{number}:9000" for number in (101, 102)]
    each = [gained("paifang_l4_server_bytes_total", "tcp-nat", server, "out") for server in servers]
    assert sum(each) == gained("paifang_l4_listener_bytes_total", "tcp-nat", "out")
    assert gained("paifang_l4_packets_total", "tx_session", "tx") > 100
    for found in after:
        for reason in reasons():
            action = reason.partition("_")[0]
            family = "events" if action == "event" else "packets"
            assert (f"paifang_l4_{family}_total", reason, *([action] if family == "packets" else [])) in found
        assert 0 < found["paifang_l4_table_entries", "sessions", "4"] <= found["paifang_l4_table_size", "sessions", "4"]
        assert found["paifang_l4_sync_peers", "synced"] + found["paifang_l4_sync_peers", "unsynced"] >= 1
        assert found["paifang_l4_server_up", "10.81.0.101:9000", "tcp"] == 1

    counting = [node for node in picture["nodes"] if node["counts"]]
    assert {node["name"] for node in counting} == {"l4-1", "l4-2", "l4-3"}
    assert set(picture["together"]["reasons"]) == set(reasons())
    flow = picture["together"]["listeners"]["tcp-nat"]
    assert 0 < flow["bits_out"] < 1e8
    assert flow["sessions"] >= 1
    assert picture["together"]["total"]["bits_out"] >= flow["bits_out"]


@pytest.mark.usefixtures("up")
def test_top_of_one_node() -> None:
    own = subprocess.run(
        [sys.executable, "-m", "control.cli", "top", "--once", "--state", str(state.directory(NAME) / "l4-1/state")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert own.returncode == 0, own.stderr
    assert own.stdout.startswith("paifang top  1 L4 node  configuration ")
    assert "tcp-nat" in own.stdout


@pytest.mark.usefixtures("up")
def test_exec_has_the_exit_code_of_the_command() -> None:
    assert run("be-1", "sh", "-c", "exit 7").returncode == 7
    assert "10.81.0.101" in run("be-1", "ip", "addr").stdout


@pytest.mark.usefixtures("up")
def test_exec_on_control_finds_the_api() -> None:
    done = run(
        "control", "sh", "-c", 'curl -s -H "Authorization: Bearer $PAIFANG_TOKEN" $PAIFANG_API/v1/listeners/http'
    )
    assert json.loads(done.stdout)["port"] == model.HTTP_PORT, done


FLOWS = 8


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize(
    ("who", "ports"),
    [("alibaba", alibaba_user.PORTS), ("jdcloud", jdcloud_user.PORTS)],
    ids=["alibaba", "jdcloud"],
)
def test_what_a_clouds_sdk_makes_carries_traffic_of_every_protocol(who: str, ports: dict[str, int]) -> None:
    """Listeners on the lab's VIPs, made by the SDK as it is, and packets through both tiers to their servers."""

    def user(*words: str) -> dict[str, Any]:
        done = run("control", "python", "-m", f"tests.e2e.{who}_user", *words)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout or "{}")
        return found

    made = user("make")
    deadline = time.monotonic() + DEADLINE_S
    while set(chain.from_iterable((told := user("health", json.dumps(made))).values())) != {"normal"}:
        assert time.monotonic() < deadline, told
    while {node["step"] for node in status()["cluster"]["nodes"]} != {"in step"}:
        assert time.monotonic() < deadline
    for protocol in ("tcp", "udp"):
        size = ["--bytes", "200000"] if protocol == "tcp" else []
        ask = ["python", "-m", "deploy.lab.client", protocol, endpoint(VIP, ports[protocol]), *size]
        # Servers' ports are shared with other nat listeners: an answer that comes back by the other L4 node, before it
        # knows the flow, is dropped (docs/l4.md), and half of all flows have one.
        tries = (run("client", *ask) for _ in range(FLOWS))
        done = next((each for each in tries if each.returncode == 0), None)
        assert done is not None, f"{protocol}: none of {FLOWS} flows was answered"
        assert json.loads(done.stdout)
    seen = curl(f"http://{VIP}:{ports['http']}/a")
    assert json.loads(seen.stdout)["server"] in ("be-1", "be-2"), seen.stderr
    seen = curl("--resolve", f"{model.DOMAIN}:{ports['https']}:{VIP}", f"https://{model.DOMAIN}:{ports['https']}/a")
    assert json.loads(seen.stdout)["server"] in ("be-1", "be-2"), seen.stderr
    user("remove", json.dumps(made))


@pytest.mark.usefixtures("up")
def test_what_cannot_be_is_said_in_one_line() -> None:
    again, unknown, nothing = lab("up"), run("l4-9", "true"), lab("exec", "client")
    assert (again.returncode, unknown.returncode, nothing.returncode) == (1, 2, 2)
    assert "is up already" in again.stderr
    assert "no host 'l4-9'; there are client" in unknown.stderr
    assert "what should run there" in nothing.stderr


def test_up_after_a_crash_in_the_middle(tmp_path: Path) -> None:
    name = f"pftcr{os.getpid()}"
    words = [sys.executable, "-m", "deploy.lab", "up", "--name", name, "--l4", "1", "--l7", "1", "--backends", "1"]
    with (tmp_path / "log").open("wb") as log:
        crashed = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while len(namespaces.inhabitants([f"{name}-be-1", f"{name}-control"])) < 2 and crashed.poll() is None:
            assert time.monotonic() < deadline
        os.kill(crashed.pid, signal.SIGKILL)
        crashed.wait()
        assert traces(name), (tmp_path / "log").read_text()
        second = subprocess.run(words, capture_output=True, text=True)
        assert second.returncode == 0, second.stderr
        assert "did not end properly" in second.stderr
    finally:
        crashed.kill()
        crashed.wait()
        down = lab("down", name=name)
    assert down.returncode == 0, down.stderr
    assert traces(name) == []
    assert "nothing to do" in lab("down", name=name).stdout
    assert lab("status", name=name).returncode == 1


@pytest.mark.parametrize("words", [["up", "--l4", "0"], ["up", "--backends", "100"], ["up", "--vip", "ospf"]])
def test_wrong_arguments(words: list[str]) -> None:
    done = lab(*words)
    assert done.returncode == 2
    assert words[1] in done.stderr


def test_a_name_that_would_not_fit_a_namespace() -> None:
    assert lab("up", name="Bad/Name").returncode == 2
