"""docs/installation.md, followed on a booted Debian 12: all four processes as services of a systemd of its own.

One machine has the addresses of all that the page installs. Its traffic takes the whole way: a client outside, the VIP
that keepalived announces, XDP, the L7 node on the same machine (mode dr), a server outside.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.lab import namespaces
from tests.docs.pages import Page, follow
from tests.e2e.booted import Booted, booted
from tests.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
NAME = f"pftsd{os.getpid()}"
ROLES = ("control", "keyserver", "l7", "l4")
VIP, SERVER, DOMAIN = "192.0.2.25", "10.0.0.9", "shop.example"
LIMIT_S = 120.0
SITE = f"""
[[nodes]]
name = "l7-1"
role = "l7"
address = "10.0.0.11"

[[nodes]]
name = "l4-1"
role = "l4"
address = "10.0.0.21"

[[certificates]]
name = "shop"
chain_file = "shop.pem"

[[instances]]
name = "shop"
vips = ["{VIP}"]

[[server_groups]]
name = "shop"
servers = [{{ address = "{SERVER}", port = 80 }}]

[[backend_services]]
name = "shop"
protocol = "http"
server_group = "shop"

[[listeners]]
name = "http"
instance = "shop"
protocol = "http"
port = 80
backend_service = "shop"

