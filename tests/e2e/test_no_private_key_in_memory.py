"""No private key is anywhere in the memory of an L7 node, however much TLS it has served.

A real key server and a real L7 node (supervisor and workers) serve HTTPS with an ECDSA and an RSA key. Then every
readable mapping of every process of the node is searched for the keys' secret numbers: big-endian (DER), little-endian
(OpenSSL's own form on this machine), hexadecimal, and as they stand in the key file's base64.

The search is proved by finding what must be there: a marker that a client sent to the node, and the keys themselves in
the key server's memory, where each is in one process only: the RSA key in the worker, the ECDSA key in the other.
Reading /proc/PID/mem of another process needs root (CAP_SYS_PTRACE).
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from certs.authority import Authority
from control.node.children import Child
from core.config import load, to_dict
from tests.proxy.tls_support import certificate, new_key, spki

ROOT = Path(__file__).parent.parent.parent
PIECE = 1 << 22  # bytes read at a time; pieces overlap by the longest needle
# Mappings of the kernel, which /proc/PID/mem does not give out, and of devices.
UNREADABLE = ("[vvar]", "[vsyscall]", "[vvar_vclock]", "/dev/")


@dataclass(frozen=True)
class Found:
    needle: str
    mapping: str


def mappings(pid: int) -> Iterator[tuple[int, int, str]]:
    """Start, end and name of what the process may read."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        name = fields[5] if len(fields) > 5 else "anonymous"
        if "r" in fields[1] and not name.startswith(UNREADABLE):
            start, _, end = fields[0].partition("-")
            yield int(start, 16), int(end, 16), name


def search(pid: int, needles: Mapping[str, bytes]) -> tuple[set[Found], int]:
    """What of `needles` is in a process's memory, and how many bytes were looked at."""
    overlap = max(map(len, needles.values()))
    found: set[Found] = set()
    looked_at = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end, mapping in mappings(pid):
            at = start
            while at < end:
                memory.seek(at)
                try:
                    piece = memory.read(min(PIECE, end - at))
                except OSError:  # unmapped since, or a file's end
                    break
                if not piece:
                    break
                looked_at += len(piece)
                found |= {Found(name, mapping) for name, needle in needles.items() if needle in piece}
                if at + len(piece) >= end:
                    break
                at += max(len(piece) - overlap, 1)
    return found, looked_at


def numbers(pem: bytes) -> dict[str, bytes]:
    """The secret numbers of a key, big-endian."""
    key = load_pem_private_key(pem, None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"d": key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")}
    assert isinstance(key, rsa.RSAPrivateKey)
    private = key.private_numbers()
    named = {name: getattr(private, name) for name in ("d", "p", "q", "dmp1", "dmq1", "iqmp")}
    return {name: value.to_bytes((value.bit_length() + 7) // 8, "big") for name, value in named.items()}


def encodings(label: str, pem: bytes) -> dict[str, bytes]:
    """Every form of every secret number that the search looks for, none shorter than 16 bytes."""
    der = base64.b64decode(b"".join(line for line in pem.splitlines() if not line.startswith(b"-----")))
    text = base64.b64encode(der)
    forms = {}
    for name, number in numbers(pem).items():
        forms[f"{label} {name} big-endian"] = number
        forms[f"{label} {name} little-endian"] = number[::-1]
        forms[f"{label} {name} hex"] = number.hex().encode()
        forms[f"{label} {name} HEX"] = number.hex().upper().encode()
        at = der.index(number)
        first, last = -(-at * 4 // 3) + 1, (at + len(number)) * 4 // 3 - 1
        for line in range(first // 64, last // 64 + 1):  # PEM breaks its base64 every 64 characters
            piece = text[max(first, line * 64) : min(last, line * 64 + 64)]
            if len(piece) >= 16:
                forms[f"{label} {name} PEM line {line}"] = piece
    assert all(len(form) >= 16 for form in forms.values())
    return forms


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


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
    needles = encodings("EC", ec_pem) | encodings("RSA", rsa_pem)
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
            found, looked_at = search(pid, needles | {"marker": marker.encode()})
            assert looked_at > 10 << 20, "the search saw too little"
            markers += any(each.needle == "marker" for each in found)
            assert {each for each in found if each.needle != "marker"} == set()
        assert markers >= 1, "the search does not find what a client has just sent"

        front, worker = family(signer.pid)
        kinds = {pid: {each.needle.split()[0] for each in search(pid, needles)[0]} for pid in (front, worker)}
        assert kinds == {front: {"EC"}, worker: {"RSA"}}, "each key is in the one process that signs with it"


def test_needles_are_the_secrets_and_nothing_public() -> None:
    """The public half of a key lies in the node's memory by right; no needle may be part of it."""
    for kind in ("P-256", "RSA"):
        key = new_key(kind)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        flat = b"".join(pem.splitlines()[1:-1])
        needles = encodings(kind, pem)
        public = spki(key) + certificate(key, ["web.test"]).chain.encode()
        assert not [name for name, needle in needles.items() if needle in public]
        assert all(needle in flat for name, needle in needles.items() if "PEM" in name)
        assert any("PEM" in name for name in needles)
