"""The limits of a worker's listeners, by name: made, changed in place and lifted as the configuration says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from core.limits import SiteLimits
from proxy.buckets import BANDWIDTH_DEPTH_S, CONNECTIONS_DEPTH_S, Bucket, Gauge
from proxy.ledger import Ledger, Rows
from proxy.throttle import Clock, Throttling


def names(limits: Mapping[str, SiteLimits]) -> Iterator[str]:
    """What needs a row of the ledger; `limits` are by listener."""
    for listener, of in limits.items():
        for what, wanted in (
            ("in", of.in_bytes_s), ("out", of.out_bytes_s), ("new", of.new_connections_per_s),
            ("connections", of.connections),
        ):  # fmt: skip
            if wanted:
                yield f"listener {listener} {what}"
        for what, wanted in (("in", of.instance_in_bytes_s), ("out", of.instance_out_bytes_s)):
            if wanted:
                yield f"instance {of.instance} {what}"


class Throttles:
    """Of one worker. `refused` is called for each connection that is turned away."""

    def __init__(self, loop: Clock, ledger: Ledger, refused: Callable[[], None]) -> None:
        self._loop, self._ledger, self._refused = loop, ledger, refused
        self._own_rows = Rows()
        self._of: dict[str, Throttling] = {}
        self._buckets: dict[tuple[str, int], Bucket] = {}
        self._gauges: dict[tuple[str, int], Gauge] = {}

    def update(self, limits: Mapping[str, SiteLimits], rows: Mapping[str, int] | None = None) -> None:
        """Takes these limits, by listener. `rows`: those that the supervisor gave; a worker alone takes its own."""
        rows = self._own_rows.give(names(limits)) if rows is None else rows
        now = self._loop.time()
        before_buckets, self._buckets = self._buckets, {}
        before_gauges, self._gauges = self._gauges, {}

        def bucket(name: str, rate: float, depth_s: float = BANDWIDTH_DEPTH_S) -> Bucket | None:
            if not rate:
                return None
            key = name, rows[name]
            found = self._buckets.get(key) or before_buckets.get(key)
            if found is None:
                found = Bucket(self._ledger, rows[name], rate, depth_s, now)
            found.settle(now)
            found.rate = rate
            self._buckets[key] = found
            return found

        def gauge(name: str, most: int) -> Gauge | None:
            if not most:
                return None
            key = name, rows[name]
            found = before_gauges.get(key) or Gauge(self._ledger, rows[name], most)
            found.most = most
            self._gauges[key] = found
            return found

        for name in self._of.keys() - limits.keys():
            self._of[name].lift()
        self._of = {name: self._of.get(name) or Throttling(name, self._loop, self._refused) for name in limits}
        for listener, of in limits.items():
            throttling, own, shared = self._of[listener], f"listener {listener}", f"instance {of.instance}"
            throttling.received.buckets = _given(
                bucket(f"{own} in", of.in_bytes_s), bucket(f"{shared} in", of.instance_in_bytes_s)
            )
            throttling.sent.buckets = _given(
                bucket(f"{own} out", of.out_bytes_s), bucket(f"{shared} out", of.instance_out_bytes_s)
            )
            throttling.rate = bucket(f"{own} new", of.new_connections_per_s, CONNECTIONS_DEPTH_S)
            throttling.gauge = gauge(f"{own} connections", of.connections)

    def of(self, listener: str) -> Throttling | None:
        """None: it has no limits."""
        return self._of.get(listener)

    def settle(self, now: float) -> None:
        """To be called every SETTLE_S."""
        for bucket in self._buckets.values():
            bucket.settle(now)


def _given(*buckets: Bucket | None) -> tuple[Bucket, ...]:
    return tuple(bucket for bucket in buckets if bucket is not None)
