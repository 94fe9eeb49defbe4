"""A control plane, a key server and an L7 node, as a user runs them, with every secret that they have as needles."""

from __future__ import annotations

import http.client
import json
import secrets
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from certs.authority import Authority
from control.node.children import Child
from control.node.files import write_atomic
from tests.keyserver import hsm
from tests.leaks import family, forms, key_forms

ROOT = Path(__file__).parent.parent.parent
READY_S = 30.0
SHELL = 'ulimit -c unlimited && cd "$0" && exec "$@"'  # all may dump core; the hard limit is the one that we were given


@dataclass
class Cluster:
    """Its processes and the secrets that are somewhere in it, as needles."""

    directory: Path
    stack: ExitStack
    children: dict[str, Child] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)

    @property
    def cores(self) -> Path:
        return self.directory / "cores"

    @property
    def logs(self) -> list[Path]:
        return sorted((self.directory / "logs").iterdir())

    @property
    def pids(self) -> list[int]:
        return [pid for child in self.children.values() for pid in family(child.pid)]

    def start(self, name: str, *argv: str, **environment: str) -> Child:
        words = ["sh", "-c", SHELL, str(self.cores), sys.executable, "-m", *argv]
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONASYNCIODEBUG": "1"}
        log = self.directory / "logs" / f"{name}.log"
        child = Child.start(name, words, log=log, notify_dir=self.directory, env=environment)
        self.children[name] = child
        self.stack.callback(child.terminate, 10)
        child.wait_ready(READY_S)
        return child

    def text(self, name: str) -> str:
        return (self.directory / "logs" / f"{name}.log").read_text()

    def key(self, label: str, pem: bytes) -> None:
        self.secrets |= key_forms(label, pem)


def issue(cluster: Cluster, name: str, *options: str) -> None:
    """A certificate whose key is encrypted from its first moment."""
    directory = cluster.directory
    argv = ["issue", "--keys", str(directory / "keys"), "--ca", str(directory / "ca"), "--name", name]
    argv += ["--domain", f"{name}.test", "--chain-out", str(directory / f"{name}.pem"), *options]
    argv += ["--passphrase-file", str(directory / "passphrase")]
    subprocess.run([sys.executable, "-m", "keyserver", *argv], check=True, capture_output=True, cwd=ROOT)


def unlocked(path: Path, passphrase: bytes) -> bytes:
    return in_the_clear(load_pem_private_key(path.read_bytes(), passphrase))


def in_the_clear(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def identities(cluster: Cluster) -> None:
    authority = Authority.init(cluster.directory / "ca")
    for path in (cluster.directory / "ca").iterdir():
        if "key" in path.name:
            cluster.key("CA", path.read_bytes())
    for role in ("control", "keyserver", "l7"):
        authority.issue_node(role, f"{role}-1").write(cluster.directory / f"{role}-id")
        cluster.key(f"identity of {role}", (cluster.directory / f"{role}-id" / "key.pem").read_bytes())


def prepare(cluster: Cluster) -> None:
    """Keys, passphrases, the secret of session tickets, identities, and a needle for each form of each."""
    directory = cluster.directory
    for name in ("cores", "logs"):
        (directory / name).mkdir()
    texts = {each: f"the {each} is {secrets.token_urlsafe(24)}".encode() for each in ("passphrase", "old passphrase")}
    texts["ticket secret"] = secrets.token_bytes(48).hex().encode()
    for label, text in texts.items():
        cluster.secrets |= forms(label, text)
        write_atomic(directory / label.replace(" ", "-"), text + b"\n")
    cluster.secrets |= forms("PIN", hsm.PIN.encode())
    identities(cluster)
    issue(cluster, "ec")
    issue(cluster, "rsa", "--rsa")
    for name in ("ec", "rsa"):
        cluster.key(f"key {name}", unlocked(directory / "keys" / f"{name}.key", texts["passphrase"]))


def start_all(cluster: Cluster, token: hsm.Hsm, ports: dict[str, int]) -> None:
    directory = cluster.directory
    chain = Authority.load(directory / "ca").issue_leaf(token.keys["shop"].public_key(), ["shop.test"])
    (directory / "shop.pem").write_bytes(chain)
    for label in ("shop", "shop-rsa"):
        cluster.key(f"token's {label}", in_the_clear(token.keys[label]))
    level = ("--log-level", "DEBUG")
    cluster.start(
        "control", "control", "--state", str(directory / "control"), "--api", f"127.0.0.1:{ports['api']}",
        "--nodes", f"127.0.0.1:{ports['nodes']}", "--identity", str(directory / "control-id"), *level,
    )  # fmt: skip
    cluster.start(
        "keyserver", "keyserver", "--keys", str(directory / "keys"), "--passphrase-env", "PFT_PASSPHRASE",
        "--passphrase-file", str(directory / "old-passphrase"), "--encrypted-only", "--ticket-secret",
        str(directory / "ticket-secret"), "--pkcs11-module", hsm.MODULE, "--pkcs11-token", "pft",
        "--pkcs11-pin-env", "PFT_PIN", "--socket", str(directory / "keys.sock"), "--listen", "127.0.0.1:0",
        "--identity", str(directory / "keyserver-id"), "--audit-log", str(directory / "logs" / "audit.log"),
        "--metrics", "off", *level,
        PFT_PASSPHRASE=(directory / "passphrase").read_text().strip(), PFT_PIN=hsm.PIN,
    )  # fmt: skip
    cluster.secrets |= forms("administrator's token", (directory / "control" / "token").read_bytes().strip())
    with closing(sqlite3.connect(directory / "control" / "control.db")) as database:
        ((secret,),) = database.execute("SELECT value FROM records WHERE space = 'secrets'")
    cluster.secrets |= forms("secret of cookies", secret)
    assert api(cluster, ports["api"], "PUT", "/v1/config", configuration(directory, ports))[0] == 200
    cluster.start(
        "l7", "proxy", "--name", "l7-1", "--control", f"https://127.0.0.1:{ports['nodes']}", "--identity",
        str(directory / "l7-id"), "--keyserver", f"unix:{directory / 'keys.sock'}", "--state", str(directory / "l7"),
        "--workers", "2", "--ready", f"127.0.0.1:{ports['ready']}", "--access-log", str(directory / "logs" / "access"),
        *level,
    )  # fmt: skip


def configuration(directory: Path, ports: dict[str, int]) -> dict[str, object]:
    names = ("ec", "rsa", "shop")
    return {
        "certificates": [{"name": each, "chain": (directory / f"{each}.pem").read_text()} for each in names],
        "server_groups": [{"name": "app", "servers": [{"address": "127.0.0.1", "port": ports["backend"]}]}],
        "backend_services": [{"name": "app", "protocol": "http", "server_group": "app", "sticky_session": {}}],
        "instances": [{"name": "main"}],
        "listeners": [
            {
                "name": "web", "instance": "main", "protocol": "https", "port": ports["web"], "certificates": names,
                "backend_service": "app",
            }
        ],
    }  # fmt: skip


def api(cluster: Cluster, port: int, method: str, path: str, body: object = None, token: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    bearer = token or (cluster.directory / "control" / "token").read_text().strip()
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    connection.request(method, path, data, headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer
