"""`python -m keyserver`: the process that holds the private keys."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from control.node import harden, logs, process_metrics
from control.node.identity import Identity, IdentityError
from control.node.metrics import Family
from control.node.metrics_server import MetricsError, MetricsServer, listen
from control.node.notify import notify
from control.node.tasks import Tasks
from core.endpoints import endpoint
from keyserver import check, encrypt, exporter, issue, member, ping
from keyserver.audit import AuditLog
from keyserver.crew import Crew, start_token_process
from keyserver.errors import BadFile, KeyFilesError, StartError
from keyserver.exporter import CrewState
from keyserver.follow import Following
from keyserver.grants_file import GrantsFile
from keyserver.keyfile import read_private
from keyserver.keyring import Keyring
from keyserver.ocsp_fetch import fetch
from keyserver.options import Settings, parse
from keyserver.policy import KeyType
from keyserver.server import KeyServer
from keyserver.service import Service
from keyserver.staples import Staples
from keyserver.tickets import Master
from keyserver.token_crew import TokenCrew

log = logging.getLogger("keyserver")

SUMMARY_S = 60.0
DRAIN_S = 5.0  # clients close by themselves after a GOODBYE; this is for those that do not
ROLE = "keyserver"


async def serve(settings: Settings, audit: AuditLog) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code. Raises StartError, KeyFilesError or IdentityError."""
    rsa = Crew("rsa", [KeyType.RSA], settings.rsa_workers)
    token = None
    if settings.token is not None:
        crew = Crew("token", [], settings.token_workers, start_token_process)
        token = TokenCrew(crew, settings.token, settings.pin)
    crews = [rsa] if token is None else [rsa, token.crew]
    keyring = Keyring(settings.keys, [rsa], token=token)
    try:
        try:
            for crew in crews:
                await crew.start()
            await keyring.reload()
        except OSError as error:
            raise StartError(f"cannot start another process: {error}; has this user too many of them?") from None
        return await _serve(settings, keyring, crews, audit)
    finally:
        await keyring.close()
        for crew in crews:
            await crew.close()


async def _serve(settings: Settings, keyring: Keyring, crews: Sequence[Crew], audit: AuditLog) -> int:
    stop = asyncio.Event()
    failures: list[str] = []

    def died(name: str, error: BaseException) -> None:
        failures.append(name)
        stop.set()

    loop = asyncio.get_running_loop()
    tasks = Tasks(died)
    identity = _identity(settings.identity) if settings.identity is not None else None
    node = identity.name if identity is not None else socket.gethostname()
    following = Following(keyring, audit, GrantsFile(settings.policy) if settings.policy is not None else None)
    staples = Staples(fetch, lambda: datetime.now(UTC)) if settings.ocsp else None
    service = Service(
        keyring.store,
        audit,
        rate=settings.rate,
        key_rate=settings.key_rate,
        grants=following.begin(),
        staples=staples,
        tickets=_master(settings.ticket_secret),
        refresh=lambda: following.refresh(loop),
    )
    keyring.changed = service.keys_changed
    server = KeyServer(service, settings.access, crews)
    metrics = await _serve_metrics(settings, lambda: _families(server, following, crews, node))
    if settings.socket is not None:
        await server.listen_unix(settings.socket, settings.socket_group)
        log.info("listening on %s for uid %s", settings.socket, ", ".join(map(str, sorted(settings.access.uids))))
    if settings.listen is not None and identity is not None:
        port = await server.listen_tcp(*settings.listen, identity)
        where = endpoint(settings.listen[0], port)
        log.info("listening on %s for nodes of role %s", where, ", ".join(settings.access.roles))
    hup = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hup.set)
    tasks.spawn(following.run(server, hup), "key files")
    tasks.spawn(_summarise(service), "summary")
    if identity is not None:
        tasks.spawn(identity.follow(server.cut_off), "identity")
    if settings.control is not None and identity is not None:
        tasks.spawn(member.follow(settings.control, identity, server.cut_off), "control plane")
    notify("READY=1")
    await stop.wait()
    notify("STOPPING=1")
    log.info("draining; so far: %s", _counters(service))
    await server.drain(DRAIN_S)
    await tasks.close()
    if metrics is not None:
        metrics.close()
    if staples is not None:
        await staples.close()
    audit.close()
    return 1 if failures else 0


