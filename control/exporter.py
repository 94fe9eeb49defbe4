"""What the control plane says under /v1/metrics. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from certs.inventory import Entry
from control.node.metrics import Family, counter, gauge, only
from control.reconcile import NodeStatus, Step
from control.series import MOST

PREFIX: Final = "paifang_control"


def families(
    version: int, nodes: Sequence[NodeStatus], certificates: Sequence[Entry], charts: Mapping[str, int], lost: int
) -> Iterator[Family]:
    """All that there is to tell. `charts`: by kind, objects without charts; `lost`: writes of charts and events."""
    counts = Counter((node.role, node.step) for node in nodes)
    yield gauge(f"{PREFIX}_configuration_version", "The current version of the configuration.", only(version))
    yield gauge(
        f"{PREFIX}_nodes",
        "Nodes, by role and whether they run the current version.",
        [((role, step), counts[role, step]) for role in ("l4", "l7") for step in Step],
        ("role", "step"),
    )
    ends = [((each.name,), each.chain.ends.timestamp()) for each in certificates if each.chain is not None]
    yield gauge(
        f"{PREFIX}_certificate_end_timestamp_seconds",
        "When the first certificate of a chain expires, in seconds since 1970.",
        ends,
        ("certificate",),
    )
    yield gauge(
        f"{PREFIX}_certificate_listeners",
        "Listeners that use a certificate.",
        [((each.name,), len(each.used_by)) for each in certificates],
        ("certificate",),
    )
    yield gauge(
        f"{PREFIX}_objects_not_charted",
        "Objects beyond those of which charts are kept, by kind.",
        [((kind,), charts.get(kind, 0)) for kind in MOST],
        ("kind",),
    )
    yield counter(
        f"{PREFIX}_history_lost_total", "Writes of charts and events that failed, as on a full disk.", only(lost)
    )
