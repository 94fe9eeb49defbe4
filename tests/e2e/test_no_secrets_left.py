"""No secret is in a log, a command line, an environment, a core file, or in memory where it is not needed.

A control plane, a key server (encrypted key files, a PKCS #11 token) and an L7 node run as a user runs them, at the
most verbose level and in asyncio's debug mode, which prints what callbacks are called with. They serve, and whatever
may go wrong does: handshakes, keys that cannot be read, configurations with a key in the wrong place, forged requests,
worker processes that crash. Then everything that they have written is searched, and what /proc shows of them.

All are allowed to dump core, and are ended by SIGSEGV and SIGABRT: a process that does not protect itself leaves a core
file on this machine (which is tried), they do not.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from control.node.files import write_atomic
from keyserver.client import KeyClient
from keyserver.errors import KeyServerError
from keyserver.protocol import Sign, encode
from tests.e2e.cluster import SHELL, Cluster, api, in_the_clear, prepare, start_all
from tests.e2e.test_no_private_key_in_memory import Backend, free_port
from tests.keyserver import hsm
from tests.keyserver.conftest import TLS13
from tests.leaks import family, forms, in_files, in_memory, in_proc, key_forms
from tests.waiting import eventually

MARKER = "pft-" + secrets.token_hex(12)
NAMES = ("ec.test", "rsa.test", "shop.test")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, dict[str, int]]]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        made = Cluster(tmp_path_factory.mktemp("secrets"), stack)
        prepare(made)
        (made.directory / "hsm").mkdir()
        token = hsm.make(made.directory / "hsm", patch)
        backend = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Backend))
        Thread(target=backend.serve_forever, daemon=True).start()
        stack.callback(backend.shutdown)
        ports = {each: free_port() for each in ("api", "nodes", "web", "ready")} | {"backend": backend.server_port}
        start_all(made, token, ports)
        yield made, ports


def client(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    return context


def ask(port: int, name: str, context: ssl.SSLContext, head: str, session: ssl.SSLSession | None = None) -> tuple:
    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        context.wrap_socket(raw, server_hostname=name, session=session) as tls,
    ):
        tls.sendall(f"GET /{MARKER} HTTP/1.1\r\nHost: {name}\r\n{head}\r\n".encode())
        return tls.recv(4096), tls.session, tls.session_reused


def serve_and_fail(cluster: Cluster, port: int) -> None:
    """Handshakes of all kinds, and what clients do wrong. Clients' own secrets are ours to keep out of logs too."""
    bearer = {each: secrets.token_urlsafe(32) for each in ("header", "cookie", "malformed", "length")}
    for label, text in bearer.items():
        cluster.secrets |= forms(f"a client's {label}", text.encode())
    for name in (*NAMES, "unknown.test"):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context, session = client(version), None
            for turn in range(2):
                head = f"Authorization: Bearer {bearer['header']}\r\nCookie: id={bearer['cookie']}\r\n"
                answer, session, reused = ask(port, name, context, head, session)
                assert answer.startswith(b"HTTP/1.1 200")
                assert reused == bool(turn)
    for head in (f"Authorization : Bearer {bearer['malformed']}\r\n", f"Content-Length: {bearer['length']}\r\n"):
        answer, _, _ = ask(port, "ec.test", client(ssl.TLSVersion.TLSv1_3), head)
        assert answer.startswith(b"HTTP/1.1 400")
    for sent in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(64), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"):
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(sent)
            with suppress(OSError):
                raw.recv(100)


