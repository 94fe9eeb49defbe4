"""`paifang up` with [acme]: certificates from a real ACME server, by the configurations that the pages show."""

from __future__ import annotations

import argparse
import re
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import Authority
from control import up, up_acme
from control.ports import free_port
from control.up_acme import Issuing
from control.up_source import Source
from control.up_state import State
from core.acme import Acme
from core.model import Certificate, Model
from tests.control.test_up import Running
from tests.keyserver import pebble
from tests.keyserver.pebble import Pebble
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(240)
LIFE_S = 75
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    path = tmp_path_factory.mktemp("pebble")
    with pebble.running(path, Authority.init(path / "ca")) as found:
        yield found


def shown(page: str, heading: str) -> str:
    """The first configuration below a heading."""
    (text,) = re.findall(rf"(?s)\n#+ {heading}\n.*?```toml\n(.*?)```", (DOCS / page).read_text())
    return str(text)


def here(text: str, server: Pebble, challenge: str, ports: dict[int, int], backend: int) -> str:
    """A page's configuration for a CA of the test's own, which looks at other ports."""
    text = re.sub(r"(?m)^directory = .*\n", "", text)
    ours = f'directory = "{server.directory}"\ndirectory_ca_file = "{server.ca_file}"\nchallenge = "{challenge}"\n'
    text = text.replace("[acme]\n", f"[acme]\n{ours}")
    for there, port in ports.items():
        text = re.sub(rf"(?m)^((?:https_redirect_)?port\s*)= {there}$", rf"\1= {port}", text)
    return text.replace("127.0.0.1:8000", f"127.0.0.1:{backend}")


class Clients:
    """Who trusts the machine's own CA and the ACME server's, and asks all the time."""

    def __init__(self, running: Running, server: Pebble, port: int) -> None:
        self._context = ssl.create_default_context(cafile=str(running.state / "ca" / "ca.pem"))
        self._context.load_verify_locations(cadata=server.root())
        self._port = port
        self._stop = threading.Event()
        self.served: list[str] = []  # who issued each certificate that was shown
        self.failures: list[str] = []

    def ask(self, name: str = "www.example.com") -> x509.Certificate:
        """One connection, two requests. The certificate that was shown."""
        with (
            socket.create_connection(("127.0.0.1", self._port), 20) as raw,
            self._context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            for last in (False, True):
                close = "Connection: close\r\n" if last else ""
                tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n{close}\r\n".encode())
                answer = b""
                while b"behind the arch\n" not in answer:
                    part = tls.recv(65536)
                    assert part, answer
                    answer += part
                assert answer.startswith(b"HTTP/1.1 200"), answer
            der = tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)

    def issuer(self, name: str = "www.example.com") -> str:
        return self.ask(name).issuer.rfc4514_string()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Meanwhile, somebody asks all the time."""

        def run() -> None:
            while not self._stop.wait(0.02):
                try:
                    self.served.append(self.issuer())
                except (OSError, AssertionError) as error:
                    self.failures.append(repr(error))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


@contextmanager
def running(directory: Path, text: str) -> Iterator[Running]:
    file = directory / "site.toml"
    file.write_text(text)
    found = Running(directory, file)
    try:
        found.wait_for("Ctrl-C ends it")
        yield found
    finally:
        if found.process.poll() is None:
            assert found.end(signal.SIGTERM) == 0, found.text
    assert "Traceback" not in (found.state / "log" / "acme.log").read_text()


def log(found: Running) -> str:
    return (found.state / "log" / "acme.log").read_text()


def test_a_certificate_is_got_over_http_and_renewed_without_losing_a_request(tmp_path: Path, backend: int) -> None:
    """They are renewed when two thirds of their life are over, and looked at every ten seconds."""
    with pebble.running(tmp_path, Authority.init(tmp_path / "ca"), life_s=LIFE_S) as server:
        port = free_port()
        page = shown("first-steps.md", "A certificate that browsers trust")
        text = here(page, server, "http-01", {80: server.http_port, 443: port}, backend)
        with running(tmp_path, text) as found:
            clients = Clients(found, server, port)
            with clients.asking():
                found.wait_for(r"certificate https-\d+: from CN=Pebble Intermediate.*served from now on")
                eventually(lambda: "Pebble" in clients.issuer(), "not served")
                first = clients.ask()
                status = found.paifang("certs", "show", f"https-{port}")
                assert "by ACME; renewed on" in status.stdout, status
                found.wait_for(r"(?s)(served from now on.*){2}", 2 * LIFE_S)
                eventually(lambda: clients.ask() != first, "not renewed")
            assert clients.failures == []
            assert len(clients.served) > 10
            second = clients.ask()
            assert second.public_key() == first.public_key()
            names = second.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert {*names.get_values_for_type(x509.DNSName)} == {"www.example.com", "example.com"}
            # what is not asked by the CA is redirected as the page says
            with socket.create_connection(("127.0.0.1", server.http_port), 10) as raw:
                raw.sendall(b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
                assert raw.recv(65536).startswith(b"HTTP/1.1 301")
            # keys have stayed where they belong
            for path in (path for path in found.state.rglob("*") if path.is_file() and path.suffix != ".notify"):
                kept = b"PRIVATE KEY" in path.read_bytes()
                assert kept is (path.suffix == ".key" or path.name in ("key.pem", "ca-key.pem")), path


def test_by_a_handshake_then_again_then_with_another_name_then_without(
    tmp_path: Path, server: Pebble, backend: int
) -> None:
    page = shown("certificates.md", "On one machine")
    text = here(page, server, "tls-alpn-01", {443: server.tls_port}, backend)
    with running(tmp_path, text) as found:
        clients = Clients(found, server, server.tls_port)
        found.wait_for("served from now on")
        eventually(lambda: "Pebble" in clients.issuer(), "not served")
        first = clients.ask()
    (tmp_path / "output").unlink()
    before = log(found).count("ordered for")
    with running(tmp_path, text) as found:
        clients = Clients(found, server, server.tls_port)
        assert clients.ask() == first, "what was got is served from the start"
        eventually(lambda: "by ACME" in found.paifang("certs", "show", f"https-{server.tls_port}").stdout, "no issuer")
        assert log(found).count("ordered for") == before == 1
        with clients.asking():
            found.file.write_text(text.replace('["www.example.com"]', '["www.example.com", "new.example.com"]'))
            found.process.send_signal(signal.SIGHUP)
            found.wait_for("served from now on")
            eventually(lambda: "Pebble" in clients.issuer("new.example.com"), "not served")
        assert clients.failures == []
        assert all("Pebble" in each for each in clients.served), "nobody saw the stand-in"
        # without the table, the machine's own CA issues again and there is no issuer any more
        plain = re.sub(r"(?s)\[acme\].*?\n\n", "", text)
        found.file.write_text(plain)
        found.process.send_signal(signal.SIGHUP)
        eventually(lambda: "Paifang CA" in clients.issuer(), "not served")
        eventually(lambda: "paifang-acme" not in found.paifang("get", "-o", "toml").stdout, "still led")
    assert log(found).count("ordered for") == before + 1


def test_the_cas_reason_is_told_and_a_signal_asks_again(tmp_path: Path, server: Pebble, backend: int) -> None:
    page = shown("certificates.md", "On one machine").replace("[[listeners]]\n", '[[listeners]]\nname = "site"\n')
    elsewhere, port = free_port(), server.tls_port
    with running(tmp_path, here(page, server, "tls-alpn-01", {443: elsewhere}, backend)) as found:
        reason = rf"failed: www\.example\.com: Failed to connect to 127\.0\.0\.1:{port} for the tls-alpn-01 challenge"
        found.wait_for(rf"paifang: certificate site: {reason}; again in 15 min\n")
        found.wait_for("`paifang reload` has the CA asked again at once")
        status = found.paifang("status")
        assert re.search(rf"certificate 'site': {reason}", status.stdout), status
        assert "Paifang CA" in Clients(found, server, elsewhere).issuer()
        found.file.write_text(here(page, server, "tls-alpn-01", {443: port}, backend))
        found.process.send_signal(signal.SIGHUP)
        found.wait_for("served from now on")
        eventually(lambda: "Pebble" in Clients(found, server, port).issuer(), "not served")
        assert "failed" not in found.paifang("status").stdout


def test_a_ca_that_is_none(tmp_path: Path, server: Pebble, backend: int) -> None:
    page = shown("certificates.md", "On one machine")
    text = here(page, server, "tls-alpn-01", {443: free_port()}, backend)
    with running(tmp_path, text.replace(server.directory, "https://127.0.0.1:1/dir")) as found:
        found.wait_for(r"certificate https-\d+: failed: https://127\.0\.0\.1:1/dir: .*; again in 15 min")


def test_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not start, nor does one that runs take such a file."""
    (tmp_path / "f.toml").write_text(shown("certificates.md", "On one machine"))
    monkeypatch.setattr(up_acme.importlib.util, "find_spec", lambda _: None)
    why = "its library is missing: pip install 'paifang[acme]'"
    with pytest.raises(up.UsageError, match=re.escape(why)):
        up._read(tmp_path / "f.toml")
    state = State(tmp_path / "state")
    options = argparse.Namespace(file=tmp_path / "f.toml", workers=1)
    running = up.Up(options, state, "127.0.0.1", 1, lambda: None)
    monkeypatch.setattr(running, "_put", pytest.fail)
    running._change_to(lambda: up._read(options.file), asked=True)
    assert f"{why}\npaifang: the configuration before stays" in capsys.readouterr().err
    state.close()


KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
ACME = Acme("ops@a.test", True, "https://ca.test/dir")
MODEL = Model(certificates={"c": Certificate("c", domains=("a.test", "b.test"))})


@pytest.mark.parametrize(
    ("names", "key", "age", "directory", "taken"),
    [
        (["a.test", "b.test"], KEY, timedelta(), ACME.directory, True),
        (["a.test"], KEY, timedelta(), ACME.directory, True),
        (["c.test"], KEY, timedelta(), ACME.directory, False),
        (["a.test", "b.test"], OTHER, timedelta(), ACME.directory, False),
        (["a.test", "b.test"], KEY, timedelta(days=91), ACME.directory, False),
        (["a.test", "b.test"], KEY, timedelta(), "https://ca.test/other", False),
    ],
    ids=["all names", "one of them", "none of them", "another key", "expired", "of another CA"],
)
def test_which_chain_stands_until_there_is_a_better_one(
    names: list[str], key: ec.EllipticCurvePrivateKey, age: timedelta, directory: str, taken: bool, tmp_path: Path
) -> None:
    ours, theirs = (Authority.init(tmp_path / name) for name in ("ours", "theirs"))
    stand_in = Certificate(
        "c", chain=ours.issue_leaf(KEY.public_key(), ["a.test"]).decode(), domains=("a.test", "b.test")
    )
    issuing = Issuing(tmp_path)
    kept = issuing._state(Acme("ops@a.test", True, directory)) / "c.pem"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(theirs.issue_leaf(key.public_key(), names, now=datetime.now(UTC) - age))
    made = issuing.got(Source(MODEL, acme=ACME), Model(certificates={"c": stand_in}))
    assert (made.certificates["c"].chain == kept.read_text()) is taken
    assert (made.certificates["c"] == stand_in) is not taken
