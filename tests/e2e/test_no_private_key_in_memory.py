"""No private key is anywhere in the memory of an L7 node, however much TLS it has served.

A real key server and a real L7 node (supervisor and workers) serve HTTPS with an ECDSA and an RSA key. Then every
readable mapping of every process of the node is searched for the keys' secret numbers in all their forms
(tests/leaks.py): as DER has them and as OpenSSL does, in hexadecimal, in base64.

The search is proved by finding what must be there: a marker that a client sent to the node, and the keys themselves in
the key server's memory, where each is in one process only: the RSA key in the worker, the ECDSA key in the other.
Reading /proc/PID/mem of another process needs root (CAP_SYS_PTRACE).
"""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs.authority import Authority
from control.node.children import Child
from core.config import load, to_dict
from tests.leaks import family, in_memory, key_forms
from tests.proxy.tls_support import certificate, new_key, spki

ROOT = Path(__file__).parent.parent.parent


class Backend(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def issue(directory: Path, name: str, *options: str) -> tuple[bytes, Path]:
    """A key in the key server's directory and its chain outside; the key's PEM for the search."""
    chain = directory / f"{name}.pem"
    argv = ["issue", "--keys", str(directory / "keys"), "--ca", str(directory / "ca"), "--name", name]
    argv += ["--domain", f"{name}.test", "--chain-out", str(chain), *options]
    subprocess.run([sys.executable, "-m", "keyserver", *argv], check=True, capture_output=True, cwd=ROOT)
    return (directory / "keys" / f"{name}.key").read_bytes(), chain


def start(stack: ExitStack, directory: Path, name: str, *argv: str) -> Child:
    child = Child.start(name, [sys.executable, "-m", *argv], log=directory / f"{name}.log", notify_dir=directory)
    stack.callback(child.terminate, 15)
    child.wait_ready(20)
    return child


def configuration(directory: Path, backend: int, port: int, chains: Sequence[Path]) -> None:
    """What the node remembers of a control plane that is away."""
    certificates = "".join(
        f'[[certificates]]\nname = "{chain.stem}"\nchain = """{chain.read_text()}"""\n' for chain in chains
    )
    text = (
        certificates
        + f"""
[[listeners]]
name = "web"
protocol = "https"
port = {port}
certificates = {json.dumps([chain.stem for chain in chains])}
servers = ["127.0.0.1:{backend}"]
"""
    )
    state = directory / "state"
    state.mkdir()
    model = to_dict(load(text, path="test.toml", format="toml"))
    (state / "config.json").write_text(json.dumps({"version": 1, "config": model}))


def get(port: int, name: str, version: ssl.TLSVersion, marker: str = "none") -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        context.wrap_socket(raw, server_hostname=name) as tls,
    ):
        tls.sendall(f"GET /{marker} HTTP/1.1\r\nHost: {name}\r\nX-Marker: {marker}\r\n\r\n".encode())
        assert tls.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.root
def test_no_private_key_in_the_memory_of_an_l7_node(tmp_path: Path) -> None:
    authority = Authority.init(tmp_path / "ca")
    authority.issue_node("l7", "l7-1").write(tmp_path / "identity")
    ec_pem, ec_chain = issue(tmp_path, "ec")
    rsa_pem, rsa_chain = issue(tmp_path, "rsa", "--rsa")
    needles = key_forms("EC", ec_pem) | key_forms("RSA", rsa_pem)
    assert len(needles) > 30
    with ExitStack() as stack:
        backend = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Backend))
        Thread(target=backend.serve_forever, daemon=True).start()
        stack.callback(backend.shutdown)
        port, keys = free_port(), tmp_path / "keys.sock"
        configuration(tmp_path, backend.server_port, port, [ec_chain, rsa_chain])
        signer = start(
            stack, tmp_path, "keyserver", "keyserver", "--keys", str(tmp_path / "keys"), "--socket", str(keys)
        )
        node = start(
            stack, tmp_path, "l7", "proxy", "--name", "l7-1", "--control", f"https://127.0.0.1:{free_port()}",
            "--identity", str(tmp_path / "identity"), "--keyserver", f"unix:{keys}", "--state", str(tmp_path / "state"),
            "--workers", "2", "--ready", f"127.0.0.1:{free_port()}",
        )  # fmt: skip
        marker = secrets.token_hex(24)
        for turn in range(40):
            for name in ("ec.test", "rsa.test", "unknown.test"):
                for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                    get(port, name, version, marker if turn == 39 else "none")

        processes = family(node.pid)
        assert len(processes) == 3
        markers = 0
        for pid in processes:
            found, looked_at = in_memory(pid, needles | {"marker": marker.encode()})
            assert looked_at > 10 << 20, "the search saw too little"
            markers += any(each.needle == "marker" for each in found)
            assert {each for each in found if each.needle != "marker"} == set()
        assert markers >= 1, "the search does not find what a client has just sent"

        front, worker = family(signer.pid)
        kinds = {pid: {each.needle.split()[0] for each in in_memory(pid, needles)[0]} for pid in (front, worker)}
        assert kinds == {front: {"EC"}, worker: {"RSA"}}, "each key is in the one process that signs with it"


def test_needles_are_the_secrets_and_nothing_public() -> None:
    """The public half of a key lies in the node's memory by right; no needle may be part of it."""
    for kind in ("P-256", "RSA"):
        key = new_key(kind)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        flat = b"".join(pem.splitlines()[1:-1])
        needles = key_forms(kind, pem)
        public = spki(key) + certificate(key, ["web.test"]).chain.encode()
        assert not [name for name, needle in needles.items() if needle in public]
        assert all(needle in flat for name, needle in needles.items() if "PEM" in name)
        assert any("PEM" in name for name in needles)
