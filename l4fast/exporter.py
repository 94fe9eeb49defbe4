"""What an L4 node says under /metrics, made of what it says of itself elsewhere (`Agent.status`). Pure.

Names, types and helps stand here once: docs/metrics.md is written from them. Labels are bounded by the configuration
(listeners, servers), by the program (reasons, tables) or by the size of the cluster (peers).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from control.node.metrics import Family, Sample, counter, gauge, only
from l4fast.sync_peers import PeerState
from l4fast.sync_status import COUNTERS

Document = Mapping[str, Any]
Rows = Collection[tuple[tuple[str, ...], Mapping[str, int]]]  # label values, numbers by name

L4: Final = "paifang_l4"
ACTIONS: Final = ("tx", "pass", "drop")
EVENT: Final = "event"
DENIED: Final = "denied"
OVER: Final = "over_"
LIMIT: Final = "limit_"
DIRECTIONS: Final = ("in", "out")
MADE: Final = "Sessions made on this node."
USED: Final = "Sessions whose packets pass this node."
CONNECTED: Final = "Connections, counted exactly; of listeners with the schedulers lc and wlc or a limit of them."
HELD: Final = "Sessions held, those learnt from peers included."

# Session sync: counter → (metric, help). Those of neither this nor the next line say why datagrams were refused.
SYNC: Final = {
    "sent_datagrams": ("sent_datagrams", "Datagrams of session records sent to the peers."),
    "sent_records": ("sent_records", "Session records sent to the peers."),
    "sent_hellos": ("sent_hellos", "Signs of life sent to the peers."),
    "resent": ("resent_datagrams", "Datagrams sent again because a peer asked for them."),
    "received_datagrams": ("received_datagrams", "Datagrams of session records received and taken over."),
    "received_records": ("received_records", "Session records received and taken over."),
    "received_hellos": ("received_hellos", "Signs of life received."),
    "received_resends": ("received_resends", "Requests of peers to send datagrams again."),
    "received_late": ("received_late_datagrams", "Datagrams that came after later ones, or were sent again."),
    "received_older": ("received_older_records", "Session records received that were no newer than what was here."),
    "missing": ("missing_datagrams", "Datagrams that did not come in their turn; most come later, the rest are lost."),
    "lost": ("lost_datagrams", "Datagrams that never came: the network drops multicast, or the node is overloaded."),
    "resend_asked": ("asked_resends", "Requests to peers to send datagrams again."),
    "sent_ends": ("sent_ended_sessions", "Sessions killed here, of which the peers were told."),
    "received_ends": ("received_ended_sessions", "Sessions killed elsewhere."),
    "snapshots_given": ("given_snapshots", "Snapshots of the session table that peers took."),
    "snapshots_refused": ("refused_snapshots", "Requests for a snapshot that were refused; the log says why."),
    "snapshots_broken": ("broken_snapshots", "Snapshots that peers did not take to their end."),
    "snapshots_taken": ("taken_snapshots", "Snapshots of peers' session tables that were taken."),
    "snapshots_failed": ("failed_snapshots", "Snapshots that did not come, or not to their end; the log says why."),
    "snapshot_records": ("snapshot_records", "Session records received in snapshots."),
    "write_failed": ("unwritten_records", "Records received for which the session table had no room."),
}
SYNC_UNSENT: Final = ("send_queue_full", "send_error")
SYNC_REFUSED: Final = tuple(name for name in COUNTERS if name not in (*SYNC, *SYNC_UNSENT))


def families(node: Document) -> Iterator[Family]:
    """Every family, also those without samples; of servers, those of which there is any."""
    yield from _node(node)
    yield from _vips(node["vip"])
    yield from _verdicts(node["counters"])
    help = "Fragments that came before their first: held in the agent, and what became of them."
    early = [((outcome,), number) for outcome, number in node["early_fragments"].items()]
    yield counter(f"{L4}_early_fragments_total", help, early, ("outcome",))
    yield from _listeners([((name,), row) for name, row in node["listeners"].items()])
    yield from _servers([((of, name), row) for of, rows in node["servers"].items() for name, row in rows.items()])
    yield _health(node["health"])
    yield from _tables([((name, ip), row) for name, of in node["tables"].items() for ip, row in of.items()])
    yield from _sync(node["sync"])


def action_of(reason: str) -> str:
    """tx, pass, drop or event: the first word of a reason's name."""
    action = reason.partition("_")[0]
    assert action in (*ACTIONS, EVENT), reason
    return action


