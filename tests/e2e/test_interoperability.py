"""TLS clients of other makers at a real L7 node with a real key server.

OpenSSL, curl, GnuTLS, Python, Node.js and Chromium (BoringSSL), each with TLS 1.2 and 1.3 and with ECDSA and RSA
certificates: names verified, ALPN, sessions resumed, client certificates, large bodies both ways. Which version was
spoken stands in the access log; whether a handshake was a full one in the key server's audit log, which has a line for
each signature.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from certs.authority import Authority
from control.node.children import Child
from core.config import load, to_dict
from tests.e2e.test_no_private_key_in_memory import free_port
from tests.e2e.tls_clients import CLIENTS, Chromium, Refused, Where
from tests.proxy.client_certs import Authority as Partners

ROOT = Path(__file__).parent.parent.parent
BIG_BYTES, UPLOAD_BYTES = 12 << 20, 4 << 20
BIG = bytes(range(256)) * (BIG_BYTES // 256)
SLOW = {"gnutls": 1 << 20}  # gnutls-cli takes seconds for each MB that it prints
VERSIONS = ("1.2", "1.3")
NAMES = ("ec.test", "rsa.test")
MARKS = itertools.count()
PAGE = f"""<!doctype html><title>page</title><body><script>
const ask = (method, path, body) => {{
  const asked = new XMLHttpRequest(); asked.open(method, path, false);
  asked.overrideMimeType('text/plain; charset=x-user-defined'); asked.send(body); return asked;
}};
const big = ask('GET', '/big/{BIG_BYTES}').responseText;
let sum = 0; for (let at = 0; at < big.length; at += 4093) sum += big.charCodeAt(at) & 255;
const posted = ask('POST', '/echo', 'u'.repeat({UPLOAD_BYTES})).responseText;
const long = '/?' + 'a'.repeat(1 << 17);  // is refused
const again = [1, 2, 3].map(() => [ask('GET', long).status, ask('GET', '/').status]);
const [navigation] = performance.getEntriesByType('navigation');
document.body.textContent = 'RESULT' + JSON.stringify({{
  size: big.length, sum, posted, again, alpn: navigation.nextHopProtocol}}) + 'END';
</script>"""


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/page"):
            self._say(PAGE.encode(), "text/html")
        elif self.path.startswith("/who"):
            self._say(self.headers.get("X-Forwarded-Client-Cert-Subject", "nobody").encode())
        else:
            size = re.match(r"/big/(\d+)", self.path)
            self._say(BIG[: int(size[1])] if size else b"hello")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._say(hashlib.sha256(body).hexdigest().encode())

    def _say(self, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@dataclass(frozen=True)
class Node:
    """`open`: a listener for everybody; `closed`: one that demands client certificates; `partner` has one."""

    open: Where
    closed: Where
    partner: Where
    audit: Path
    access: Path

    def signatures(self) -> int:
        return self.audit.read_text().count('"result":"ok"')

    def records(self, path: str, count: int = 1) -> list[dict[str, Any]]:
        """What the access log has of a path, once there are so many."""
        deadline = time.monotonic() + 20
        while True:
            lines = self.access.read_text().splitlines() if self.access.exists() else []
            found = [record for record in map(json.loads, lines) if record["path"] == path]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} of {count} requests of {path} are in the access log"
            time.sleep(0.05)


def keyserver(*argv: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "keyserver", *map(str, argv)], check=True, capture_output=True, cwd=ROOT)


def configuration(directory: Path, backend: int, ports: tuple[int, int], partners: Partners) -> str:
    text = ""
    for name in NAMES:
        options = ["--rsa"] if name == "rsa.test" else []
        chain = directory / f"{name}.pem"
        words = ["--keys", directory / "keys", "--ca", directory / "ca", "--name", name, "--domain", name]
        keyserver("issue", *words, "--chain-out", chain, *options)
        text += f'[[certificates]]\nname = "{name}"\nchain = """{chain.read_text()}"""\n'
    text += f'[[ca_certificates]]\nname = "partners"\nbundle = """{partners.pem}"""\n'
    for name, port, more in (("open", ports[0], ""), ("closed", ports[1], 'ca_certificate = "partners"\n')):
        text += f'[[listeners]]\nname = "{name}"\nprotocol = "https"\nport = {port}\n{more}'
        text += f'certificates = {json.dumps(NAMES)}\nservers = ["127.0.0.1:{backend}"]\n'
    return text


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("node")
    authority, partners = Authority.init(directory / "ca"), Partners()
    authority.issue_node("l7", "l7-1").write(directory / "identity")
    client = partners.issue("Partner Ltd")
    context = client.context(directory)  # writes certificate and key into one file
    assert context is not None
    (pem,) = directory.glob(f"{client.certificate.serial_number:x}.pem")
    with ExitStack() as stack:
        backend = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Backend))
        Thread(target=backend.serve_forever, daemon=True).start()
        stack.callback(backend.shutdown)
        ports = free_port(), free_port()
        model = load(configuration(directory, backend.server_port, ports, partners), path="test.toml", format="toml")
        (directory / "state").mkdir()
        (directory / "state" / "config.json").write_text(json.dumps({"version": 1, "config": to_dict(model)}))

        def start(name: str, *argv: str) -> None:
            words = [sys.executable, "-m", *argv]
            child = Child.start(name, words, log=directory / f"{name}.log", notify_dir=directory)
            stack.callback(child.terminate, 10)
            child.wait_ready(30)

        keys = ("--keys", str(directory / "keys"), "--metrics", "off", "--audit-log", str(directory / "audit"))
        start("keyserver", "keyserver", *keys, "--socket", str(directory / "sock"))
        start(
            "l7", "proxy", "--name", "l7-1", "--control", f"https://127.0.0.1:{free_port()}", "--workers", "2",
            "--identity", str(directory / "identity"), "--keyserver", f"unix:{directory / 'sock'}", "--state",
            str(directory / "state"), "--ready", f"127.0.0.1:{free_port()}", "--access-log", str(directory / "access"),
        )  # fmt: skip
        everybody = Where(ports[0], directory / "identity" / "ca.pem")
        closed = replace(everybody, port=ports[1])
        partner = replace(closed, cert=pem, key=pem)
        yield Node(everybody, closed, partner, directory / "audit", directory / "access")


def mark(what: str) -> str:
    """A path that no other request has."""
    return f"/{what}?{next(MARKS)}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_is_served(node: Node, client: str, version: str, name: str) -> None:
    """It verifies chain and name, agrees on HTTP/1.1 by ALPN, speaks the version it is told to, and gets it all."""
    size = SLOW.get(client, BIG_BYTES)
    path, before = mark(f"big/{size}"), node.signatures()
    answer = CLIENTS[client].fetch(node.open, name, path, version)
    assert (answer.status, answer.sha256, answer.alpn) == (200, sha256(BIG[:size]), "http/1.1")
    (record,) = node.records(path)
    assert (record["tls_version"], record["sni"]) == (f"TLSv{version}", name)
    assert node.signatures() > before


@pytest.mark.parametrize(
    ("client", "version"), [(name, version) for name, each in CLIENTS.items() for version in each.resumes_in]
)
def test_sessions_are_resumed(node: Node, client: str, version: str) -> None:
    """By the client's own word, and with one signature for two connections."""
    path, before = mark("again"), node.signatures()
    assert CLIENTS[client].resumes(node.open, "ec.test", path, version)
    assert node.signatures() == before + 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("client", [name for name, each in CLIENTS.items() if each.uploads])
