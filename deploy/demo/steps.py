"""The chapters of the demonstration. Each sends traffic, tells its path, and raises `NotSo` where a claim fails."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from itertools import product
from typing import cast

from core.endpoints import split, version
from deploy.demo.story import Story
from deploy.demo.traffic import Load, Session, carrier, curl, replies, sessions, signatures
from deploy.lab import client, model
from deploy.lab.client import Transfer
from deploy.lab.lab import Lab
from deploy.lab.namespaces import inside
from deploy.lab.topology import CLIENT, CLIENT6, VIP, VIPS

TRANSFER_BYTES = 4_000_000
# Slow enough that the node's death falls into the middle, quick enough that the demonstration stays short.
LONG_BYTES, LONG_RATE = 24_000_000, 6_000_000
SYNC_DEADLINE_S = 5.0
HEALTH_DEADLINE_S = 15.0  # the check of deploy/lab/model.py needs two failures, one a second
CERTIFICATE_DEADLINE_S = 15.0
CLIENTS = {4: CLIENT, 6: CLIENT6}


class NotSo(Exception):
    """A claim of the demonstration that did not hold."""


def check(claim: bool, otherwise: str) -> None:
    if not claim:
        raise NotSo(otherwise)


def transport(lab: Lab, story: Story) -> None:
    """TCP and UDP, by NAT and by direct routing, over both IP versions."""
    story.chapter("TCP and UDP go from an L4 node straight to a server")
    for vip in VIPS:
        for name, protocol, port, _ in model.layer_4("both"):
            _one_transport(lab, story, vip, name, protocol, port)
    story.line("each server saw the client's own address")


def _one_transport(lab: Lab, story: Story, vip: str, name: str, protocol: str, port: int) -> None:
    before = replies(lab, name)
    with inside(f"{lab.topology.lab}-client"):
        if protocol == "tcp":
            transfer = client.download((vip, port), TRANSFER_BYTES)
            check(transfer.correct, f"{name}: the data are not right")
            server, seen = transfer.server, transfer.seen_client
            what = f"{TRANSFER_BYTES / 1e6:.0f} MB, SHA-256 right"
        else:
            reply = client.ask_udp((vip, port), "hello")
            server, seen, what = reply["server"], reply["client"], "echo right"
    ours = CLIENTS[version(vip)]
    check(address_of(seen) == ours, f"{name}: the server saw {seen}, not the client's own address {ours}")
    session = carrier(lab, seen)
    if session is None:
        raise NotSo(f"{name}: no L4 node knows a session of {seen}")
    back = sorted(replies(lab, name) - before)
    check(bool(back) == name.endswith("nat"), f"{name}: answers went back through {back or 'no L4 node'}")
    path = [_client(seen), f"VIP:{port}", session.node, server, *(["+".join(back)] if back else []), "client"]
    six = version(vip) == 6
    story.path(protocol.upper() + "6" * six, path, ("NAT  " if back else "DR   ") + what)
    fact = {"l4": session.node, "back": back, "server": server, "client": seen}
    story.fact(name.replace("-", "_") + "_v6" * six, fact)


def address_of(endpoint: str) -> str:
    """The address of "address:port"; empty for anything else."""
    found = split(endpoint)
    return found[0] if found else ""


def web(lab: Lab, story: Story) -> None:
    """HTTP and HTTPS through both tiers."""
    story.chapter("HTTP and HTTPS go from an L4 node to an L7 node and from there to a server (curl)")
    for vip, scheme in product(VIPS, ("http", "https")):
        fetched = curl(lab, scheme, vip)
        check(fetched.status == 200, f"{scheme}: status {fetched.status}: {fetched.reply}")
        forwarded = cast(dict[str, list[str]], fetched.reply["headers"]).get("x-forwarded-for", [])
        ours = CLIENTS[version(vip)]
        check(forwarded == [ours], f"{scheme}: the server was told the client {forwarded}, not {ours}")
        session = carrier(lab, fetched.ours)
        if session is None:
            raise NotSo(f"{scheme}: no L4 node knows a session of {fetched.ours}")
        check(fetched.via.startswith("l7-"), f"{scheme}: Via names no L7 node but {fetched.via!r}")
        server = str(fetched.reply["server"])
        port = model.HTTPS_PORT if scheme == "https" else model.HTTP_PORT
        path = [_client(fetched.ours), f"VIP:{port}", session.node, fetched.via, server, fetched.via, "client"]
        six = version(vip) == 6
        story.path(scheme.upper() + "6" * six, path, f"status {fetched.status}")
        story.fact(
            scheme + "_v6" * six, {"l4": session.node, "l7": fetched.via, "server": server, "client": fetched.ours}
        )
    story.line(f"each server was told of the client by X-Forwarded-For: {' or '.join(CLIENTS.values())}")
    signed = [line for line in signatures(lab) if line["client"] == f"l7:{fetched.via}" and line["result"] == "ok"]
    check(bool(signed), f"key-1 has not signed for {fetched.via}")
    story.line(f"{fetched.via} has no private key: key-1 signed its handshake for {signed[-1]['sni']}")


def _client(address: str) -> str:
    return f"client:{address.rpartition(':')[2]}"


def dead_l4_node(lab: Lab, story: Story) -> None:
    """An L4 node dies in the middle of a TCP transfer that it carries; another goes on with it."""
    story.chapter("An L4 node dies in the middle of a TCP transfer")
    transfer = _Transfer(lab)
    transfer.start()
    transfer.wait_for(LONG_BYTES // 4)
    before = carrier(lab, transfer.ours)
    if before is None:
        raise NotSo(f"no L4 node knows the session of {transfer.ours}")
    node = before.node
    others = _known_elsewhere(lab, transfer.ours, node)
    check(bool(others), f"{node} has told nobody of the session")
    known = " and ".join(session.node for session in others)
    session = f"{_client(transfer.ours)} → VIP:{model.TCP_NAT_PORT}"
    story.line(f"{LONG_BYTES / 1e6:.0f} MB for {session}: {node} carries it, {known} was told of it")
    at_bytes = transfer.got
    lab.kill(node)
    story.line(f"{node} dies after {at_bytes / 1e6:.1f} MB: its link is down, all its processes are killed")
    result = transfer.join()
    check(at_bytes < LONG_BYTES and result.correct, "the data are not right")
    heir = carrier(lab, transfer.ours)
    told = {session.node: session.packets for session in others}
    if heir is None or heir.packets <= told.get(heir.node, 0):
        raise NotSo(f"nobody has taken over from {node}: told {told}, now {heir}")
    story.line(f"{heir.node} carries it on: {LONG_BYTES / 1e6:.0f} MB over one connection, SHA-256 right")
    story.line(f"the longest pause that the client saw was {result.longest_pause_s * 1000:.0f} ms")
    story.fact("l4_killed", {"node": node, "heir": heir.node, "at_bytes": at_bytes, **asdict(result)})
    lab.start(node)
    story.line(f"{node} is started again")


def _known_elsewhere(lab: Lab, ours: str, node: str) -> list[Session]:
    """What the other nodes know of the session, as soon as one does."""
    deadline = time.monotonic() + SYNC_DEADLINE_S
    while time.monotonic() < deadline:
        if others := [session for session in sessions(lab, ours) if session.node != node]:
            return others
        time.sleep(0.02)
    return []


class _Transfer:
    """A paced download on a thread inside the client's namespace."""

    def __init__(self, lab: Lab) -> None:
        self.ours = ""
        self.got = 0
        self._netns = f"{lab.topology.lab}-client"
        self._result: Transfer | client.ClientError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_for(self, size_bytes: int) -> None:
        """Block until so much has come. Raises ClientError if the transfer ends before."""
        while self.got < size_bytes and self._thread.is_alive():
            time.sleep(0.005)
        if isinstance(self._result, client.ClientError):
            raise self._result

    def join(self) -> Transfer:
        self._thread.join()
        if not isinstance(self._result, Transfer):
            raise self._result or NotSo("the transfer has no result")
        return self._result

    def _progress(self, ours: str, got: int) -> None:
        self.ours, self.got = ours, got

    def _run(self) -> None:
        try:
            with inside(self._netns):
                self._result = client.download((VIP, model.TCP_NAT_PORT), LONG_BYTES, LONG_RATE, self._progress)
        except client.ClientError as error:
            self._result = error