[[listeners]]
name = "https"
instance = "shop"
protocol = "https"
port = 443
backend_service = "shop"
certificates = ["shop"]
"""


class Server(ThreadingHTTPServer):
    """Answers `/slow` by halves, the second one once `gate` is open."""

    daemon_threads = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        with namespaces.inside(f"{NAME}-out"):
            super().__init__((SERVER, 80), Answer)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"first")
        if self.path == "/slow":
            assert self.server.gate.wait(LIMIT_S)
        self.wfile.write(b"after")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Clients:
    """Four clients with keep-alive, until told to stop; a request that is not answered with all of it has failed."""

    def __init__(self) -> None:
        self.answered, self.failed = 0, list[str]()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]

    def _run(self) -> None:
        with namespaces.inside(f"{NAME}-out"):
            connection = http.client.HTTPConnection(VIP, timeout=20)
            while not self._over.is_set():
                try:
                    connection.request("GET", "/")
                    answer = connection.getresponse()
                    assert (answer.status, answer.read()) == (200, b"firstafter")
                    self.answered += 1
                except (OSError, http.client.HTTPException, AssertionError) as error:
                    self.failed.append(repr(error))
                    connection.close()
            connection.close()

    def more(self, count: int = 500) -> None:
        """Waits until so many more are answered."""
        wanted = self.answered + count
        eventually(lambda: self.answered >= wanted or self.failed, limit_s=LIMIT_S)

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def under_way(path: str) -> Iterator[http.client.HTTPResponse]:
    """A request of which the first half of the answer is there."""
    with namespaces.inside(f"{NAME}-out"):
        connection = http.client.HTTPConnection(VIP, timeout=LIMIT_S)
        connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.read(5) == b"first"
    try:
        yield answer
    finally:
        connection.close()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files that git tracks, and all that `pip install` needs for them, got by this machine's settings."""
    source, house = tmp_path_factory.mktemp("source") / "paifang", tmp_path_factory.mktemp("wheels")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    argv = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "-w", house]
    done = subprocess.run([*argv, "setuptools>=68", "wheel", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for ours in house.glob("paifang-*"):
        ours.unlink()
    shutil.rmtree(source / "build", ignore_errors=True)
    return source, house


@pytest.fixture(scope="module")
def bare(wheels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A machine that has the packages that the page asks for, the project and the addresses of the page."""
    first, *_ = Page("installation.md").steps("pip install /usr/src/paifang")
    (named,) = re.findall(r"^apt install ([\w -]+?) +# L4 nodes: ([\w -]+), too; for VRRP (\w+)", first.command)
    packages = " ".join(named).split()
    log = tmp_path_factory.mktemp("machine") / "console"
    with booted(NAME, packages, log) as made:
        for directory, name in zip(wheels, ("paifang", "wheels"), strict=True):
            shutil.copytree(directory, made.tree / "usr/src" / name)
        made.environment = ("PIP_NO_INDEX=1", "PIP_FIND_LINKS=/usr/src/wheels")
        made.run("ip link set eth0 up; for i in 5 6 11 21; do ip addr add 10.0.0.$i/24 dev eth0; done")
        made.run("ip route add default via 10.0.0.1")
        yield made


@pytest.fixture(scope="module")
def server(bare: Booted) -> Iterator[Server]:
    for line in ("addr add 10.0.0.1/24", f"addr add {SERVER}/24", f"route add {VIP}"):
        subprocess.run(["ip", "-n", bare.outside, *line.split(), "dev", "eth1"], check=True)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.gate.set()
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def machine(bare: Booted, server: Server) -> Booted:
    """The same after all of the page's commands, in their order."""
    install(bare)
    return bare


def install(made: Booted) -> None:
    with follow("installation.md") as page:
        for step in page.steps("pip install /usr/src/paifang"):
            if not step.command.startswith("git clone"):  # it is there
                made.run(step.command)
        for begin in ("paifang certs init ca", "paifang install control"):
            for step in page.steps(begin):
                made.run(step.command)
        now = is_active(made)
        assert (now["control"], now["keyserver"], now["l7"]) == ("active", "active", "activating")
    # What the page says in its text.
    made.run(f"ip addr add {VIP}/32 dev lo")
    made.run(f"paifang keyserver issue --keys new --ca ca --name shop --domain {DOMAIN} --chain-out shop.pem")
    made.run("install -m 0600 -o paifang-keyserver new/* /var/lib/paifang-keyserver/keys/")
    made.run("systemctl reload paifang-keyserver")
    (made.tree / "root/site.toml").write_text(SITE)
    made.run("PAIFANG_TOKEN=$(cat /var/lib/paifang-control/token) paifang apply site.toml")
    eventually(lambda: set(is_active(made).values()) == {"active"}, limit_s=LIMIT_S, said=lambda: journal(made))


def is_active(made: Booted) -> dict[str, str]:
    units = " ".join(f"paifang-{role}" for role in ROLES)
    return dict(zip(ROLES, made.run(f"systemctl is-active {units}", ends_with=range(8)).split(), strict=True))


def journal(made: Booted) -> str:
    return made.run("journalctl -o short-monotonic --no-pager -n 60 -u 'paifang-*'")


def asked(made: Booted, scheme: str) -> str:
    """What a client outside is told by HTTP or HTTPS."""
    ca = made.tree / "root/ca/ca.pem"
    argv = ["curl", "-sS", "--max-time", "5", "--cacert", ca, "--resolve", f"{DOMAIN}:80:{VIP}"]
    argv += ["--resolve", f"{DOMAIN}:443:{VIP}", f"{scheme}://{DOMAIN}/"]
    enter = namespaces.enter(made.outside)
    done = subprocess.run([*enter, *argv], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_requests_take_the_whole_way(machine: Booted) -> None:
    for scheme in ("http", "https"):  # the VIP is announced a little after the node is ready
        once = partial(asked, machine, scheme)
        eventually(lambda once=once: once() == "firstafter", scheme, limit_s=LIMIT_S, said=lambda: journal(machine))


@pytest.mark.parametrize(("role", "port"), [("l4", 8474), ("l7", 8475), ("keyserver", 8476)])
def test_each_tells_its_metrics(machine: Booted, role: str, port: int) -> None:
    """Also where the unit hides all of /proc but processes."""
    ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
    told = machine.run(f"/opt/paifang/bin/python -c '{ask}' http://127.0.0.1:{port}/metrics")
    assert f'role="{role}"' in told


def test_their_exposure_is_what_the_page_says(machine: Booted) -> None:
    text = (ROOT / "docs/installation.md").read_text()
    said = r"exposure \(.*?\): control ([\d.]+), key server ([\d.]+), L7 ([\d.]+), L4 ([\d.]+)\. "
    (told,) = re.findall(said, text)
    units = json.loads(machine.run("systemd-analyze security --json=short --no-pager"))
    for role, most in zip(ROLES, told, strict=True):
        (found,) = [unit["exposure"] for unit in units if unit["unit"] == f"paifang-{role}.service"]
        assert float(found) <= float(most), role


def test_a_reload_of_the_l7_node_loses_no_request(machine: Booted, server: Server) -> None:
    before = machine.state("paifang-l7", "MainPID")["MainPID"]
    server.gate.clear()
    with Clients() as clients, under_way("/slow") as answer:
        machine.run("systemctl reload paifang-l7")
        eventually(lambda: machine.state("paifang-l7", "MainPID")["MainPID"] not in ("0", before), limit_s=LIMIT_S)
        clients.more()
        server.gate.set()
        assert answer.read() == b"after"
        eventually(lambda: not alive(machine, before), "the old process ends", limit_s=LIMIT_S)
        clients.more()
    assert clients.failed == []
    assert machine.state("paifang-l7", "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}


def alive(made: Booted, pid: str) -> bool:
    return made.run(f"test -e /proc/{pid} && echo alive", ends_with=(0, 1)) != ""


def test_workers_outlive_their_killed_supervisor(machine: Booted, server: Server) -> None:
    """What is under way comes to its end, and systemd starts the next supervisor beside them."""
    before = machine.state("paifang-l7", "MainPID", "NRestarts")
    server.gate.clear()
    with under_way("/slow") as answer:
        machine.run(f"kill -KILL {before['MainPID']}")
        eventually(lambda: restarted(machine, "paifang-l7", before), limit_s=LIMIT_S, said=lambda: journal(machine))
        eventually(lambda: asked(machine, "http") == "firstafter", limit_s=LIMIT_S)
        server.gate.set()
        assert answer.read() == b"after"
    with Clients() as clients:
        clients.more()
    assert clients.failed == []


def restarted(made: Booted, unit: str, before: dict[str, str]) -> bool:
    now = made.state(unit, "MainPID", "NRestarts", "ActiveState")
    return now["ActiveState"] == "active" and int(now["NRestarts"]) > int(before["NRestarts"])


@pytest.mark.parametrize("how", ["reload", "kill --kill-whom=main --signal=KILL"])
def test_the_kernel_forwards_while_the_l4_agent_is_replaced(machine: Booted, how: str) -> None:
    before = machine.state("paifang-l4", "MainPID", "NRestarts")
    with Clients() as clients:
        machine.run(f"systemctl {how} paifang-l4")
        eventually(lambda: restarted(machine, "paifang-l4", before), limit_s=LIMIT_S, said=lambda: journal(machine))
        clients.more()
    assert clients.failed == []


def test_what_is_stopped_leaves_nothing(machine: Booted) -> None:
    """The last one, as the machine serves no more."""
    for role in reversed(ROLES):
        machine.run(f"systemctl stop paifang-{role}")
    assert set(is_active(machine).values()) == {"inactive"}
    assert machine.run("ps -eo args | grep -E '[p]aifang|[k]eepalived' || true") == ""
    assert machine.run("find /sys/fs/bpf -mindepth 1 ! -name '*.debug'") == ""
    links = machine.run("ip -d addr show eth0")
    assert VIP not in links
    assert "xdp" not in links
    assert machine.run("ss -Hltnu") == ""
    for role in ROLES:
        machine.run(f"paifang install {role} --remove")
    assert machine.run("ls /etc/systemd/system | grep paifang || true") == ""
    assert machine.run("systemctl --failed --plain --no-legend") == ""
