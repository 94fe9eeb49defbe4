"""What the control plane says under /v1/metrics. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from certs.inventory import Entry
from control.node.metrics import Family, gauge, only
from control.reconcile import NodeStatus, Step

PREFIX: Final = "paifang_control"


def families(version: int, nodes: Sequence[NodeStatus], certificates: Sequence[Entry]) -> Iterator[Family]:
    """All that there is to tell."""
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
