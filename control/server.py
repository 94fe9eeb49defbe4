"""The control plane's process: storage, the users' API on loopback, the nodes' API under mutual TLS.

The users' API is plain HTTP and therefore on loopback only; a reverse proxy or an HTTPS listener of Paifang's own may
stand before it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from control import api, expiry, node_api
from control.node.addresses import is_loopback
from control.node.files import write_atomic
from control.node.identity import Identity
from control.node.notify import notify
from control.node.tasks import Tasks
from control.node.tcp import cannot_bind
from control.service import ControlPlane
from control.store import Store
from control.store_sqlite import SqliteStore
from control.tokens import set_token, token_name
from core.endpoints import endpoint

log = logging.getLogger(__name__)

DRAIN_S = 3.0
ADMIN = "admin"
ROLE = "control"


class ServeError(Exception):
    """The process cannot serve; the text has the remedy."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says; see `python -m control --help`."""

    state: Path
    api: tuple[str, int]
    nodes: tuple[str, int] | None = None
    identity: Path | None = None
    token_file: Path | None = None


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ServeError, StoreError, IdentityError."""
    if not is_loopback(settings.api[0]):
        raise ServeError(f"--api {settings.api[0]}: is plain HTTP and has to be a loopback address such as 127.0.0.1")
    identity = None if settings.identity is None else _identity(settings.identity)
    lock = _lock(settings.state)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store: Store | None = None
    runners: list[web.AppRunner] = []
    watching = Tasks()
    try:
        store = await SqliteStore.open(settings.state / "control.db")
        await ensure_token(store, settings.token_file or settings.state / "token")
        plane = await ControlPlane.load(store)
        watching.spawn(plane.follow(), "versions of other control nodes")
        runners.append(await _listen(api.application(plane), settings.api, None))
        if settings.nodes is not None:
            assert identity is not None
            runners.append(await _listen(node_api.application(plane), settings.nodes, identity))
        watching.spawn(expiry.watch(plane), "expiry of certificates")
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        log.info("stopping")
        await plane.close()
    finally:
        await watching.close()
        for runner in runners:
            await runner.cleanup()
        if store is not None:
            await store.close()
        os.close(lock)


async def ensure_token(store: Store, path: Path) -> None:
    """Make the administrator's token, unless its file holds one that is valid: whoever may write there may have it.

    Raises ServeError where the file cannot be read or written.
    """
    try:
        if (present := _present(path)) and await token_name(store, present) == ADMIN:
            return
        write_atomic(path, (await set_token(store, ADMIN)).encode() + b"\n")
    except OSError as error:
        raise ServeError(f"the token file {path}: {error.strerror}; give a file of this user by --token-file") from None
    log.info("the administrator's token is in %s", path)


def _present(path: Path) -> str:
    """What stands in the token file; empty without one."""
    return path.read_text(errors="replace").strip() if path.exists() else ""


def _identity(directory: Path) -> Identity:
    """Raises IdentityError; ServeError for another role's."""
    identity = Identity.load(directory)
    if identity.role != ROLE:
        remedy = f"`paifang certs issue CADIR --role {ROLE} --name NAME --out DIR` makes one"
        raise ServeError(f"{directory}: is the identity of the {identity.role} {identity.name}; {remedy}")
    return identity


def _lock(state: Path) -> int:
    """Make the state directory and hold it until the descriptor is closed: a second process would not see our changes.

    Raises ServeError.
    """
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(state / "control.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServeError(f"--state {state}: {error.strerror}; give a directory that this user may write to") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ServeError(f"--state {state}: another control plane uses it; stop that one, or give another") from None
    return descriptor


async def _listen(app: web.Application, address: tuple[str, int], identity: Identity | None) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_S)
    await runner.setup()
    context = None if identity is None else identity.server_context(node_api.ROLES)
    host, port = address
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
    except OSError as error:
        await runner.cleanup()
        raise ServeError(f"cannot listen on {endpoint(host, port)}: {cannot_bind(error)}") from None
    log.info("%s API on %s", "node" if identity else "user", endpoint(host, runner.addresses[0][1]))
    return runner