def dead_server(lab: Lab, story: Story) -> None:
    """A server dies while requests run: only those that it was serving may fail."""
    story.chapter("A server dies while HTTP requests run")
    victim = "be-2"
    with Load(lab, "http") as load:
        load.wait_for(100, 15)
        killed_at = time.monotonic()
        lab.kill_process(victim)
        dead_at = time.monotonic()
        noticed_s = _wait_until_down(lab, victim, killed_at)
        load.wait_for(100, 15)
    in_flight = [request for request in load.failed() if request.began <= dead_at and request.ended >= killed_at]
    after = [request for request in load.failed() if request.began > dead_at]
    served = sum(request.server == victim for request in load.done)
    check(served > 0, f"{victim} had served nothing before it died")
    check(len(in_flight) + len(after) == len(load.failed()), "requests failed before the death")
    check(not after, f"{len(after)} requests failed that began after the death: {after[0].error if after else ''}")
    story.line(f"{victim} is killed; the health checks of both L7 nodes notice within {noticed_s:.1f} s")
    story.line(f"{len(load.done)} requests: {len(in_flight)} failed of those in flight at that moment, none later")
    story.fact("server_killed", {"server": victim, "requests": len(load.done), "failed_in_flight": len(in_flight),
                                 "failed_after": len(after), "noticed_s": round(noticed_s, 2)})  # fmt: skip
    lab.start(victim)
    story.line(f"{victim} is started again")


