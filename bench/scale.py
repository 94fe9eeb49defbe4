"""How flows move when servers and L4 nodes come and go, at 1,000 servers and 100 nodes, and what session sync costs.

No packet is sent: the tables are the product's own (`core.schedule`), the routers' are the three ways in which routers
spread flows over equal paths. `python -m bench scale` prints the figures; `python -m bench.scale DIR` draws them.

* *modulo*: hash mod the number of paths, as the simplest switches do.
* *regions*: hash-threshold (RFC 2992), the hash space cut into equal pieces, one for each path.
* *resilient*: a fixed number of buckets, of which only those of a lost path are given away (Linux: `nexthop … type
  resilient`; most switches have it under this name).
"""

from __future__ import annotations

import random
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import Row
from core.schedule import flow_table, maglev_table

SERVERS, NODES = 1000, 100
TABLE = 65_537
BUCKETS = 1024  # of a resilient group, for 100 paths
HASHES = 1 << 16  # where the hash of a flow may fall
# From l4fast/sync.md: a record of IPv4, what a datagram adds to its records (header, tag, UDP, IP, Ethernet), how many
# records it holds; from docs/session-sync.md: how often a session that carries packets is told.
RECORD_BYTES, DATAGRAM_BYTES, RECORDS = 20, 56 + 16 + 28 + 18, 69
REFRESH_S = 20
SESSIONS = 10_000_000

Table = Sequence[int]


def moved(before: Table, after: Table, gone: frozenset[int]) -> float:
    """The share of the flows of those who stay that goes elsewhere now."""
    stay = [index for index, owner in enumerate(before) if owner not in gone]
    return sum(before[index] != after[index] for index in stay) / len(stay)


def names(count: int) -> list[str]:
    return [f"10.{number >> 8}.{number & 255}.1:80" for number in range(count)]


def lost(count: int) -> frozenset[int]:
    return frozenset(random.Random(count).sample(range(SERVERS), count))


def spread(table: Table) -> float:
    """How much more than the mean the server with the most has."""
    counts = Counter(table)
    return max(counts.values()) * len(counts) / len(table)


def maglev_after(gone: frozenset[int]) -> array[int]:
    """Maglev's own table without these servers, by their old numbers."""
    stay = [index for index in range(SERVERS) if index not in gone]
    table = maglev_table([names(SERVERS)[index] for index in stay], [1] * len(stay), TABLE)
    return array("I", (stay[index] for index in table))


def ours_after(gone: frozenset[int]) -> array[int]:
    """What the L4 tier does: servers that are down keep their place, and their slots are passed on."""
    return flow_table(names(SERVERS), [1] * SERVERS, gone, TABLE)


def modulo(paths: Sequence[int]) -> Table:
    return [paths[value % len(paths)] for value in range(HASHES)]


def regions(paths: Sequence[int]) -> Table:
    return [paths[value * len(paths) // HASHES] for value in range(HASHES)]


def resilient(paths: Sequence[int]) -> Table:
    """Buckets of a group of all nodes; those of the missing go to the others in turn."""
    there = set(paths)
    buckets = [bucket % NODES for bucket in range(BUCKETS)]
    orphans = [index for index, node in enumerate(buckets) if node not in there]
    for turn, index in enumerate(orphans):
        buckets[index] = paths[turn % len(paths)]
    return [buckets[value % BUCKETS] for value in range(HASHES)]


ROUTERS: dict[str, Callable[[Sequence[int]], Table]] = {"modulo": modulo, "regions": regions, "resilient": resilient}


def node_lost(router: Callable[[Sequence[int]], Table]) -> float:
    """The share of the other nodes' flows that goes to another node when one dies."""
    everybody = list(range(NODES))
    dead = NODES // 3
    return moved(router(everybody), router([node for node in everybody if node != dead]), frozenset([dead]))


def sync_mbit_s(sessions: int) -> float:
    """What the multicast of a group carries for so many sessions that all carry packets."""
    return sessions / REFRESH_S * (RECORD_BYTES + DATAGRAM_BYTES / RECORDS) * 8 / 1e6


def run(quick: bool) -> list[Row]:
    full = maglev_table(names(SERVERS), [1] * SERVERS, TABLE)
    rows = [Row(f"maglev, {SERVERS} servers: most slots of one", "x mean", spread(full))]
    for count in (1, 10, 100):
        gone = lost(count)
        text = f"maglev, {count} of {SERVERS} servers lost: others' flows moved"
        alone = moved(full, maglev_after(gone), gone) * 100
        rows.append(Row(text, "%", moved(full, ours_after(gone), gone) * 100, "maglev's own table", alone, 1.0))
    for count in (1, 10) if quick else (1, 10, 100):
        more = maglev_table(names(SERVERS + count), [1] * (SERVERS + count), TABLE)
        changed = sum(a != b for a, b in zip(full, more, strict=True)) / TABLE * 100
        ideal = count / (SERVERS + count) * 100
        rows.append(Row(f"maglev, {count} servers more: flows moved", "%", changed, "the new ones' share", ideal))
    rows += [
        Row(f"router {name}, 1 of {NODES} nodes lost: others' flows moved", "%", node_lost(router) * 100)
        for name, router in ROUTERS.items()
    ]
    rows.append(Row(f"session sync, {SESSIONS:,} sessions in use", "Mbit/s", sync_mbit_s(SESSIONS)))
    rows.append(Row(f"session sync, {SESSIONS:,} sessions in use", "records/s", SESSIONS / REFRESH_S))
    return rows


def draw(directory: Path) -> None:
    """Two pictures for docs/scale.md."""
    import matplotlib as mpl  # of the extra `bench`

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "paifang"  # the same figures make the same file
    from matplotlib import pyplot

    full = maglev_table(names(SERVERS), [1] * SERVERS, TABLE)
    counts = [1, 2, 5, 10, 20, 50, 100, 200]
    series = {
        "Maglev's own table": [moved(full, maglev_after(lost(n)), lost(n)) * 100 for n in counts],
        "Paifang": [moved(full, ours_after(lost(n)), lost(n)) * 100 for n in counts],
    }
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    for (label, values), marker in zip(series.items(), "so", strict=True):
        axes.plot(counts, values, marker=marker, label=label)
    axes.set(xscale="log", xlabel=f"servers lost, of {SERVERS}", ylabel="other servers' flows moved, %")
    axes.legend(frameon=False)
    figure.savefig(directory / "scale-servers.svg", metadata={"Date": None})

    figure, axes = pyplot.subplots(figsize=(6, 2.4), layout="constrained")
    shares = {name: node_lost(router) * 100 for name, router in ROUTERS.items()}
    bars = axes.barh(list(shares), list(shares.values()))
    axes.bar_label(bars, fmt="%.1f %%", padding=3)
    axes.set(xlabel=f"other nodes' flows moved when one of {NODES} dies, %", xlim=(0, 115))
    figure.savefig(directory / "scale-nodes.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