def _node(node: Document) -> Iterator[Family]:
    yield gauge(f"{L4}_ready", "1 once a configuration runs and its servers were probed.", only(node["ready"]))
    help = "The version of the configuration that runs; 0 before the first."
    yield gauge(f"{L4}_configuration_version", help, only(node["configuration"]))
    help = "1 while a newer configuration is refused; `paifang status` says why."
    yield gauge(f"{L4}_configuration_refused", help, only(node["refused"]))
    help = "Problems that somebody should look at; `paifang status` has their text."
    yield gauge(f"{L4}_problems", help, only(len(node["problems"])))


def _vips(vip: Document) -> Iterator[Family]:
    """Of methods by which the node announces anything."""
    addresses, method = vip["addresses"], vip["method"]
    help = "1 while this node has a VIP, or a source pool's address (vrrp: is its master; bgp: a router listens)."
    held = [((each["address"], method), int(each["held"])) for each in addresses]
    yield gauge(f"{L4}_vip_held", help, held, ("vip", "method"))
    help = "How often that state has changed since the node began to announce it."
    changes = [((each["address"], method), each["transitions"]) for each in addresses]
    yield counter(f"{L4}_vip_transitions_total", help, changes, ("vip", "method"))
    help = "Routers with which a BGP session is up (1) or not (0)."
    routers = [((each["address"],), int(each["up"])) for each in vip["peers"]]
    yield gauge(f"{L4}_bgp_session_up", help, routers, ("router",))


def _verdicts(counters: Mapping[str, int]) -> Iterator[Family]:
    actions = {reason: action_of(reason) for reason in counters}
    packets = [((reason, action), counters[reason]) for reason, action in actions.items() if action != EVENT]
    help = "Packets by what became of them (tx: forwarded or answered, pass: left to the kernel, drop) and why."
    yield counter(f"{L4}_packets_total", help, packets, ("reason", "action"))
    events = [((reason,), counters[reason]) for reason, action in actions.items() if action == EVENT]
    yield counter(f"{L4}_events_total", "What happened beside a packet's own verdict.", events, ("reason",))


def _listeners(rows: Rows) -> Iterator[Family]:
    name, labels = f"{L4}_listener", ("listener",)
    yield from _traffic(name, labels, rows, "from a listener's clients (in) and to them (out)")
    yield counter(f"{name}_new_sessions_total", MADE, _column(rows, "sessions_made"), labels)
    help = "Packets that were not let in: `denied` by the access list, or beyond one of the listener's limits."
    yield counter(f"{name}_refused_packets_total", help, _refused(rows), (*labels, "reason"))
    yield gauge(f"{name}_sessions", HELD, _column(rows, "sessions"), labels)
    yield gauge(f"{name}_connections", CONNECTED, _column(rows, "connections"), labels)
    help = "What a listener may take on this node, all its VIPs together; of listeners with limits."
    yield gauge(f"{name}_limit", help, _limits(rows), (*labels, "limit"))


def _limits(rows: Rows) -> Iterator[Sample]:
    for values, row in rows:
        for name, most in row.items():
            if name.startswith(LIMIT):
                yield (*values, name.removeprefix(LIMIT)), most


def _refused(rows: Rows) -> Iterator[Sample]:
    for values, row in rows:
        for name, number in row.items():
            if name == DENIED or name.startswith(OVER):
                yield (*values, name), number


