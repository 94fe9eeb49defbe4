"""The connections of a node, for its administrator: how many are at what, and which.

A worker counts its own when it is asked (`count`, `views`), which costs ordinary traffic nothing; the supervisor adds
the workers' answers up (`together`). Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Final, TypedDict, cast

from proxy.hub import Activity, Site, View

VIEWS_LIMIT: Final = 10_000  # of one answer: a few MB of JSON


class Count(TypedDict):
    """A listener's connections. `requests` are in flight; `tunnels` are WebSockets; `oldest_s` is of these two."""

    listener: str
    connections: int
    requests: int
    tunnels: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Filter:
    """Which connections are wanted; what is empty wants all."""

    listener: str = ""
    client: str = ""
    activity: str = ""
    limit: int = 1000
    client_port: int = 0
    port: int = 0
    request_id: str = ""

    @classmethod
    def of(cls, arguments: Mapping[str, object]) -> Filter:
        """Raises ValueError with the remedy."""
        texts = {name: str(arguments.get(name) or "") for name in ("listener", "client", "activity", "request_id")}
        ports = {name: arguments.get(name) or 0 for name in ("client_port", "port")}
        limit = arguments.get("limit", 1000)
        if not isinstance(limit, int) or not 0 < limit <= VIEWS_LIMIT:
            raise ValueError(f"limit {limit!r}: give 1 to {VIEWS_LIMIT}")
        if texts["activity"] not in ("", *Activity):
            raise ValueError(f"{texts['activity']!r} is no activity; there are {', '.join(Activity)}")
        if texts["client"]:
            network(texts["client"])
        for name, port in ports.items():
            if not isinstance(port, int) or not 0 <= port < 65536:
                raise ValueError(f"{name} {port!r}: give 1 to 65535")
        return cls(**texts, limit=limit, **ports)  # type: ignore[arg-type]  # they are numbers by now

    def matches(self, view: View) -> bool:
        """Whether this connection is wanted."""
        if (self.listener and view["listener"] != self.listener) or (self.activity not in ("", view["activity"])):
            return False
        if (self.client_port and view["client_port"] != self.client_port) or (self.port and view["port"] != self.port):
            return False
        if self.request_id and view["request_id"] != self.request_id:
            return False
        return not self.client or (bool(view["client"]) and ip_address(view["client"]) in network(self.client))


def network(text: str) -> IPv4Network | IPv6Network:
    """ADDRESS or NETWORK/LENGTH. Raises ValueError with the remedy."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}; give an address or a network, as 192.0.2.0/24") from None


def count(sites: Iterable[Site], now: float) -> list[Count]:
    """A row for each site, by the loop's clock."""
    rows: list[Count] = []
    for site in sites:
        both = (*site.connections, *site.streams)
        busy = [each for each in both if each.activity in (Activity.REQUEST, Activity.TUNNEL)]
        activities = Counter(each.activity for each in busy)
        oldest = min((each.since for each in busy), default=now)
        rows.append(
            Count(
                listener=site.name, connections=len(site.connections), requests=activities[Activity.REQUEST],
                tunnels=activities[Activity.TUNNEL], oldest_s=round(now - oldest, 1),
            )
        )  # fmt: skip
    return rows


def together(answers: Iterable[Sequence[Count]]) -> list[Count]:
    """One row a listener, of the rows of several workers (and of one worker's sites of the same name)."""
    rows: dict[str, Count] = {}
    for row in (row for answer in answers for row in answer):
        before = rows.get(row["listener"])
        if before is None:
            rows[row["listener"]] = cast(Count, dict(row))
            continue
        before["connections"] += row["connections"]
        before["requests"] += row["requests"]
        before["tunnels"] += row["tunnels"]
        before["oldest_s"] = max(before["oldest_s"], row["oldest_s"])
    return [rows[name] for name in sorted(rows)]


def views(sites: Iterable[Site], wanted: Filter) -> list[View]:
    """The connections that are wanted, the oldest first; in place of one with streams of HTTP/2 these."""
    both = (each for site in sites for each in (*site.connections, *site.streams))
    told = sorted((each for each in both if each.activity is not Activity.STREAMS), key=lambda each: each.since)
    found = (view for each in told if wanted.matches(view := each.view()))
    return list(islice(found, wanted.limit))
