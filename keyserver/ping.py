"""`paifang keyserver ping`: whether key servers answer, for people and for health checks of other programs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from control.node.identity import Identity
from keyserver.errors import KeyServerError, StartError
from keyserver.link import Endpoint
from keyserver.protocol import Broken, Failed, Ping, Pong, Welcome, client_side

TIMEOUT_S = 3.0
RECEIVE_BYTES = 1 << 16

EXAMPLES = """examples:
  paifang keyserver ping unix:/run/paifang/keys.sock
  paifang keyserver ping 10.0.0.5:8473 10.0.0.6:8473 --identity ./l7-1
"""


async def ping(endpoint: Endpoint, identity: Identity | None = None) -> float:
    """Seconds from PING to PONG, once greeted. Raises KeyServerError, OSError, TimeoutError or ssl.SSLError."""
    async with asyncio.timeout(TIMEOUT_S):
        if endpoint.path:
            reader, writer = await asyncio.open_unix_connection(endpoint.path)
        else:
            assert identity is not None
            context = identity.client_context("keyserver")
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
        try:
            return await _exchange(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    wire, began = client_side(), 0.0
    while True:
        if data := wire.data_to_send():
            writer.write(data)
        data = await reader.read(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("it closed the connection")
        wire.receive_data(data)
        for event in wire.events():
            match event:
                case Welcome():
                    began = time.perf_counter()
                    wire.send(Ping(1))
                case Pong():
                    return time.perf_counter() - began
                case Failed() | Broken():
                    raise KeyServerError(event.code)


async def _tell(text: str, identity: Identity | None) -> bool:
    """Whether it answers; says so."""
    try:
        took_s = await ping(Endpoint.parse(text), identity)
    except (KeyServerError, OSError, TimeoutError, ssl.SSLError) as error:
        why = str(error) or f"nothing within {TIMEOUT_S:g} s"
        print(f"{text}: does not answer: {why}", file=sys.stderr)
        return False
    print(f"{text}: answers in {took_s * 1e3:.1f} ms")
    return True


async def _tell_all(texts: Sequence[str], identity: Identity | None) -> bool:
    return all([await _tell(text, identity) for text in texts])


def main(arguments: Sequence[str]) -> int:
    """0 if all answer, 1 if not. Raises StartError, IdentityError."""
    parser = argparse.ArgumentParser(
        prog="paifang keyserver ping",
        description="Tell whether key servers answer.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("endpoints", nargs="+", metavar="ENDPOINT", help="unix:PATH or HOST:PORT")
    parser.add_argument("--identity", type=Path, metavar="DIR", help="an identity of role l7, for HOST:PORT")
    options = parser.parse_args(arguments)
    try:
        remote = [text for text in options.endpoints if Endpoint.parse(text).host]
    except ValueError as error:
        raise StartError(str(error)) from None
    if remote and options.identity is None:
        parser.error(f"{remote[0]} needs --identity: key servers are reached by mutual TLS")
    identity = Identity.load(options.identity) if options.identity is not None else None
    return 0 if asyncio.run(_tell_all(options.endpoints, identity)) else 1
