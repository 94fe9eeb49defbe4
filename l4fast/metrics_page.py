"""docs/metrics.md, whose tables are those of the code; `python -m l4fast.metrics_page > docs/metrics.md` writes it."""

from __future__ import annotations

from typing import Any, Final

from control.node import process_metrics
from control.node.metrics import table
from l4fast.exporter import families
from l4fast.members import COUNTERS as MEMBER_COUNTERS
from l4fast.settings import METRICS
from l4fast.sync_status import COUNTERS

PAGE: Final = """\
# Metrics

Every L4 node answers `GET /metrics` in Prometheus' text format on `{address}`, or where `paifang l4 --metrics
ADDR:PORT` says; `--metrics off` closes it. There is neither TLS nor a password: whoever reaches the address learns
which listeners and servers there are and how busy they are. Give one that only your monitoring reaches.

```yaml
scrape_configs:
  - job_name: paifang-l4
    static_configs:
      - targets: ["10.0.0.11:8474", "10.0.0.12:8474"]
```

Numbers are at most a second old, however many ask: 16 connections at once, one request on each. Counters begin
at zero when a node starts, and a listener's when it is added.

## What to watch

Ready alerts and a dashboard: [monitoring](monitoring.md). The tables of other processes:
[L7 nodes](proxy.md#metrics), [key servers](key-server.md#health-and-metrics), the [control
plane](control-plane.md#metrics).

| expression | what it tells |
|---|---|
| `rate(paifang_l4_packets_total{{action="drop"}}[1m]) > 0` | packets are dropped, and [why](l4.md#counters) |
| `paifang_l4_server_up == 0` | a server fails its health checks |
| `paifang_l4_table_entries{{table="sessions"}} / paifang_l4_table_size > 0.8` | the session table fills |
| `rate(paifang_l4_events_total{{reason="event_table_full"}}[1m]) > 0` | it is full: new flows go by hash |
| `paifang_l4_sync_complete == 0` for more than a minute | this node may lack sessions of its peers |
| `rate(paifang_l4_sync_refused_datagrams_total{{reason!="own"}}[1m]) > 0` | see [session sync](session-sync.md) |
| `sum by (vip) (paifang_l4_vip_held) != 1` with vrrp, `== 0` with bgp | nobody has a VIP, or two nodes have it |
| `paifang_l4_bgp_session_up == 0` | a router does not hear of the VIPs |
| `paifang_l4_configuration_refused == 1`, `paifang_l4_problems > 0` | `paifang status` has the words |

The tables `half_open`, `half_open_fullnat`, `half_open_answers`, `fragments` and `clients` evict their oldest entries,
and keep what nobody asks for until they need the room. On a busy node they are full, which is no alarm by itself. A
`half_open` table that fills within seconds is a flood of SYNs, or servers that do not answer: compare `tx_syn` with the
listeners' new sessions. In `sessions`, a fullnat session takes two entries.

## L4 node

{l4}

A `server` is an address and port. Its sessions are those whose packets pass this node, so that they add up over the
nodes; its connections are there where the scheduler counts them exactly (lc, wlc). In modes dr and tunnel answers do
not pass the node: what goes `out` stays zero.

## Every process

{process}

## `paifang top`

The same of both tiers on a terminal, as rates, live:

```
paifang top                               # all nodes, by the control plane; finds it as `paifang status` does
paifang top --state /var/lib/paifang/l4   # one L4 or L7 node, by its own admin socket (root, or its user)
paifang top --sort drops                  # or packets, bits, new, sessions, name: the order of listeners and servers
paifang top --once                        # one picture, after a second
paifang top --once --json                 # the same for programs; without --once a line each second
```

Of L7 nodes, listeners and backend services it shows requests, classes of status, the median and the 99th percentile
of what a request takes, open connections, TLS handshakes, the share of them that resumed a session, and those that
failed; of servers requests, answers of 5xx, failures, requests in flight and idle connections. For these, packets and
bits stand for requests, new for handshakes, sessions for connections, drops for 5xx and failures. Percentiles are
those of all nodes together, read off their histograms: exact to a bucket of `paifang_l7_request_duration_seconds`. An
L7 node reports the first 1,000 listeners and services of the configuration one by one, and the rest as `other`.

Tab shows one section alone, and at last all again; p, b, n, s, d, a sort by packets, bits, new sessions, sessions,
drops, name; q ends it. Drops that go on stand first among the verdicts, and servers that are down among the servers:
red, or bold where there is no colour (`NO_COLOR`, or a terminal without). What does not fit the screen is left out,
and said to be.

A rate is taken between two reports of a node, by the node's own clock. A node that has just started has none for a
second. Of several nodes rates are added up, and so are the sessions of servers. A listener's sessions are not: a
synchronised session is known to all nodes, so that the number of the node that knows most is shown.
"""

_NOTHING: Final[dict[str, Any]] = {
    "ready": False, "configuration": 0, "refused": False, "problems": [], "counters": {}, "early_fragments": {},
    "listeners": {}, "vip": {"method": "static", "addresses": [], "peers": []},
    "servers": {"": {"": dict.fromkeys((*MEMBER_COUNTERS, "sessions", "connections"), 0)}}, "health": [], "tables": {},
    "sync": {"complete": False, "peers": [], "counters": dict.fromkeys(COUNTERS, 0)},
}  # fmt: skip


def page() -> str:
    """The whole page."""
    own = table(families(_NOTHING))
    return PAGE.format(address=METRICS, l4=own, process=table(process_metrics.families("l4", "l4-1")))


if __name__ == "__main__":
    print(page(), end="")
