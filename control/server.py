"""The control plane's process: storage, the users' API, the nodes' API under mutual TLS.

The users' API is plain HTTP on loopback, and TLS on any other address: `control.listening`. The first administrator's
token, and the way back in without one: `control.first_token`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import logging
import os
import pwd
import signal
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from aiohttp import web

from certs.authority import Authority
from control import api, expiry, first_token, node_api
from control.access import Access, Limits
from control.alibaba import application as alibaba
from control.api_tokens import KEYRING
from control.audit import Audit
from control.cloud import keyring
from control.cloud.access_keys import Keyring
from control.cloud.entrance import Entrance
from control.cloud.options import Served
from control.cloud.site import Site
from control.first_token import Destination, TokenFileError
from control.history import NAME as HISTORY
from control.history import History
from control.jdcloud import application as jdcloud
from control.listening import Files, ListenError, Listening, ServerTls, TlsError
from control.metering_keep import MeteringKeep, Retention
from control.node.addresses import is_loopback
from control.node.identity import Identity
from control.node.notify import notify
from control.node.tasks import Tasks
from control.observing import Observer
from control.service import NODE_LIMIT, ControlPlane
from control.signing import LIFETIME, SIGNING, Signing, keep
from control.store import Store
from control.store_choice import EtcdChoice, open_store
from control.token_record import TokenError
from control.tokens import Tokens
from core.endpoints import endpoint

log = logging.getLogger(__name__)

ROLE = "control"
NODE_CONNECTIONS = 6 * NODE_LIMIT  # a node has four: three that wait, and one that reports and answers
NODE_HANDSHAKE_S = 60  # after a restart all nodes come at once
LIMITS: Mapping[str, Mapping[str, int]] = {
    "node": {"connections": NODE_CONNECTIONS, "handshake_s": NODE_HANDSHAKE_S},
    "alibaba": {"line_bytes": alibaba.LINE_BYTES},
}
APPLICATIONS: Mapping[str, Callable[[ControlPlane, Entrance, Site], web.Application]] = {
    "alibaba": alibaba.application,
    "jdcloud": jdcloud.application,
}


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
    tls: Files | None = None
    api_hosts: tuple[str, ...] = ()
    requests_per_s: float = Limits.requests_per_s
    audit_stderr: bool = False
    etcd: EtcdChoice | None = None
    ca: Path | None = None
    identity_lifetime: timedelta = LIFETIME
    metering: Retention = field(default_factory=Retention)
    clouds: tuple[Served, ...] = ()
    access_key_file: Path | None = None
    new_access_keys: bool = False


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ServeError, StoreError, IdentityError."""
    identity = None if settings.identity is None else _identity(settings.identity)
    tls = _tls(settings, identity, settings.api[0], "--api")
    signing = Signing(None if settings.ca is None else Authority.load(settings.ca), settings.identity_lifetime)
    _check_ca(signing, identity)
    lock = _lock(settings.state)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store: Store | None = None
    observer: Observer | None = None
    doors: list[Listening] = []
    watching = Tasks()
    try:
        store = await open_store(settings.state, settings.etcd)
        plane = await ControlPlane.load(store)
        plane.metering = MeteringKeep(store, settings.metering)
        watching.spawn(plane.follow(), "versions of other control nodes")
        observer = Observer(plane, await asyncio.to_thread(History, settings.state / HISTORY))
        watching.spawn(observer.keep(), "what nodes report")
        access = _access(plane, settings, tls)
        keys = await _keyring(store, settings)
        doors.append(await _serve_users(plane, settings, access, tls, watching, signing, keys, observer))
        if keys is not None:
            doors += await _serve_clouds(plane, settings, access, tls, identity, watching, keys)
        if settings.nodes is not None:
            assert identity is not None
            context = _node_context(identity, plane, signing)
            doors.append(await _listen("node", node_api.application(plane, signing), settings.nodes, context))
            signing.address = endpoint(settings.nodes[0], doors[-1].address[1])
            watching.spawn(keep(identity, signing, plane.store), "own identity")
        watching.spawn(plane.orders.follow(), "what other control nodes tell nodes")
        watching.spawn(expiry.watch(plane), "expiry of certificates")
        watching.spawn(plane.metering.keep(), "metering")
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        log.info("stopping")
        await plane.close()
    finally:
        await watching.close()
        if observer is not None:
            await observer.close()
        for door in doors:
            await door.close()
        if store is not None:
            await store.close()
        os.close(lock)


async def reset_admin_token(settings: Settings) -> None:
    """Make another administrator's token, beside a control plane that runs. Raises ServeError, StoreError."""
    if not settings.state.is_dir():
        raise ServeError(f"--state {settings.state}: is no directory; give the one of the control plane")
    _check_owner(settings.state)
    store = await open_store(settings.state, settings.etcd)
    try:
        await first_token.reset(store, Audit(store), _destination(settings))
    except (TokenFileError, TokenError) as error:
        raise ServeError(str(error)) from None
    finally:
        await store.close()