def misuse_the_control_plane(cluster: Cluster, port: int) -> None:
    """A private key where a chain belongs, and everywhere else where a text goes; tokens that are none."""
    fresh = in_the_clear(ec.generate_private_key(ec.SECP256R1()))
    cluster.key("a key given to the control plane", fresh)
    wrong = secrets.token_urlsafe(32)
    cluster.secrets |= forms("a token that is none", wrong.encode())
    pem = fresh.decode()
    chain = (cluster.directory / "ec.pem").read_text()
    tries: list[tuple[str, object]] = [
        ("/v1/certificates/bad", {"chain": pem}),
        ("/v1/certificates/bad", {"chain": chain + pem}),
        ("/v1/certificates/bad", {"chain": chain, "key": pem}),
        ("/v1/certificates/bad", {"chain_file": pem}),
        ("/v1/certificates/bad", {"chain": chain, "domains": [pem]}),
        ("/v1/ca_certificates/bad", {"bundle": pem}),
        ("/v1/listeners/web", {"certificates": [pem]}),
        ("/v1/config", pem.encode()),
        ("/v1/config", {"certificates": pem}),
    ]
    for path, body in tries:
        status, answer = api(cluster, port, "PUT", path, body)
        assert 400 <= status < 500, (path, answer)
        assert not [name for name, form in key_forms("it", fresh).items() if form in answer], (path, body, answer)
    assert api(cluster, port, "GET", "/v1/config", token=wrong)[0] == 401
    assert api(cluster, port, "GET", f"/v1/config?token={wrong}")[0] in (200, 400)


async def misuse_the_key_server(cluster: Cluster) -> None:
    """Forged shapes, unknown keys, broken frames that hold a secret, and who is nobody."""
    path = cluster.directory / "keys.sock"
    held = KeyClient([f"unix:{path}"])
    await held.start()
    given = await held.ticket_secrets()
    for begins, secret in given:
        cluster.secrets |= forms(f"ticket secret of {begins}", secret)
    for content in (b"x", TLS13.replace(b"server", b"client"), os.urandom(97)):
        with pytest.raises(KeyServerError):
            await held.sign(bytes(32), 0x0403, content, "evil.test")
    await held.close()
    message = encode(Sign(7, bytes(32), 0x0403, "a.test", given[0][1]))
    for sent in (b"GET / HTTP/1.1\r\n\r\n" + given[0][1], message, given[0][1] * 4):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(100), 10)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def break_key_files(cluster: Cluster) -> None:
    """Key files that cannot be used: of another passphrase, cut, in the clear, open to others. Then the good ones."""
    keys, child = cluster.directory / "keys", cluster.children["keyserver"]
    fresh = ec.generate_private_key(ec.SECP256R1())
    clear = in_the_clear(fresh)
    cluster.key("a key in the clear", clear)
    other = secrets.token_urlsafe(24).encode()
    cluster.secrets |= forms("another passphrase", other)
    locked = fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(other))
    bad = {"locked": (locked, 0o600), "clear": (clear, 0o600), "open": (clear, 0o644)}
    bad |= {"cut": (clear[:-40], 0o600), "nonsense": (clear.replace(b"PRIVATE", b"SECRET"), 0o600)}
    for name, (data, mode) in bad.items():
        write_atomic(keys / f"{name}.key", data, mode=mode)
    child.said_ready()
    child.signal(signal.SIGHUP)
    eventually(child.said_ready, "the key files were not read")
    log = cluster.text("keyserver")
    for name in bad:
        assert f"{name}.key" in log, name
        (keys / f"{name}.key").unlink()
    child.signal(signal.SIGHUP)
    eventually(child.said_ready, "the key files were not read anew")


def crash_workers(cluster: Cluster, port: int) -> None:
    """Each worker process crashes; others are started, and what they say of it stands in the logs."""
    for name, number in (("keyserver", signal.SIGSEGV), ("l7", signal.SIGABRT)):
        _, *workers = family(cluster.children[name].pid)
        assert len(workers) == 2
        for pid in workers:
            os.kill(pid, number)
        parent = cluster.children[name].pid
        eventually(
            lambda parent=parent, old=workers: len(set(family(parent)) - set(old)) == 3,  # type: ignore[misc]
            f"{name} has not started other workers",
        )

    def served() -> bool:
        with suppress(OSError):
            answers = [ask(port, each, client(ssl.TLSVersion.TLSv1_3), "")[0] for each in NAMES]
            return all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        return False

    eventually(served, "it does not serve any more")


