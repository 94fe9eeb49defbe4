"""A client's connection of HTTP/2: bytes between its socket and its streams (RFC 9113).

    socket ── receive ──► Session ── events ──► Stream ──► exchange, and so on as in HTTP/1
    socket ◄── take ───── Session ◄── head, data ── turns ◄── Stream

What streams have to send waits with them, and is taken in turns, a frame at a time: the most urgent first, as clients
say (RFC 9218), those that are equally urgent one after the other. Nothing is taken while the socket's own buffer is
full, and what a turn of the loop brought goes out in one write.

Memory. Of what a client sends there is at most what its windows let it (256 KiB for the connection, 64 KiB a stream).
Of answers a stream holds one read from its server and HIGH_BYTES; all streams of a connection HELD_BYTES, at which no
more is read for any of them, and one more read. While more than BACKLOG_BYTES wait in the socket's buffer (replies of
our own, acknowledgements) nothing is read from the client.

The end: a first GOAWAY says that no more streams are to come, a second one, after a round trip, which of them are
served (RFC 9113 §6.8); the connection closes when the last stream has ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
from base64 import b64encode
from collections import deque
from typing import ClassVar, Final, cast

from proxy import headers
from proxy.access_log import Record
from proxy.arrival import identity_of, origin_of, visitor_of
from proxy.carrier import NEVER
from proxy.client_identity import UnusableIdentity
from proxy.errors import Code, Refused
from proxy.gate import LOG_EVERY_S, admits
from proxy.h2_events import Acknowledged, Asked, Broken, Came, Leaving, Opened, Trailed, WasReset
from proxy.h2_frames import Error
from proxy.h2_message import VERSION, read_request, trailer_lines
from proxy.h2_quick import QuickStream
from proxy.h2_session import Limits, Session
from proxy.h2_stream import Stream
from proxy.hpack import Pair
from proxy.hub import Activity, Hub, Site, View
from proxy.throttle import Throttle
from proxy.upstream import CLOSE_S, WRITE_HIGH_BYTES

log = logging.getLogger(__name__)

LIMITS: Final = Limits()
FRAME_BYTES: Final = 16_384
HELD_BYTES: Final = 1 << 20
BACKLOG_BYTES: Final = 65_536
LINGER_S: Final = 2.0
LEAVE_S: Final = 1.0  # a round trip, for clients that do not answer pings
MOST_STREAMS: Final = 1 << 30  # half of the numbers that there are
_LEAVING: Final = b"leaving."
_URGENCIES: Final = 8


class Http2Connection(asyncio.Protocol):
    """One client's connection to a listener. `counted`: it is known already, as one of HTTP/1."""

    stream: ClassVar[type[Stream]] = QuickStream

    __slots__ = (
        "_closing", "_counted", "_ended", "_flushing", "_full", "_head_until", "_held", "_idle_until", "_leaves",
        "_lingers", "_paused", "_place", "_session", "_streams", "_turns", "crowded", "deadline", "hub", "origin",
        "requests", "since", "site", "tail", "throttle", "transport", "visitor",
    )  # fmt: skip

    def __init__(self, hub: Hub, site: Site, *, counted: bool = False) -> None:
        self.hub, self.site = hub, site
        self._counted = counted
        self._session = Session(LIMITS, hub.now(), connect_protocol=True)
        self._streams: dict[int, Stream] = {}
        self._turns: list[deque[Stream] | None] = [None] * _URGENCIES  # who has something to send
        self._held = 0  # bytes of answers that wait
        self.crowded = False  # they are too many
        self._full = False  # the socket's buffer is
        self._paused = False  # we do not read
        self._flushing = False  # what there is to send goes out at the end of this turn
        self._leaves = 0  # how many GOAWAYs have been said
        self._closing = False
        self._ended = False  # the client has
        self._lingers = False  # we have, and read what the client sends until it has
        self._place: str | None = None  # in the crowd
        self.throttle: Throttle | None = None
        self.requests = 0
        self._idle_until = self._head_until = NEVER  # where no stream is there
        self.deadline = NEVER
        self.since = 0.0

    # -- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        hub, site = self.hub, self.site
        visitor = self.visitor = visitor_of(site, transport)
        visitor.version = _version()
        self.origin = origin_of(site, transport, visitor.client, hub.node, self._identify())
        self.tail = self.origin.tail(VERSION)
        if site.throttling is not None:
            self.throttle = transport.get_extra_info("throttle")
        site.connections.add(self)
        site.most_connections = max(site.most_connections, len(site.connections))
        hub.count("http2_connections")
        if not self._counted:
            hub.count("connections")
            hub.journal.bills.opened(site.name)
        self._place = hub.crowd.enter(visitor.client, site.allowance)
        if self._place is None or hub.crowd.full:
            self._turn_away()
        self.since = hub.now()
        self._idle_until = self.since + site.idle_timeout_s
        self._rest()
        if site.access is not None:
            self.admit()  # the list may have changed during the TLS handshake
        if site.closing:
            self.drain()
        self._flush()

    def _identify(self) -> bytes | None:
        """See `identity_of`. Cuts a client whose certificate is not to be used."""
        try:
            return identity_of(self.site, self.transport)
        except UnusableIdentity as error:
            self.hub.count("client_certificates_refused")
            log.info("%s: the certificate of %s is not taken: %s", self.site.name, self.visitor.client, error)
            self.transport.abort()
        return b""

    def _turn_away(self) -> None:
        site, now = self.site, self.hub.now()
        self.hub.count("connections_refused")
        if now >= site.next_crowding_logged:
            site.next_crowding_logged = now + LOG_EVERY_S
            whose = f"{self.visitor.client} has" if self._place is None else "this worker has"
            log.warning("%s: %s too many connections; those that come are cut off", site.name, whose)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        for event in self._session.receive(data, self.hub.now()):
            if isinstance(event, Asked):
                self._asked(event)
            elif isinstance(event, Came):
                stream = self._streams.get(event.stream)
                if stream is not None:
                    stream.came(event.payload, event.size, event.ended)
                else:
                    self._session.credit(event.stream, event.size)
            elif isinstance(event, Opened):
                self._opened(event.stream)
            elif isinstance(event, WasReset):
                self._was_reset(event)
            elif isinstance(event, Trailed):
                self._trailed(event)
            elif isinstance(event, Acknowledged):
                if event.payload == _LEAVING:
                    self._leave_for_good()
            elif isinstance(event, Leaving):
                self._leaves = max(self._leaves, 2)  # there is nothing to agree on any more
            elif isinstance(event, Broken):
                self._broken(event)
        self._rest()
        self._flush()

    def eof_received(self) -> bool:
        """A client without a way to open windows is gone."""
        self._ended = True
        self.close()
        return False

    def pause_writing(self) -> None:
        self._full = True
        self.deadline = self.hub.now() + self.site.allowance.send_timeout_s

    def resume_writing(self) -> None:
        self._full = False
        self.deadline = NEVER
        self._rest()
        self._balance()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self.site.connections.discard(self)
        if self._place is not None:
            self.hub.crowd.leave(self._place)
            self._place = None
        for stream in list(self._streams.values()):
            stream.gone()
        self.deadline = NEVER

    # -- requests

    def _asked(self, asked: Asked) -> None:
        hub, site = self.hub, self.site
        self.requests += 1
        hub.count("http2_streams")
        if not self._session.knows(asked.stream):
            return  # what came with it has ended it: nobody is asked for an answer
        if not hub.crowd.take():
            hub.count("connections_refused")
            self.reset(asked.stream, Error.REFUSED_STREAM)
            return
        stream = self._streams[asked.stream] = self.stream(self, asked.stream, ended=asked.ended)
        site.streams.add(stream)
        if not self._full:
            self.deadline = NEVER
        if asked.stream > MOST_STREAMS:
            self.drain()
        size = sum([len(name) + len(value) for name, value in asked.fields or ()])
        if asked.ended and asked.fields is not None and stream.ask(asked.fields, size):
            return
        try:
            if asked.fields is None:
                raise Refused(Code.HEAD_LARGE)
            head = read_request(asked.fields, size, ended=asked.ended, new_key=_new_key)
        except Refused as refused:
            self._refuse(stream, refused.code, asked.fields or [], size)
        else:
            stream.begin(head)

    def _refuse(self, stream: Stream, code: Code, fields: list[Pair], size: int) -> None:
        """Answers what is not a request that we serve; the other streams go on."""
        hub, visitor = self.hub, self.visitor
        identifier = hub.new_request_id()
        lines, text = headers.error_lines(code, code.status, identifier, hub.node, hub.date())
        head = any(pair == (b":method", b"HEAD") for pair in fields)
        record = Record(self.site.name, visitor.client, status=code.status, bytes_in=size, version=_version())
        record.bytes_out = stream.reply(code.status, lines + self.site.hsts, b"" if head else text)
        record.request_id = identifier.decode()
        record.tls_version, record.sni = visitor.tls_version, visitor.sni
        hub.journal.record(record, code, code.source.value, None)

    def _trailed(self, trailed: Trailed) -> None:
        stream = self._streams.get(trailed.stream)
        if stream is None:
            return
        try:
            if trailed.fields is None:
                raise Refused(Code.HEAD_LARGE)
            stream.trailed(trailer_lines(trailed.fields))
        except Refused as refused:
            stream.trailed(refused)

    def _was_reset(self, event: WasReset) -> None:
        self.hub.count("http2_resets_out" if event.why else "http2_resets_in")
        if event.why:
            self._tell("stream %d of %s is reset: %s: %s", event.stream, event.code, event.why)
        stream = self._streams.get(event.stream)
        if stream is not None:
            stream.gone()

    def _broken(self, event: Broken) -> None:
        """A connection error: GOAWAY stands behind what is sent."""
        self.hub.count("http2_goaways")
        self.hub.count("http2_floods" if event.code is Error.ENHANCE_YOUR_CALM else "http2_errors")
        self._tell("the connection, of stream %d, of %s is ended: %s: %s", self._session.last, event.code, event.why)
        self._leaves = 2
        self.close()

    def _tell(self, text: str, stream: int, code: int, why: str) -> None:
        """To the log; not too often."""
        site, now = self.site, self.hub.now()
        if now >= site.next_http2_logged:
            site.next_http2_logged = now + LOG_EVERY_S
            log.info(f"%s: {text}", site.name, stream, self.visitor.client, Error(code).name, why)

    # -- what streams ask for

    def tell(self, number: int, block: bytes, *, ended: bool) -> None:
        """A head, or trailers."""
        if not self._closing and self._session.knows(number):
            self._session.head(number, block, ended)
            self._flush_soon()

    def answer(self, number: int, block: bytes, payload: bytes) -> bool:
        """A whole answer at once; False: others are before it, or there is no room."""
        session = self._session
        if self._held or self._full or len(payload) > min(session.room(number), FRAME_BYTES):
            return False
        session.head(number, block, False)
        session.data(number, payload, True)
        self._flush_soon()
        return True

    def offer(self, stream: Stream) -> None:
        """It has something to send."""
        if not stream.in_turn:
            stream.in_turn = True
            turns = self._turns[stream.urgency]
            if turns is None:
                turns = self._turns[stream.urgency] = deque()
            turns.append(stream)
        self._flush_soon()

    def credit(self, number: int, size: int) -> None:
        self._session.credit(number, size)
        self._flush_soon()

    def reset(self, number: int, code: Error) -> None:
        """Ends a stream, if it has not ended."""
        if self._session.reset(number, code):
            self.hub.count("http2_resets_out")
        self._flush_soon()

    def forget(self, stream: Stream) -> None:
        """It is over."""
        if self._streams.pop(stream.number, None) is None:
            return
        self.site.streams.discard(stream)
        self.hub.crowd.leave("")
        if not self._streams and not self._closing:
            self._turns = [None] * _URGENCIES
            self._idle_until = self.hub.now() + self.site.idle_timeout_s
            self._rest()
            self._flush_soon()

    def hold(self, more: int) -> None:
        """So many more bytes of answers wait."""
        self._held += more
        if self._held > HELD_BYTES and not self.crowded:
            self.crowded = True
            for stream in list(self._streams.values()):
                stream.choke()
        elif self.crowded and self._held <= HELD_BYTES // 2:
            self.crowded = False
            for stream in list(self._streams.values()):
                stream.breathe()

    # -- turns

    def _opened(self, number: int) -> None:
        """There is room in a window again."""
        if number:
            stream = self._streams.get(number)
            if stream is not None and stream.sendable:
                self.offer(stream)
            return
        for stream in self._streams.values():
            if stream.sendable:
                self.offer(stream)

    def _pump(self) -> None:
        """Takes from the streams what may be sent, until the socket's buffer is full."""
        for turns in self._turns:
            while turns and not self._full:
                stream = turns[0]
                more = self._send_some(stream)
                if not more:
                    turns.popleft().in_turn = False
                elif stream.shares:
                    turns.rotate(-1)

    def _send_some(self, stream: Stream) -> bool:
        """A frame of this stream. Whether it can be its turn again."""
        if not stream.sendable or stream.number not in self._streams:
            return False
        session, number = self._session, stream.number
        room = min(session.room(number), FRAME_BYTES)
        if not room and stream.queued:
            return False
        data, ended = stream.take(room)
        if data or ended:
            session.data(number, data, ended)
        stream.sent(ended=ended)
        if session.waiting > WRITE_HIGH_BYTES:
            self.transport.write(session.take())
        return stream.sendable

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.hub.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._closing:
            return
        self._pump()
        if data := self._session.take():
            self.transport.write(data)
            self._balance()
        if self._leaves > 1 and not self._streams:
            self.close()

    def _balance(self) -> None:
        """Reads from the client only as long as it takes what we say to it."""
        pause = self.transport.get_write_buffer_size() > BACKLOG_BYTES if self._full else False
        if pause != self._paused and not self.transport.is_closing():
            self._paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    # -- time, and the end

    def _rest(self) -> None:
        """What is waited for where there is no stream: the next one, or the end of a preface or a head in progress."""
        if self._session.between_frames:
            self._head_until = NEVER
        elif self._head_until == NEVER:
            self._head_until = self.hub.now() + self.site.allowance.head_timeout_s
        if not self._streams and not self._full and not self._closing:
            self.deadline = min(self._idle_until, self._head_until)

    def expire(self) -> None:
        """The deadline has passed."""
        if self.throttle is not None and self.throttle.waits:
            self.deadline = self.hub.now() + self.site.allowance.body_timeout_s
        elif self._lingers:
            self._cut()
        elif self._closing or self._full:
            self.transport.abort()
        else:
            self._leave_for_good()
            self.close()

    def drain(self) -> None:
        """The listener keeps no connection alive any more: streams that have begun end as they would have."""
        if self._leaves or self._closing:
            return
        self._leaves = 1
        self.hub.count("http2_goaways")
        self._session.leave()
        self._session.ping(_LEAVING)
        self.hub.loop.call_later(LEAVE_S, self._leave_for_good)
        self._flush_soon()

    retire = drain

    def _leave_for_good(self) -> None:
        """Streams that come after those that we know of are not served."""
        if self._leaves < 2 and not self._closing:
            self._leaves = 2
            self._session.leave(last=self._session.last)
            self._flush_soon()

    def cut(self) -> None:
        """The drain time is over."""
        self._leave_for_good()
        for stream in list(self._streams.values()):
            stream.drained()
        self.close()

    def close(self) -> None:
        """Sends what is left to be sent, for a while; then the connection is cut."""
        if self._closing:
            return
        self._pump()
        if data := self._session.take():
            self.transport.write(data)
        self._closing = True
        for stream in list(self._streams.values()):
            stream.gone()
        if self.transport.can_write_eof() and not self._ended:
            # What the client still sends, if nobody read it, would have it lose answers that it has not read yet. TLS
            # streams see to it themselves.
            self._lingers = True
            self.deadline = self.hub.now() + LINGER_S
            self.transport.write_eof()
            if self._paused:
                self.transport.resume_reading()
        else:
            self._cut()

    def _cut(self) -> None:
        self._lingers = False
        self.deadline = self.hub.now() + CLOSE_S
        self.transport.close()

    def give_way(self) -> None:
        """To others, for which there is no more room."""
        self.hub.count("connections_gave_way")
        self._leave_for_good()
        self.close()

    def admit(self) -> None:
        """The listener's access list may have changed: whoever it denies is cut off without a word."""
        if not admits(self.site, self.transport):
            self.hub.count("connections_denied")
            self.transport.abort()

    def leave_dead_server(self) -> None:
        """Streams have servers, each its own."""

    def tell_progress(self) -> None:
        """Streams tell theirs."""

    # -- what there is to tell

    @property
    def activity(self) -> Activity:
        """What the connection is at."""
        if self._closing:
            return Activity.CLOSING
        return Activity.STREAMS if self._streams else Activity.IDLE

    def view(self) -> View:
        """For people who look at the node."""
        peer = self.transport.get_extra_info("peername")
        return {
            "listener": self.site.name, "client": self.visitor.client, "activity": self.activity,
            "age_s": round(self.hub.now() - self.since, 1), "tls": self.visitor.tls_version,
            "busy_s": 0.0, "method": "", "host": "", "path": "", "request_id": "", "server": "",
            "client_port": peer[1] if isinstance(peer, tuple) and len(peer) > 1 else 0, "port": self.site.port,
            "worker": os.getpid(), "requests": self.requests, "rule": "", "service": "", "stage": "", "bytes_in": 0,
            "bytes_out": 0,
        }  # fmt: skip


def _new_key() -> bytes:
    """For a WebSocket's opening (RFC 6455 §4.1)."""
    return b64encode(os.urandom(16))


def _version() -> str:
    return f"HTTP/{VERSION.decode('ascii')}"