def _check_owner(state: Path) -> None:
    """Leave no files of root in the directory of another user, who could not use them. Raises ServeError."""
    if (uid := state.stat().st_uid) != os.geteuid():
        try:
            owner = pwd.getpwuid(uid).pw_name
        except KeyError:
            owner = f"#{uid}"
        raise ServeError(f"--state {state}: belongs to {owner}; do this as that user: sudo -u '{owner}' paifang …")


def _destination(settings: Settings) -> Destination:
    return Destination.of(settings.state, settings.token_file, sys.stdout)


def _tls(settings: Settings, identity: Identity | None, host: str, option: str) -> ServerTls | None:
    """The TLS of an API that listens there; None where it is not needed. Raises ServeError."""
    if settings.tls is not None:
        files = settings.tls
    elif is_loopback(host):
        return None
    elif identity is not None:
        files = Files(identity.directory / "cert.pem", identity.directory / "key.pem")
    else:
        remedy = "give --api-tls-cert and --api-tls-key, or --identity DIR, or a loopback address such as 127.0.0.1"
        raise ServeError(f"{option} {host}: others reach this address, so that it has to have TLS: {remedy}")
    try:
        return ServerTls(files)
    except TlsError as error:
        raise ServeError(str(error)) from None


def _access(plane: ControlPlane, settings: Settings, tls: ServerTls | None) -> Access:
    """Who may come in, by the users' API and by those of clouds. Raises ServeError."""
    limits = Limits(requests_per_s=settings.requests_per_s, address_per_s=4 * settings.requests_per_s)
    if tls is not None and settings.api_hosts:
        raise ServeError("--api-host is for an API without TLS: with TLS every name of the certificate will do")
    hosts = frozenset(map(str.lower, settings.api_hosts)) if tls is None else None
    lines = sys.stderr if settings.audit_stderr else None
    return Access(Tokens(plane.store), Audit(plane.store, lines=lines), limits, hosts)


async def _keyring(store: Store, settings: Settings) -> Keyring | None:
    """What access keys are made with, where any API asks for them. Raises ServeError."""
    if not settings.clouds:
        return None
    file = settings.access_key_file or settings.state / keyring.NAME
    try:
        return await keyring.load(store, file, settings.new_access_keys)
    except keyring.KeyringError as error:
        raise ServeError(str(error)) from None


async def _serve_clouds(
    plane: ControlPlane, settings: Settings, access: Access, tls: ServerTls | None, identity: Identity | None,
    watching: Tasks, keys: Keyring,
) -> list[Listening]:  # fmt: skip
    """The APIs of clouds that are asked for. Raises ServeError."""
    doors: list[Listening] = []
    for each in settings.clouds:
        name, cloud_tls = each.name, tls
        if tls is None:
            cloud_tls = _tls(settings, identity, each.address[0], f"--{name}")
            if cloud_tls is not None:
                watching.spawn(cloud_tls.watch(), f"the certificate of {name}'s API")
        site = dataclasses.replace(each.site, endpoint=endpoint(*each.address))
        app = APPLICATIONS[name](plane, Entrance(access, plane.store, keys), site)
        doors.append(await _listen(name, app, each.address, None if cloud_tls is None else cloud_tls.context))
    return doors


async def _serve_users(
    plane: ControlPlane, settings: Settings, access: Access, tls: ServerTls | None, watching: Tasks, signing: Signing,
    keys: Keyring | None, observer: Observer,
) -> Listening:  # fmt: skip
    """Raises ServeError."""
    try:
        await first_token.ensure(plane.store, access.audit, _destination(settings))
    except (TokenFileError, TokenError) as error:
        raise ServeError(str(error)) from None
    app = api.application(plane, access, observer)
    app[SIGNING] = signing
    if keys is not None:
        app[KEYRING] = keys
    listening = await _listen("user", app, settings.api, None if tls is None else tls.context)
    if tls is not None:
        watching.spawn(tls.watch(), "the API's certificate")
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _hangup, tls)
    return listening


def _hangup(tls: ServerTls | None) -> None:
    if tls is None:
        log.info("SIGHUP: there is no certificate of the users' API to read again")
    else:
        tls.reload()


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


def _check_ca(signing: Signing, identity: Identity | None) -> None:
    """Raises ServeError where nodes that join would not know us."""
    if signing.available and identity is not None and (identity.directory / "ca.pem").read_text() != signing.ca_pem:
        raise ServeError(f"--ca: {identity.directory} is an identity of another CA; issue it by this one")


def _node_context(identity: Identity, plane: ControlPlane, signing: Signing) -> ssl.SSLContext:
    """Machines without a certificate come in while there is an invitation that they may have."""

    def strangers() -> bool:
        return signing.available and time.time() < plane.orders.state.invited_until

    return identity.server_context(node_api.ROLES, strangers)


async def _listen(
    name: str, app: web.Application, address: tuple[str, int], context: ssl.SSLContext | None
) -> Listening:
    """Raises ServeError."""
    try:
        limits = LIMITS.get(name, {})
        listening = await Listening.start(app, address, context, **limits)
    except ListenError as error:
        raise ServeError(str(error)) from None
    log.info("%s API on %s%s", name, endpoint(address[0], listening.address[1]), "" if context is None else ", TLS")
    return listening
