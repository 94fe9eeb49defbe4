"""What every request of a client needs that is carried out, whether it has a connection to itself or shares one.

`ServingCarrier` makes the exchange and its span, has the server's answers passed on, and leaves behind a line of the
log. A connection of HTTP/1 is one (conn.py), and so is each stream of HTTP/2 (h2_stream.py).
"""

from __future__ import annotations

import logging
import os
from time import monotonic
from typing import Final

from core.endpoints import endpoint
from proxy import grpc, headers
from proxy.access_log import Visitor
from proxy.actions import Changes, Decision
from proxy.carrier import NEVER, State
from proxy.deadlines import TimedCarrier
from proxy.dialects import ClientDialect, Heard
from proxy.exchange import Exchange
from proxy.gate import LOG_EVERY_S
from proxy.hub import Activity, Hub, Site, View
from proxy.message import RequestHead
from proxy.tracing import FIELD, Trace

log = logging.getLogger(__name__)


class ServingCarrier(TimedCarrier):
    """A carrier of one exchange, or of one after the other."""

    __slots__ = (
        "_answers", "_asked", "_asked_at", "_decided", "_requests", "_router", "_tail", "_trace", "_traced",
        "_visitor", "since",
    )  # fmt: skip
    _visitor: Visitor

    def __init__(self, hub: Hub, site: Site) -> None:
        super().__init__(hub, site)
        self._decided: Decision = None  # what is to happen to the request that is at hand, if that is known
        self._traced: bool | None = None  # whether it is chosen to be a span, if that is known
        self._trace: Trace | None = None  # the exchange's span
        self.since = 0.0

    def _current(self) -> Exchange | None:
        """The exchange that goes on; to be asked before anything is done that an exchange has to know of."""
        return self._exchange

    def _serve(
        self, head: RequestHead, rest: bytes = b"", client: ClientDialect | None = None, *, closing: bool = False
    ) -> None:
        """Begins an exchange, of which the account knows already; it may end before this returns."""
        hub = self._hub
        self._service = None
        self._body_until = NEVER
        self._state = State.EXCHANGE
        if head.block.underscored:
            self._tell_underscored(head)
        identifier = headers.request_id(head.block) or hub.new_request_id()
        self._exchange = Exchange(
            head,
            self._origin,
            self._site.router,
            identifier,
            hub.date,
            rest=rest,
            closing=closing,
            hsts=self._site.hsts,
            client=client,
            means=hub.means,
        )
        decided, self._decided = self._decided, None
        self._run(self._exchange.start(decided, self._begin_trace(head) if hub.tracer is not None else None))
        self._touch()

    def _begin_trace(self, head: RequestHead) -> Changes | None:
        """Makes the request a span, if it is chosen to be one."""
        tracer = self._hub.tracer
        assert tracer is not None
        chosen, self._traced = self._traced, None
        values = head.block.values(FIELD)
        if chosen is None:
            chosen = tracer.chooses(values, self._origin.trusted)
        if not chosen:
            return None
        self._trace = tracer.begin(values, head.method.decode("ascii"), self._site.name)
        return self._trace.changes

    def _tell_underscored(self, head: RequestHead) -> None:
        """Says which fields do not pass, so that nobody has to wonder; not too often."""
        names, site, now = headers.dropped(head.block, self._origin), self._site, self._hub.now()
        if not names:
            return
        self._hub.count("underscored_fields", len(names))
        if now >= site.next_underscore_logged:
            site.next_underscore_logged = now + LOG_EVERY_S
            log.info("%s: dropped from a request of %s: %s", site.name, self._visitor.client, ", ".join(names)[:200])

    # -- what the server does

    def upstream_data(self, data: bytes) -> None:
        exchange = self._current()
        assert exchange is not None
        self._time(exchange)
        self._run(exchange.upstream_data(data))
        if not exchange.reads_head:  # single bytes of a head buy no time
            self._touch()

    def upstream_heard(self, heard: list[Heard]) -> None:
        exchange = self._current()
        assert exchange is not None
        self._time(exchange)
        self._run(exchange.heard(heard))
        self._touch()

    def upstream_lost(self, *, unprocessed: bool = False) -> None:
        exchange = self._current()
        assert exchange is not None
        self._run(exchange.upstream_closed(unprocessed=unprocessed))
        self._touch()

    # -- what there is to tell

    @property
    def activity(self) -> Activity:
        """What is going on."""
        if self._exchange is not None and self._exchange.tunnels:
            return Activity.TUNNEL
        return _ACTIVITIES[self._state]

    def view(self) -> View:
        """For people who look at the node."""
        exchange = self._current()
        view: View = {
            "listener": self._site.name, "client": self._visitor.client, "activity": self.activity,
            "age_s": round(self._hub.now() - self.since, 1), "tls": self._visitor.tls_version,
            "busy_s": 0.0, "method": "", "host": "", "path": "", "request_id": "", "server": "",
            "client_port": self._client_port(), "port": self._site.port, "worker": os.getpid(),
            "requests": self._account.number, "rule": "", "service": "", "stage": "", "bytes_in": 0, "bytes_out": 0,
        }  # fmt: skip
        if exchange is not None:
            head = exchange.head
            view["busy_s"] = round(monotonic() - self._account.started_at, 1)
            view["method"], view["host"] = head.method.decode("ascii"), head.host.decode("ascii")
            view["path"], view["request_id"] = exchange.target.decode("ascii"), exchange.identifier.decode("ascii")
            view["rule"], view["service"], view["stage"] = exchange.rule, exchange.service, exchange.stage
            view["bytes_in"], view["bytes_out"] = self._account.bytes_in - len(exchange.rest), self._account.bytes_out
        if self._upstream is not None:
            view["server"] = endpoint(*self._upstream.server)
        return view

    def _client_port(self) -> int:
        peer = self._transport.get_extra_info("peername")
        return peer[1] if isinstance(peer, tuple) and len(peer) > 1 else 0

    # -- log

    def tell_progress(self) -> None:
        """Has the bytes billed that an exchange has moved since the last time."""
        exchange = self._exchange
        if exchange is not None:
            self._hub.journal.bills.ahead(self._site.name, *self._account.ahead(len(exchange.rest)))

    def _record(self) -> None:
        exchange, account, hub, service = self._exchange, self._account, self._hub, self._service
        assert exchange is not None
        name = service.name if service is not None else exchange.service
        record = account.record(self._visitor, exchange, name, hub.log_fields)
        if account.told_in or account.told_out:
            hub.journal.bills.ahead(self._site.name, *account.take_back())
        source = exchange.source.value if exchange.source else ""
        hub.journal.record(record, exchange.error, source, exchange.offset)
        if exchange.converses:
            hub.count(grpc.counted(exchange.grpc_status))
        if exchange.replaced:
            hub.count("replaced_answers")
        if exchange.encoder is not None:
            hub.count("compressed_answers")
            hub.count("compression_bytes_in", exchange.encoder.bytes_in)
            hub.count("compression_bytes_out", exchange.encoder.bytes_out)
        if self._trace is not None:
            self._trace.end(record)
            self._trace = None


_ACTIVITIES: Final = {
    State.IDLE: Activity.IDLE,
    State.HEAD: Activity.HEAD,
    State.EXCHANGE: Activity.REQUEST,
    State.LINGER: Activity.CLOSING,
    State.CLOSED: Activity.CLOSING,
}
