"""Traffic of the demonstration, sent from inside the client's namespace, and what the cluster says about it."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from control.node import admin
from core.endpoints import endpoint, version
from deploy.lab import model
from deploy.lab.lab import Lab
from deploy.lab.namespaces import enter, inside
from deploy.lab.topology import VIP

REQUEST_TIMEOUT_S = 10.0
CURL_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Session:
    """A session as one L4 node sees it. `packets` from the client; `synced`: first heard of from a peer."""

    node: str
    vip: str
    real: str
    state: str
    packets: int
    synced: bool


def sessions(lab: Lab, client: str) -> list[Session]:
    """What every L4 node that lives knows of the session of `client` ("address:port")."""
    found = []
    for node in _living(lab):
        for view in cast(list[dict[str, object]], _ask(lab, node, "sessions", client=client)):
            facts = {name: view[name] for name in ("vip", "real", "state", "packets", "synced")}
            found.append(Session(node, **facts))  # type: ignore[arg-type]
    return found


def carrier(lab: Lab, client: str) -> Session | None:
    """The session at the L4 node that the client's packets go through: a peer's knowledge of it lags behind."""
    return max(sessions(lab, client), key=lambda session: (session.packets, not session.synced), default=None)


def replies(lab: Lab, listener: str) -> Counter[str]:
    """How many of the servers' packets each L4 node has sent back to clients of a listener."""
    counted: Counter[str] = Counter()
    for node in _living(lab):
        listeners = cast(dict[str, dict[str, dict[str, int]]], _ask(lab, node, "counters"))["listeners"]
        counted[node] = listeners[listener]["packets_out"]
    return counted


def signatures(lab: Lab) -> list[dict[str, str]]:
    """The audit log of the first key server: who had what signed."""
    log = lab.directory_of(lab.topology.of("keyserver")[0].name) / "audit.log"
    lines: list[dict[str, str]] = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if "event" not in line]


def _living(lab: Lab) -> list[str]:
    return [host.name for host in lab.topology.of("l4") if lab.process_id(host.name) is not None]


def _ask(lab: Lab, node: str, command: str, **arguments: object) -> object:
    return admin.ask(lab.directory_of(node) / "state/admin.sock", command, **arguments)


@dataclass(frozen=True, slots=True)
class Fetched:
    """One request by curl: status, our own address, the L7 node (from Via), and what the server said."""

    status: int
    ours: str
    via: str
    reply: dict[str, object]


def curl(lab: Lab, scheme: str, vip: str = VIP) -> Fetched:
    """One request through a VIP, over a new connection, as a user would send it. Raises RuntimeError."""
    port = model.HTTPS_PORT if scheme == "https" else model.HTTP_PORT
    words = ["curl", "--silent", "--show-error", "--include", "--max-time", str(CURL_TIMEOUT_S), "--http1.1"]
    address = f"[{vip}]" if version(vip) == 6 else vip
    words += ["--resolve", f"{model.DOMAIN}:{port}:{address}", "--cacert", str(lab.root / "ca.pem")]
    words += ["--write-out", "\n%{http_code} %{local_ip} %{local_port}", f"{scheme}://{model.DOMAIN}/hello"]
    done = subprocess.run([*enter(f"{lab.topology.lab}-client"), *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"curl {scheme}: {done.stderr.strip()}")
    answer, _, tail = done.stdout.rpartition("\n")
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    via = next((line.split()[-1] for line in head.splitlines() if line.lower().startswith("via:")), "")
    status, local, local_port = tail.split()
    reply = json.loads(body) if status == "200" else {"body": body}
    return Fetched(int(status), endpoint(local, int(local_port)), via, reply)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a `Load`: monotonic seconds, whether it succeeded, and who answered."""

    began: float
    ended: float
    error: str
    server: str = ""
    serial: str = ""


@dataclass
class Load:
    """Requests one after another on several threads, each on a new connection, until `stop`.

    `delay_ms` makes the server wait, so that requests are under way at any moment.
    """

    lab: Lab
    scheme: str
    threads: int = 4
    delay_ms: int = 20
    done: list[Request] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _workers: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        for _ in range(self.threads):
            worker = threading.Thread(target=self._run, daemon=True)
            worker.start()
            self._workers.append(worker)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for worker in self._workers:
            worker.join()

    def wait_for(self, count: int, timeout_s: float) -> None:
        """Block until `count` more requests are done. Raises TimeoutError."""
        target, deadline = len(self.done) + count, time.monotonic() + timeout_s
        while len(self.done) < target:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} {self.scheme} requests took more than {timeout_s:.0f} s")
            time.sleep(0.01)

    def failed(self) -> list[Request]:
        return [request for request in self.done if request.error]

    def _run(self) -> None:
        context = client_context(self.lab.root / "ca.pem")
        with inside(f"{self.lab.topology.lab}-client"):
            while not self._stop.is_set():
                self.done.append(self._one(context))

    def _one(self, context: ssl.SSLContext) -> Request:
        began = time.monotonic()
        connection: http.client.HTTPConnection
        if self.scheme == "https":
            connection = _Https(VIP, model.HTTPS_PORT, timeout=REQUEST_TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(VIP, model.HTTP_PORT, timeout=REQUEST_TIMEOUT_S)
        serial = ""
        try:
            connection.connect()
            if isinstance(connection.sock, ssl.SSLSocket):
                serial = str((connection.sock.getpeercert() or {}).get("serialNumber", ""))
            connection.request("GET", f"/?delay_ms={self.delay_ms}", headers={"Host": model.DOMAIN})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise http.client.HTTPException(f"status {response.status}")
            return Request(began, time.monotonic(), "", str(json.loads(body)["server"]), serial)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Request(began, time.monotonic(), f"{type(error).__name__}: {error}", serial=serial)
        finally:
            connection.close()


class _Https(http.client.HTTPSConnection):
    """Connects to the VIP and asks for the domain, without a resolver."""

    def __init__(self, host: str, port: int, *, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._lab_context = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._lab_context.wrap_socket(self.sock, server_hostname=model.DOMAIN)


def client_context(ca: Path) -> ssl.SSLContext:
    """What a browser that trusts the lab's CA would use."""
    context = ssl.create_default_context(cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
