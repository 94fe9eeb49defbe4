"""`paifang up` for real: five lines before `python3 -m http.server`, asked by curl."""

import argparse
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from jdcloud_sdk.core.config import Config
from jdcloud_sdk.core.credential import Credential
from jdcloud_sdk.services.lb.apis.DescribeLoadBalancersRequest import DescribeLoadBalancersRequest
from jdcloud_sdk.services.lb.client.LbClient import LbClient

from certs.authority import Authority, private_pem
from control.node.files import write_atomic
from control.ports import free_port
from control.up import Up, UpError
from control.up_source import Source, read
from control.up_state import State
from core.config import load
from core.model import Model
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(90)
DEADLINE_S = 40.0


def site(port: int, backend: int, domains: str = '["localhost"]') -> str:
    return f"""[[listeners]]
protocol = "https"
port = {port}
domains = {domains}
servers = ["127.0.0.1:{backend}"]
"""


class Silent:
    """The SDK's own logger prints what it signs."""

    def log(self, *_: object) -> None:
        pass


class Running:
    """One `paifang up`; its output goes to a file."""

    def __init__(self, directory: Path, file: Path, *options: str) -> None:
        directory.mkdir(exist_ok=True)
        self.state, self.file, self.output = directory / "state", file, directory / "output"
        (directory / "proxy.py").write_text("raise SystemExit('a module of the current directory was run')")
        argv = [sys.executable, "-m", "control.cli", "up", str(file), "--state", str(self.state), "--workers", "1"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*argv, *(options or ("--api", "127.0.0.1:0"))], stdout=output, stderr=output, cwd=directory
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, pattern: str, deadline_s: float = DEADLINE_S) -> None:
        def is_there_or_over() -> bool:
            return re.search(pattern, self.text) is not None or self.process.poll() is not None

        eventually(is_there_or_over, f"no {pattern!r}", limit_s=deadline_s)
        assert re.search(pattern, self.text), self.text

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def paifang(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "control.cli", *arguments, "--state", str(self.state)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    def curl(self, url: str) -> str:
        argv = ["curl", "-sS", "--cacert", str(self.state / "ca" / "ca.pem"), "--max-time", "10", url]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr + self.text
        return done.stdout

    def children(self) -> dict[str, int]:
        """Pids of the children, by the module that they run."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(") ")[2].split()[1])
                argv = (stat.parent / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == self.process.pid and len(argv) > 2:
                found[argv[2].decode()] = int(stat.parent.name)
        return found


@pytest.fixture
def running(tmp_path: Path, backend: int) -> Iterator[tuple[Running, int]]:
    port = free_port()
    file = tmp_path / "site.toml"
    file.write_text(site(port, backend))
    running = Running(tmp_path, file, "--api", "127.0.0.1:0", "--jdcloud", "127.0.0.1:0", "--jdcloud-region", "here")
    try:
        running.wait_for("Ctrl-C ends it")
        yield running, port
    finally:
        if running.process.poll() is None:
            running.end(signal.SIGTERM)


def test_five_lines_make_an_https_front_end(running: tuple[Running, int], backend: int) -> None:
    up, port = running
    assert up.curl(f"https://localhost:{port}/") == "behind the arch\n"
    assert f"https://localhost:{port}/" in up.text
    assert f"curl --cacert {up.state}/ca/ca.pem https://localhost:{port}/" in up.text
    assert up.state.stat().st_mode & 0o777 == 0o700

    # the API is found by the state directory
    status = up.paifang("status")
    assert (status.returncode, "in step" in status.stdout) == (0, True), status.stdout + status.stderr
    assert f"https-{port}" in up.paifang("get", "listeners").stdout
    got = up.paifang("get", "-o", "toml").stdout
    assert load(got, path="got", format="toml").listeners[f"https-{port}"].port == port

    # nor does another one share its port unseen, as SO_REUSEPORT would allow
    other = Running(up.file.parent / "other", up.file)
    assert other.process.wait(60) == 1
    assert f"paifang: 0.0.0.0:{port} is in use by another process" in other.text

    # a second one on the same state directory is refused
    second = subprocess.run(
        [sys.executable, "-m", "control.cli", "up", str(up.file), "--state", str(up.state), "--api", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert f"in use by another `paifang up` (pid {up.process.pid})" in second.stderr

    # no private key has left the key server's directory
    for name in ("control", "chains", "l7", "log"):
        for path in (path for path in (up.state / name).rglob("*") if path.is_file()):
            assert b"PRIVATE KEY" not in path.read_bytes(), path

    # SIGHUP: another port and another domain are served, the old port is closed
    second_port = free_port()
    up.file.write_text(site(second_port, backend, '["localhost", "*.example.test"]'))
    up.process.send_signal(signal.SIGHUP)
    up.wait_for("configuration changed")
    assert up.curl(f"https://localhost:{second_port}/") == "behind the arch\n"
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0

    # a signal without a change is answered too
    up.process.send_signal(signal.SIGHUP)
    up.wait_for("site.toml asks for what is served already")

    # a file with an error changes nothing and is explained
    up.file.write_text(site(second_port, backend).replace("https", "htps"))
    up.process.send_signal(signal.SIGHUP)
    up.wait_for("the configuration before stays")
    assert re.search(r"site\.toml:2: listeners\S+protocol: .*https", up.text), up.text
    assert up.curl(f"https://localhost:{second_port}/") == "behind the arch\n"

    # Ctrl-C ends everything
    children = up.children()
    assert sorted(children) == ["control", "keyserver", "proxy"]
    assert up.end(signal.SIGINT) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children.values())
    assert not (up.state / "up.json").exists()


def test_children_that_die_are_started_again_and_all_die_with_it(running: tuple[Running, int]) -> None:
    up, port = running
    for name in ("keyserver", "control", "proxy"):
        pid = up.children()[name]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda name=name, pid=pid: up.children().get(name, pid) != pid, f"{name} is not back")
    assert up.text.count("starting it again") == 3
    up.wait_for("l7 died")

    def served() -> bool:
        argv = ["curl", "-s", "--cacert", str(up.state / "ca" / "ca.pem"), f"https://localhost:{port}/"]
        return subprocess.run(argv, capture_output=True, timeout=20, check=False).stdout == b"behind the arch\n"

    eventually(served, "not served again")
    children = up.children()
    assert sorted(children) == ["control", "keyserver", "proxy"]
    up.process.kill()
    up.process.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.values()), "children are left")


def test_a_port_in_use_is_a_clear_error(tmp_path: Path, backend: int) -> None:
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        port = sock.getsockname()[1]
        file = tmp_path / "site.toml"
        file.write_text(site(port, backend))
        up = Running(tmp_path, file)
        assert up.process.wait(60) == 1
        assert f"0.0.0.0:{port}" in up.text
        assert "in use" in up.text
        assert "Traceback" not in up.text

        up = Running(tmp_path, file, "--api", f"127.0.0.1:{port}")
        assert up.process.wait(60) == 2
        assert f"--api 127.0.0.1:{port}: Address already in use; --api 127.0.0.1:0 takes any free port" in up.text


def test_a_state_path_that_sockets_cannot_have(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(site(2, 1))
    argv = [sys.executable, "-m", "control.cli", "up", str(file), "--state", str(tmp_path / ("x" * 100))]
    argv += ["--api", "127.0.0.1:0"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "107 bytes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_file_goes_to_the_key_server_and_its_chain_is_served(running: tuple[Running, int], backend: int) -> None:
    up, port = running
    key = ec.generate_private_key(ec.SECP384R1())
    (up.file.parent / "own.key").touch(0o600)
    (up.file.parent / "own.key").write_bytes(private_pem(key))
    chain = Authority.load(up.state / "ca").issue_leaf(key.public_key(), ["localhost", "own.test"])
    (up.file.parent / "own.pem").write_bytes(chain)
    text = site(port, backend).replace('domains = ["localhost"]', 'certificates = ["own"]')
    up.file.write_text('[[certificates]]\nname = "own"\nchain_file = "own.pem"\nkey_file = "own.key"\n' + text)
    up.process.send_signal(signal.SIGHUP)
    up.wait_for("configuration changed")
    assert "warning" not in up.text
    context = ssl.create_default_context(cafile=str(up.state / "ca" / "ca.pem"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="own.test") as tls,
    ):
        served = tls.getpeercert(binary_form=True)
    assert served == x509.load_pem_x509_certificate(chain).public_bytes(Encoding.DER)
    assert "chain_file" not in up.paifang("get", "certificates", "own", "-o", "json").stdout


def test_a_key_of_another_chain_is_refused_before_anything_starts(tmp_path: Path) -> None:
    authority = Authority.init(tmp_path / "ca")
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (tmp_path / "c.pem").write_bytes(authority.issue_leaf(key.public_key(), ["a.test"]))
    write_atomic(tmp_path / "c.key", private_pem(other))
    text = site(2, 1).replace('domains = ["localhost"]', 'certificates = ["c"]')
    text += '[[certificates]]\nname = "c"\nchain_file = "c.pem"\nkey_file = "c.key"\n'
    (tmp_path / "f.toml").write_text(text)
    up = Running(tmp_path, tmp_path / "f.toml")
    assert up.process.wait(60) == 2
    where = f"{tmp_path}/f.toml:9: certificates.c.key_file: {tmp_path}/c.key"
    assert up.text.startswith(f"{where}: not the private key of this chain; give the one")
    assert not up.state.exists()
    write_atomic(tmp_path / "c.key", private_pem(key))
    assert read(tmp_path / "f.toml").key_files == (tmp_path / "c.key",)


def test_a_state_directory_in_use_is_told_of_before_the_port_that_its_owner_has(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(site(2, 1))
    state = State(tmp_path / "state")
    with socket.create_server(("127.0.0.1", 0)) as api:
        up = Running(tmp_path, tmp_path / "f.toml", "--api", f"127.0.0.1:{api.getsockname()[1]}")
        assert up.process.wait(60) == 2
    assert f"is in use by another `paifang up` (pid {os.getpid()}); stop it, or give another --state" in up.text
    state.close()


@pytest.mark.parametrize("delay_s", [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
def test_an_interrupt_at_any_moment_of_the_start_ends_it(delay_s: float, tmp_path: Path, backend: int) -> None:
    (tmp_path / "f.toml").write_text(site(free_port(), backend))
    up = Running(tmp_path, tmp_path / "f.toml")
    eventually(lambda: catches(up.process.pid, signal.SIGTERM), "no handlers")
    time.sleep(delay_s)
    assert up.end(signal.SIGINT) == 0, up.text
    assert up.text.endswith("ending\n")
    assert "Traceback" not in up.text


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (proc(5), SigCgt)."""
    mask = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return mask is not None and bool(int(mask[1], 16) & 1 << (number - 1))


def test_a_refused_change_puts_the_old_configuration_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control must not be left with what the node refuses: a restarted node would have nothing to run."""
    put: list[object] = []
    state = State(tmp_path / "state")
    state.make_identities()
    up = Up(argparse.Namespace(file=tmp_path / "site.toml", workers=1), state, "127.0.0.1", 1, lambda: None)
    up.source = Source(Model(), (tmp_path / "old.key",))
    good, bad = (load(f'[[listeners]]\nprotocol="http"\nport={port}\nservers=["127.0.0.1:1"]', path="f", format="toml")
                 for port in (81, 82))  # fmt: skip
    up.model = good

    def refuse(version: int) -> None:
        assert {path.readlink().name for path in (state.root / "keys").iterdir()} == {"old.key", "new.key"}
        raise UpError(f"refuses version {version}: port 82 is in use")

    monkeypatch.setattr(up, "_put", lambda model: put.append(model) or len(put))
    monkeypatch.setattr(up, "_await", refuse)
    up._change_to(lambda: Source(bad, (tmp_path / "new.key",)))
    assert put == [bad, good]
    assert up.model == good
    assert [path.readlink().name for path in (state.root / "keys").iterdir()] == ["old.key"]
    state.close()


def test_renewing_certificates_does_not_read_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an edit must not be served because an hour has passed."""
    state = State(tmp_path / "state")
    up = Up(argparse.Namespace(file=tmp_path / "nonexistent.toml", workers=1), state, "127.0.0.1", 1, lambda: None)
    seen: list[Source] = []

    class Turn(BaseException):
        pass

    def change_to(find: Callable[[], Source]) -> None:
        seen.append(find())
        raise Turn

    monkeypatch.setattr(up.children, "keep", lambda: None)
    monkeypatch.setattr(up, "_change_to", change_to)
    up._renew_at = 0.0
    with pytest.raises(Turn):
        up.follow()
    assert seen == [up.source]
    state.close()


def test_the_note_for_other_commands_names_the_api(running: tuple[Running, int]) -> None:
    up, _ = running
    note = json.loads((up.state / "up.json").read_text())
    assert note["pid"] == up.process.pid
    assert note["api"].startswith("http://127.0.0.1:")
    assert (up.state / "up.json").stat().st_mode & 0o777 == 0o600
    bad = up.file.parent / "bad.toml"
    bad.write_text("[[listeners]]\n")
    done = up.paifang("apply", str(bad))
    assert done.returncode == 1
    assert "bad.toml:1: " in done.stderr
    # and that of a cloud is where it says that it is
    told = re.search(r"JD Cloud's load balancer API http://(\S+), region here\n", up.text)
    assert told is not None
    identity, secret = up.paifang("token", "access-key").stdout.split()
    client = LbClient(Credential(identity, secret), Config(told[1], "http", 20), Silent())
    answer = client.send(DescribeLoadBalancersRequest({"regionId": "here"}))
    assert answer.error is None
    assert answer.result["totalCount"] == 1