def test_large_bodies_go_up(node: Node, client: str, version: str) -> None:
    answer = CLIENTS[client].fetch(node.open, "ec.test", mark("echo"), version, UPLOAD_BYTES)
    assert (answer.status, answer.sha256) == (200, sha256(sha256(b"u" * UPLOAD_BYTES).encode()))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_wrong_name_is_refused(node: Node, client: str, version: str) -> None:
    """The server shows its default certificate to who asks for a name that it has not: clients do not take it."""
    path = mark("never")
    with pytest.raises(Refused):
        CLIENTS[client].fetch(node.open, "other.test", path, version)
    assert CLIENTS[client].fetch(node.open, "ec.test", "/", version).status == 200
    assert path not in node.access.read_text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("client", CLIENTS)
def test_an_authority_that_is_not_trusted(node: Node, client: str, version: str, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(Partners("Others").pem)
    with pytest.raises(Refused):
        CLIENTS[client].fetch(replace(node.open, ca=tmp_path / "other.pem"), "ec.test", "/", version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("client", [name for name, each in CLIENTS.items() if each.shows_certificates])
def test_client_certificates(node: Node, client: str, version: str) -> None:
    answer = CLIENTS[client].fetch(node.partner, "ec.test", "/who", version)
    assert (answer.status, answer.sha256) == (200, sha256(b"CN=Partner Ltd"))
    with pytest.raises(Refused):
        CLIENTS[client].fetch(node.closed, "ec.test", "/who", version)


@pytest.mark.parametrize(
    ("name", "flags", "refused", "alpn"),
    [("ec.test", [], 431, "h2"), ("rsa.test", ["--disable-http2"], 414, "http/1.1")],
    ids=["HTTP/2", "HTTP/1.1"],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_chromium_is_served(node: Node, version: str, name: str, flags: list[str], refused: int, alpn: str) -> None:
    """A page that loads and uploads, and three times more something that is refused: in HTTP/1.1 this closes the
    connection, and the next one resumes the session; in HTTP/2 all goes on."""
    path, before = mark("page"), node.signatures()
    document = Chromium().browse(node.open, name, path, version, *flags)
    found = re.search(r"RESULT({.*})END", document)
    assert found is not None, document
    expected = {"size": BIG_BYTES, "sum": sum(BIG[::4093]), "posted": sha256(b"u" * UPLOAD_BYTES)}
    assert json.loads(found[1]) == {**expected, "again": [[refused, 200]] * 3, "alpn": alpn}
    (record,) = node.records(path)
    assert (record["tls_version"], record["sni"]) == (f"TLSv{version}", name)
    assert 1 <= node.signatures() - before <= 2, "connections that were opened at once, and no later one"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda where, tmp: (where, "other.test"), "ERR_CERT_COMMON_NAME_INVALID"),
        (lambda where, tmp: (replace(where, ca=tmp / "other.pem"), "ec.test"), "ERR_CERT_AUTHORITY_INVALID"),
    ],
    ids=["another name", "an authority that is not trusted"],
)
def test_chromium_refuses(
    node: Node, change: Callable[[Where, Path], tuple[Where, str]], why: str, tmp_path: Path
) -> None:
    (tmp_path / "other.pem").write_text(Partners("Others").pem)
    where, name = change(node.open, tmp_path)
    path = mark("never")
    with pytest.raises(Refused, match=why):
        Chromium().browse(where, name, path, "1.3")
    assert path not in node.access.read_text()
