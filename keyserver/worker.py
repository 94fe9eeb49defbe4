"""A process that signs with some of the keys, for the key server's own process and nobody else.

It has two sockets, both inherited. On the first it is a key server in small (protocol.md): SIGN frames in, SIGNED or
FAILED out, in order. It checks shape and scheme again, so that a bug, or an intruder, in the process that talks to
the network gets no other signature here than a TLS client would. On the second it is given its keys by the reader
(reader.py), or told where a token has them (token_worker.py); it greets on the first only when it has them. It ends
when the first closes, and on no signal short of SIGKILL: who may still need its signatures is for the other process
to say.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from control.node import harden, logs
from keyserver import policy
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.policy import KeyType
from keyserver.protocol import Broken, Connection, Event, Failed, Message, Sign, Signed, server_side
from keyserver.reader import OK, key_from
from keyserver.store import Signer
from keyserver.token_keys import TokenLostError

log = logging.getLogger("keyserver.worker")

SHARED_WRITE = 4  # replies: less than a millisecond of waiting for three quarters of the system calls
RECEIVE_BYTES = 1 << 16
MAX_KEYS_BYTES = 1 << 28  # a hundred thousand keys
NICENESS = 10  # where cores are few, what takes 0.2 ms and more lets pass what takes 20 µs
REFUSED = b"no\n"


class Signing(Protocol):
    """A key in use: `keyserver.store.Signer`, or a token's."""

    @property
    def key_type(self) -> KeyType: ...
    def sign(self, scheme: int, content: bytes) -> bytes: ...


Signers = Mapping[bytes, Signing]
# What to do with a line on the key socket: (its fields, the signers so far) → (those from now on or None, the answer).
Equip = Callable[[Mapping[str, Any], Signers], tuple[Signers | None, bytes]]


def reply_to(request: Sign, signers: Signers) -> Message:
    """The reply to a request, whoever sent it. Raises TokenLostError."""
    request_id, key_id, scheme, _, content = request
    signer = signers.get(key_id)
    if signer is None:
        return Failed(request_id, ErrorCode.UNKNOWN_KEY)
    try:
        policy.check(signer.key_type, scheme, content)
        return Signed(request_id, signer.sign(scheme, content))
    except KeyServerError as error:
        return Failed(request_id, error.code)
    except TokenLostError:
        raise
    except Exception:
        log.exception("key %s cannot sign with 0x%04x", key_id.hex()[:16], scheme)
        return Failed(request_id, ErrorCode.INTERNAL)


def from_reader(fields: Mapping[str, Any], old: Signers) -> tuple[Signers | None, bytes]:
    """The keys that the reader sends. If one that is to be kept is not there, nothing changes."""
    kept = {each: old.get(bytes.fromhex(each)) for each in fields["keep"]}
    if None in kept.values():
        return None, REFUSED
    signers = {bytes.fromhex(each): signer for each, signer in kept.items() if signer is not None}
    for text in fields["add"].values():
        signer = Signer(key_from(text))
        signers[signer.key_id] = signer
    return signers, OK


class Worker:
    """The loop of one worker. Blocking: it has one client, and that one bounds what it sends.

    equip: makes signers of what comes on the key socket.
    """

    def __init__(self, requests: socket.socket, keys: socket.socket, equip: Equip = from_reader) -> None:
        self._requests = requests
        self._keys = keys
        self._equip = equip
        self._signers: Signers = {}
        self._has_keys = False
        self._text = bytearray()
        self._wire: Connection = server_side(0)

    def run(self) -> None:
        """Serve until the other side closes. Raises OSError, TokenLostError."""
        while self._serve_some():
            pass

    def _serve_some(self) -> bool:
        watched = [self._keys, self._requests] if self._has_keys else [self._keys]
        # Without keys nothing is read from the first socket, whose end has to be noticed all the same.
        poll = select.poll()
        for sock in watched:
            poll.register(sock, select.POLLIN)
        if not self._has_keys:
            poll.register(self._requests, select.POLLRDHUP)
        ready = dict(poll.poll())
        if self._keys.fileno() in ready and not self._take_keys():
            return False
        if self._requests.fileno() not in ready:
            return True
        data = self._requests.recv(RECEIVE_BYTES) if self._has_keys else b""
        if not data:
            return False
        self._wire.receive_data(data)
        self._answer(self._wire.events())
        return True

    def _answer(self, events: list[Event]) -> None:
        for number, event in enumerate(events, 1):
            if isinstance(event, Sign):
                self._wire.send(reply_to(event, self._signers))
            elif isinstance(event, Broken):
                raise OSError(f"the other process does not speak the protocol: {event.why}")
            if number % SHARED_WRITE == 0:
                self._flush()
        self._flush()

    def _flush(self) -> None:
        if data := self._wire.data_to_send():
            self._requests.sendall(data)

    def _take_keys(self) -> bool:
        """Whether the key socket is still of use. One line is one order, and is answered by one line."""
        data = self._keys.recv(RECEIVE_BYTES)
        if not data:
            return False
        self._text += data
        if len(self._text) > MAX_KEYS_BYTES:
            raise OSError(f"keys of more than {MAX_KEYS_BYTES} bytes")
        if not self._text.endswith(b"\n"):
            return True
        text, self._text = self._text, bytearray()
        signers, answer = self._equip(json.loads(text), self._signers)
        if signers is not None:
            self._signers, self._has_keys = signers, True
        self._keys.sendall(answer)
        return True


def main(equip: Equip = from_reader) -> int:
    """`python -m keyserver.worker --requests FD --keys FD`."""
    parser = argparse.ArgumentParser(prog="keyserver.worker")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logs.setup("keyserver")
    harden.forbid_dumps()
    harden.lock_memory()
    os.nice(NICENESS)
    with socket.socket(fileno=options.requests) as requests, socket.socket(fileno=options.keys) as keys:
        try:
            Worker(requests, keys, equip).run()
        except TokenLostError as error:
            log.error("%s", error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