@pytest.mark.root
@pytest.mark.timeout(300)
async def test_logs_command_lines_and_environments(cluster: tuple[Cluster, dict[str, int]]) -> None:
    made, ports = cluster
    thread = asyncio.to_thread
    await thread(eventually, lambda: is_ready(ports["ready"]), "the node is not ready")
    await thread(serve_and_fail, made, ports["web"])
    await thread(misuse_the_control_plane, made, ports["api"])
    await misuse_the_key_server(made)
    await thread(break_key_files, made)
    access = made.directory / "logs" / "access"  # written once a second: what is not yet is lost with a worker
    await thread(eventually, lambda: access.read_text().count(MARKER) >= 16, "access log")
    await thread(crash_workers, made, ports["web"])
    await thread(eventually, lambda: access.read_text().count(MARKER) >= 16 + len(NAMES), "access log after a crash")
    pids = made.pids
    assert len(pids) == 1 + 3 + 3
    there = {"marker": MARKER.encode(), "program": b"keyserver", "debug": b" DEBUG "}
    assert {each.needle for each in in_files(made.logs, there)} == set(there), "the search sees what was written"
    assert {each.needle for each in in_proc(pids, there)} == {"program"}
    assert in_files(made.logs, made.secrets) == set()
    assert in_proc(pids, made.secrets) == set()
    memory_of_the_node(made)


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def memory_of_the_node(cluster: Cluster) -> None:
    """What an L7 node needs is in its memory, and nothing else: its own identity, secrets of tickets and cookies, what
    clients send."""
    own = ("identity of l7 ", "ticket secret of ", "secret of cookies ", "a client's ")
    others = {name: form for name, form in cluster.secrets.items() if not name.startswith(own)}
    for pid in family(cluster.children["l7"].pid):
        found, looked_at = in_memory(pid, others)
        assert found == set()
        assert looked_at > 10 << 20
    found, _ = in_memory(cluster.children["keyserver"].pid, others)
    assert any(each.needle.startswith("key ec d") for each in found), "the search does not find what is there"


@pytest.mark.root
def test_no_process_leaves_a_core_file(cluster: tuple[Cluster, dict[str, int]]) -> None:
    """Ended by what makes others dump core."""
    made, _ = cluster
    plain = [sys.executable, "-c", "import os; os.abort()"]
    done = subprocess.Popen(["sh", "-c", SHELL, str(made.cores), *plain], stderr=subprocess.DEVNULL)
    assert dumped(done.pid), "this machine writes no core files, so that nothing can be shown"
    done.wait()
    for file in made.cores.iterdir():
        file.unlink()
    workers = [(pid, signal.SIGSEGV) for name in made.children for pid in family(made.children[name].pid)[1:]]
    for pid, number in workers:
        os.kill(pid, number)
    for pid, _ in workers:
        eventually(lambda pid=pid: not alive(pid), f"{pid} lives on")  # type: ignore[misc]
    for name, number in (("keyserver", signal.SIGABRT), ("l7", signal.SIGSEGV), ("control", signal.SIGQUIT)):
        child = made.children[name]
        child.signal(number)
        assert not dumped(child.pid), name
    assert list(made.cores.iterdir()) == []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def dumped(pid: int) -> bool:
    """Waits for a child of ours to end; whether the kernel has written its core. It is left to be reaped."""
    ended: list[os.waitid_result | None] = []

    def gone() -> bool:
        ended.append(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG))
        return ended[-1] is not None

    eventually(gone, f"{pid} does not end")
    assert ended[-1] is not None
    assert ended[-1].si_code in (os.CLD_KILLED, os.CLD_DUMPED), "it was not ended by the signal"
    return ended[-1].si_code == os.CLD_DUMPED
