"""Local administration: one JSON object a line over a unix socket that only its owner may open.

A request is {"command": NAME, …arguments}, a reply {"ok": RESULT} or {"error": TEXT}. Several requests may follow one
another on a connection. The client is blocking, for command lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

Handler = Callable[[dict[str, object]], object | Awaitable[object]]

REQUEST_LIMIT_BYTES = 1 << 20
REPLY_LIMIT_BYTES = 1 << 26  # a list of all sessions
IDLE_S = 60.0
PATH_LIMIT_BYTES = 107  # sun_path of unix(7), less the final zero


class AdminError(Exception):
    """The process does not answer, or says that the command failed."""


async def serve(path: Path, handlers: Mapping[str, Handler], *, replace: bool = False) -> asyncio.AbstractServer:
    """Listen at `path` (mode 0600) until the server is closed; a socket left by a dead process is replaced.

    A handler gets the request without its "command" and may be a coroutine; what it raises becomes the error's text.
    Raises AdminError where the path is too long or, unless it is to be replaced, another process listens there.
    """
    check_path(path)
    if not replace and is_alive(path):
        raise AdminError(f"{path}: another process listens there; stop it or give another directory")
    sock = _bind(path)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _converse(reader, writer, handlers)
        except (OSError, TimeoutError):
            log.debug("%s: an administration connection ended early", path)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return await asyncio.start_unix_server(connected, sock=sock, limit=REQUEST_LIMIT_BYTES)


def ask(path: Path, command: str, timeout_s: float = IDLE_S, /, **arguments: object) -> object:
    """Send one command and return its result; blocks for up to `timeout_s`. Raises AdminError."""
    check_path(path)
    request = json.dumps({**arguments, "command": command}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            sock.sendall(request)
            with sock.makefile("rb") as file:
                line = file.readline(REPLY_LIMIT_BYTES)
    except TimeoutError:
        raise AdminError(f"{path}: no answer within {timeout_s:g} s") from None
    except PermissionError as error:
        raise AdminError(f"{path}: {error.strerror}; only the process's own user and root may ask") from None
    except OSError as error:
        raise AdminError(f"{path}: {error.strerror}; is the process running?") from None
    if not line.endswith(b"\n"):
        raise AdminError(f"{path}: the answer is incomplete")
    reply = json.loads(line)
    if "error" in reply:
        raise AdminError(str(reply["error"]))
    return reply["ok"]


def check_path(path: Path) -> None:
    """Raise AdminError where a unix socket cannot have this path, because it is too long."""
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        raise AdminError(f"{path}: longer than the {PATH_LIMIT_BYTES} bytes of a unix socket's path; use a shorter one")


def _bind(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = path.with_name(path.name[:-1] + "~")  # no longer than `path`
    try:
        bound.unlink(missing_ok=True)
        sock.bind(str(bound))
        bound.chmod(0o600)  # before listen(): nobody can have connected yet
        sock.listen()
        bound.rename(path)  # whoever comes while it is replaced finds the one or the other
    except OSError as error:
        sock.close()
        raise AdminError(f"{path}: cannot bind: {error.strerror}") from None
    return sock


def is_alive(path: Path) -> bool:
    """Whether a process listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        return sock.connect_ex(str(path)) == 0


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler]
) -> None:
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                line = await reader.readline()
        except ValueError:  # longer than REQUEST_LIMIT_BYTES
            reply: dict[str, object] = {"error": f"a request may have {REQUEST_LIMIT_BYTES} bytes"}
            line = b""
        else:
            if not line:
                return
            reply = await _answer(line, handlers)
        writer.write(json.dumps(reply, default=str).encode() + b"\n")
        async with asyncio.timeout(IDLE_S):
            await writer.drain()
        if not line:
            return


async def _answer(line: bytes, handlers: Mapping[str, Handler]) -> dict[str, object]:
    try:
        request = json.loads(line)
    except ValueError:
        return {"error": "not a JSON object"}
    if not isinstance(request, dict) or not isinstance(command := request.pop("command", None), str):
        return {"error": 'a request is a JSON object with "command"'}
    if command not in handlers:
        return {"error": f"unknown command {command!r}; known: {', '.join(sorted(handlers))}"}
    try:
        result = handlers[command](request)
        return {"ok": await result if isinstance(result, Awaitable) else result}
    except Exception as error:
        log.exception("administration command %s failed", command)
        return {"error": f"{command}: {error}"}