async def _serve_metrics(settings: Settings, collect: Callable[[], Iterator[Family]]) -> asyncio.Server | None:
    """Raises StartError where an address that was asked for cannot be had; the default one may be another's."""
    if settings.metrics is None:
        return None
    try:
        sock = listen(*settings.metrics)
    except MetricsError as error:
        if settings.metrics_asked:
            raise StartError(str(error)) from None
        log.warning("%s; --metrics ADDR:PORT gives another, --metrics off none", error)
        return None
    log.info("metrics at http://%s/metrics", endpoint(*sock.getsockname()[:2]))
    return await MetricsServer(collect).serve(sock)


def _families(server: KeyServer, following: Following, crews: Sequence[Crew], node: str) -> Iterator[Family]:
    service = server.service
    state = exporter.State(
        keys=Counter(held.key_type for held in service.store),
        clear_files=len(following.in_the_clear),
        stale=following.stale,
        connections=len(server.connections),
        signatures={kind: service.counters[kind] for kind in KeyType},
        answers=dict(service.answers),
        others=service.counters,
        crews=[CrewState(crew.name, crew.size, crew.ready, crew.waiting, crew.restarts) for crew in crews],
    )
    yield from process_metrics.families(ROLE, node)
    yield from exporter.families(state)


def _master(path: Path | None) -> Master | None:
    """Raises StartError."""
    if path is None:
        return None
    data = read_private(path)
    if isinstance(data, BadFile):
        raise StartError(str(data))
    try:
        return Master(data.rstrip(b"\r\n"))
    except ValueError as error:
        raise StartError(f"{path}: {error}; `openssl rand -base64 48 >{path}` makes one") from None


def _identity(directory: Path) -> Identity:
    """Our identity. Raises IdentityError, also where it is another role's: nodes would refuse it at every handshake."""
    identity = Identity.load(directory)
    if identity.role != ROLE:
        remedy = f"`paifang certs issue CADIR --role {ROLE} --name NAME --out DIR` makes one"
        raise IdentityError(f"{directory}: the certificate is for {identity.role} {identity.name}; {remedy}")
    return identity


async def _summarise(service: Service) -> None:
    last = ""
    while True:
        await asyncio.sleep(SUMMARY_S)
        if (text := _counters(service)) != last:
            log.info("so far: %s", text)
        last = text


def _counters(service: Service) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(service.counters.items())) or "nothing"


def start(settings: Settings) -> int:
    """Load the keys and serve. Returns the exit code. Raises StartError, KeyFilesError or IdentityError."""
    logs.setup("keyserver", settings.log_level)
    logs.for_children(settings.log_level)
    try:
        harden.forbid_dumps()
    except OSError as error:
        raise StartError(f"cannot forbid memory dumps: {error}") from None
    if why := harden.lock_memory():
        log.warning("memory may be swapped out: %s", why)
    try:
        audit = AuditLog(settings.audit_log)
    except OSError as error:
        remedy = "give a file in a directory of this user, or - for standard output"
        raise StartError(f"cannot open the audit log {settings.audit_log}: {error.strerror}; {remedy}") from None
    return uvloop.run(serve(settings, audit))


def _acme(arguments: list[str]) -> int:
    """The issuer, whose library is optional. Raises StartError."""
    try:
        from keyserver import acme
    except ModuleNotFoundError as error:
        raise StartError(f"{error.name} is missing: pip install 'paifang[acme]'") from None
    return acme.main(arguments)


def main() -> int:
    logs.setup("keyserver")
    try:
        match sys.argv[1:]:
            case ["issue", *arguments]:
                issue.main(arguments)
                return 0
            case ["acme", *arguments]:
                return _acme(arguments)
            case ["check", *arguments]:
                return check.main(arguments)
            case ["ping", *arguments]:
                return ping.main(arguments)
            case ["encrypt", *arguments]:
                encrypt.main(arguments)
                return 0
            case arguments:
                return start(parse(arguments))
    except (StartError, KeyFilesError, IdentityError) as error:
        for line in str(error).splitlines():
            print(f"paifang-keyserver: {line}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