def _wait_until_down(lab: Lab, server: str, since: float) -> float:
    """How long it took until every L7 node had reported the server as unhealthy. Raises NotSo."""
    host = lab.host(server)
    while (passed_s := time.monotonic() - since) < HEALTH_DEADLINE_S:
        if all({host.address, host.address_v6} <= down for down in _unhealthy(lab)):
            return passed_s
        time.sleep(0.05)
    raise NotSo(f"no health check has noticed the death of {server} in {HEALTH_DEADLINE_S:.0f} s")


def _unhealthy(lab: Lab) -> list[set[str]]:
    """For each L7 node, the addresses of the servers that it reports as unhealthy."""
    nodes = cast(list[dict[str, object]], lab.api.status()["nodes"])
    reports = [cast(dict[str, object], node["facts"]).get("health", []) for node in nodes if node["role"] == "l7"]
    return [
        {address_of(str(check["server"])) for check in cast(list[dict[str, object]], report) if not check["healthy"]}
        for report in reports
    ]


def new_certificate(lab: Lab, story: Story) -> None:
    """The certificate is replaced, with a new key, while HTTPS requests run: none fails."""
    story.chapter("A certificate and its key are replaced while HTTPS requests run")
    with Load(lab, "https") as load:
        load.wait_for(50, 15)
        old = load.done[-1].serial
        began = time.monotonic()
        lab.replace_certificate()
        deadline = began + CERTIFICATE_DEADLINE_S
        while load.done[-1].serial in (old, "") and time.monotonic() < deadline:
            time.sleep(0.02)
        switched_s = time.monotonic() - began
        load.wait_for(50, 15)
        new = load.done[-1].serial
    failed = load.failed()
    check(new not in (old, ""), f"clients still see the old certificate after {CERTIFICATE_DEADLINE_S:.0f} s")
    check(not failed, f"{len(failed)} requests failed: {failed[0].error if failed else ''}")
    story.line(f"clients see serial {new[:12]}… instead of {old[:12]}… after {switched_s:.1f} s")
    story.line(f"{len(load.done)} requests, each with a handshake of its own: none failed")
    story.fact("certificate", {"old": old, "new": new, "requests": len(load.done), "failed": len(failed)})