def _servers(rows: Rows) -> Iterator[Family]:
    """Of what is counted of servers: which that is depends on the data plane and on the listener's scheduler."""
    name, labels = f"{L4}_server", ("listener", "server")
    counted = {key for _, row in rows for key in row}
    if "packets_in" in counted:
        yield from _traffic(name, labels, rows, "to a listener's server (in) and from it (out)")
    if "sessions_made" in counted:
        yield counter(f"{name}_new_sessions_total", MADE, _column(rows, "sessions_made"), labels)
    if "sessions" in counted:
        yield gauge(f"{name}_sessions", USED, _column(rows, "sessions"), labels)
    if "connections" in counted:
        yield gauge(f"{name}_connections", CONNECTED, _column(rows, "connections"), labels)


def _traffic(name: str, labels: tuple[str, ...], rows: Rows, whose: str) -> Iterator[Family]:
    for what, meaning in (("packets", "Packets"), ("bytes", "Bytes (whole IP packets)")):
        help = f"{meaning} {whose}."
        yield counter(f"{name}_{what}_total", help, _both_ways(rows, what), (*labels, "direction"))


def _both_ways(rows: Rows, what: str) -> Iterator[Sample]:
    for direction in DIRECTIONS:
        for values, number in _column(rows, f"{what}_{direction}"):
            yield (*values, direction), number


def _column(rows: Rows, name: str) -> Iterator[Sample]:
    """Of the rows that have it; made as it is written."""
    return ((values, row[name]) for values, row in rows if name in row)


def _health(health: Collection[Document]) -> Family:
    places = [entry["server"].rpartition("/") for entry in health]
    samples = [
        ((server, protocol), each["healthy"]) for each, (server, _, protocol) in zip(health, places, strict=True)
    ]
    help = "1 if a server passes its health checks, 0 if not; of servers that have any."
    return gauge(f"{L4}_server_up", help, samples, ("server", "protocol"))


def _tables(rows: Rows) -> Iterator[Family]:
    labels = ("table", "ip_version")
    help = "Entries in a table of the data plane, as of the last whole count, seconds ago."
    yield gauge(f"{L4}_table_entries", help, _column(rows, "used"), labels)
    help = "Entries that it has room for. Full, `sessions` takes no new one; the others evict their oldest."
    yield gauge(f"{L4}_table_size", help, _column(rows, "size"), labels)


def _sync(sync: Document) -> Iterator[Family]:
    name, counters, peers = f"{L4}_sync", sync["counters"], sync["peers"]
    help = "1 if this node knows every session that has carried packets lately."
    yield gauge(f"{name}_complete", help, only(sync["complete"]))
    for counted, (metric, help) in SYNC.items():
        yield counter(f"{name}_{metric}_total", help, only(counters[counted]))
    for metric, reasons, help in (
        ("unsent", SYNC_UNSENT, "Datagrams that could not be sent; peers ask for what they miss."),
        ("refused", SYNC_REFUSED, "Datagrams received and not taken over, by why."),
    ):
        samples = [((reason,), counters[reason]) for reason in reasons]
        yield counter(f"{name}_{metric}_datagrams_total", help, samples, ("reason",))
    states = [peer["state"] for peer in peers]
    help = "Other L4 nodes, by what this one knows of their sessions."
    yield gauge(f"{name}_peers", help, [((each,), states.count(each)) for each in PeerState], ("state",))
    help = "How long the last records of a peer were on their way."
    delays = [((peer["name"],), peer["delay_ms"] / 1000) for peer in peers]
    yield gauge(f"{name}_peer_delay_seconds", help, delays, ("peer",))
    heard = [((peer["name"],), peer["heard_s"]) for peer in peers]
    yield gauge(f"{name}_peer_heard_seconds", "Time since a peer was last heard.", heard, ("peer",))
