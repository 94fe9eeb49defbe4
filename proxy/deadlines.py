"""How long is waited for whom, in whatever state an exchange is.

    waits for                                 as long as
    the client, to take what we have sent     send_timeout_s
    its turn, by a limit                      the limit's max_delay_s (admission.py)
    a server that is free, in a queue         the service's queue_timeout_s (carrier.py)
    a connection to a server                  the service's connect_timeout_s, and a moment: the attempt ends by itself
    the server, before it answers             the service's first_byte_timeout_s, else request_timeout_s
    the server, in the midst of its answer    the service's idle_timeout_s, else request_timeout_s
    the client, whose body is not read now    request_timeout_s
    the client, whose body comes              body_timeout_s, of which bytes buy no more than they may (crowd.py)
    either, in a call of gRPC                 as the server is, from whatever moved last; `grpc-timeout` for all of it
    anybody, in a tunnel                      tunnel_timeout_s; once the client has ended, at most request_timeout_s

and never beyond `total_timeout_s` of the service, but for tunnels. A deadline is one attribute of the connection, moved
on every event, and looked at by the worker's sweep a few times a second: cheaper than a timer for each, and exact
enough for seconds. Every state has one: no connection waits for ever for an event that was missed.
"""

from __future__ import annotations

from typing import Final

from proxy.carrier import NEVER, Carrier, State
from proxy.errors import Code
from proxy.exchange import Exchange
from proxy.hub import Hub, Site
from proxy.moves import Waits
from proxy.throttle import Throttle

OPEN_SLACK_S: Final = 1.0  # the attempt to connect ends before whoever waits for it gives up


class TimedCarrier(Carrier):
    """A carrier with deadlines. `_touch` is called when something has moved, `_time_out` when a deadline has passed."""

    __slots__ = ("_body_until", "_eof", "_paused", "_site", "_throttle")

    def __init__(self, hub: Hub, site: Site) -> None:
        super().__init__(hub)
        self._site = site
        self._paused = False  # we do not read from the client
        self._eof = False  # the client has ended
        self._body_until = NEVER
        self._throttle: Throttle | None = None

    def _wait(self, state: State, timeout_s: float) -> None:
        self._state = state
        self.deadline = self._hub.now() + timeout_s

    def _touch(self) -> None:
        exchange, site = self._exchange, self._site
        if exchange is None or self._waiting is not None or exchange.pausing:
            return
        waits = exchange.waits
        if self._full:
            timeout_s = site.allowance.send_timeout_s
        elif waits is Waits.UPSTREAM or (waits is Waits.CLIENT and exchange.converses):
            timeout_s = site.request_timeout_s
            if self._service is not None:
                service = self._service
                own_s = service.idle_timeout_s if exchange.answering else service.first_byte_timeout_s
                timeout_s = own_s or timeout_s
        elif waits is Waits.CONNECT and self._service is not None:
            timeout_s = self._service.connect_timeout_s + OPEN_SLACK_S
        elif waits is Waits.TUNNEL:
            timeout_s = min(site.tunnel_timeout_s, site.request_timeout_s) if self._eof else site.tunnel_timeout_s
        elif self._paused or exchange.answering:  # it is not the client's pace alone that counts
            self._body_until = NEVER
            timeout_s = site.request_timeout_s if self._paused else site.allowance.body_timeout_s
        else:
            timeout_s = site.allowance.body_timeout_s
            if self._body_until == NEVER:
                self._body_until = self._hub.now() + timeout_s
            timeout_s = min(timeout_s, self._body_until - self._hub.now())
        self.deadline = self._hub.now() + timeout_s
        if self.deadline > self._ends_at and waits is not Waits.TUNNEL:
            self.deadline = self._ends_at

    def _held_up(self) -> bool:
        """Whether it is for the listener's limits that nothing moved, which is not the client's fault."""
        if self._throttle is None or not self._throttle.waits:
            return False
        self.deadline = self._hub.now() + self._site.allowance.body_timeout_s
        if self._body_until < NEVER:
            self._body_until = self.deadline
        return True

    def _time_out(self, exchange: Exchange) -> None:
        whole = self._ends_at <= self._hub.now()
        if self._waiting is not None:
            self._leave_queue()
            self._run(exchange.no_server(Code.TOTAL_TIMEOUT if whole else Code.QUEUE_TIMEOUT))
        else:
            self._run(exchange.timed_out(client_stalled=self._full, whole=whole))

    def leave_dead_server(self) -> None:
        """Does not wait for a server that is unhealthy and has gone silent, as a machine does that lost its power.

        To be asked now and then while a server is unhealthy. One that still acknowledges what it gets may be about to
        answer, and is waited for.
        """
        service = self._service
        if service is None:
            return
        if self._upstream is not None:
            if service.pool.is_down(self._upstream.server) and self._upstream.silent:
                self._upstream.abort()
        elif self._attempt is not None:
            server, timeout = self._attempt
            if service.pool.is_down(server) and not timeout.expired():
                timeout.reschedule(self._hub.now())
