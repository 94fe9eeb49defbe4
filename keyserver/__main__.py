"""`python -m keyserver`: the process that holds the private keys."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from control.node import logs
from control.node.identity import Identity, IdentityError
from control.node.notify import notify
from control.node.tasks import Tasks
from core.endpoints import endpoint
from keyserver import check, encrypt, harden, issue
from keyserver.audit import AuditLog
from keyserver.crew import Crew, start_token_process
from keyserver.errors import KeyFilesError, StartError
from keyserver.grants import Grants, GrantsError
from keyserver.grants_file import GrantsFile
from keyserver.keyring import Keyring
from keyserver.options import Settings, parse
from keyserver.policy import KeyType
from keyserver.server import KeyServer
from keyserver.service import Service
from keyserver.token_crew import TokenCrew

log = logging.getLogger("keyserver")

POLL_S = 1.0  # how soon a changed key file is noticed without a SIGHUP
SUMMARY_S = 60.0
REFRESH_TIMEOUT_S = 5.0
NAMED_FILES = 5  # in a log line
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
        _tell_of_keys(keyring)
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
    policy = GrantsFile(settings.policy) if settings.policy is not None else None
    service = Service(
        keyring.store,
        audit,
        rate=settings.rate,
        key_rate=settings.key_rate,
        grants=_grants(policy, keyring),
        refresh=lambda: _refresh(keyring, loop),
    )
    keyring.changed = service.keys_changed
    server = KeyServer(service, settings.access, crews)
    if settings.socket is not None:
        await server.listen_unix(settings.socket, settings.socket_group)
        log.info("listening on %s for uid %s", settings.socket, ", ".join(map(str, sorted(settings.access.uids))))
    if settings.listen is not None and settings.identity is not None:
        port = await server.listen_tcp(*settings.listen, _identity(settings.identity))
        where = endpoint(settings.listen[0], port)
        log.info("listening on %s for nodes of role %s", where, ", ".join(settings.access.roles))
    hup = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hup.set)
    tasks.spawn(_follow_files(keyring, policy, server, audit, hup), "key files")
    tasks.spawn(_summarise(service), "summary")
    notify("READY=1")
    await stop.wait()
    notify("STOPPING=1")
    log.info("draining; so far: %s", _counters(service))
    await server.drain(DRAIN_S)
    await tasks.close()
    audit.close()
    return 1 if failures else 0


def _grants(policy: GrantsFile | None, keyring: Keyring) -> Grants | None:
    """Raises StartError."""
    if policy is None:
        return None
    try:
        grants = policy.read()
    except GrantsError as error:
        raise StartError(str(error)) from None
    assert grants is not None
    _warn_of_unknown_keys(policy, grants, keyring)
    return grants


def _warn_of_unknown_keys(policy: GrantsFile, grants: Grants, keyring: Keyring) -> None:
    names = keyring.store.names
    for key in grants.names_no_key(names):
        log.warning("%s: no key %r is held", policy.path, key)


def _follow_policy(policy: GrantsFile, keyring: Keyring, server: KeyServer, *, always: bool) -> None:
    try:
        grants = policy.read(always=always)
    except GrantsError as error:
        log.error("the policy stays as it was: %s", error)
        return
    if grants is not None:
        server.service.grants = grants
        log.info("policy read anew: %d grants", len(grants.grants))
        _warn_of_unknown_keys(policy, grants, keyring)
        server.cut_off()


def _refresh(keyring: Keyring, loop: asyncio.AbstractEventLoop) -> None:
    """Look for new keys, from another thread."""
    try:
        asyncio.run_coroutine_threadsafe(keyring.reload(always=False), loop).result(REFRESH_TIMEOUT_S)
    except TimeoutError:
        log.error("key files have changed and take long to read")
    except KeyFilesError as error:
        log.error("key files have changed and cannot be used, the old set stays: %s", error)


def _tell_of_keys(keyring: Keyring) -> None:
    held = len(keyring.store)
    log.log(logging.INFO if held else logging.WARNING, "%d keys held", held)
    _warn_of_clear_keys(keyring)


def _warn_of_clear_keys(keyring: Keyring) -> None:
    if clear := keyring.in_the_clear:
        which = ", ".join(clear[:NAMED_FILES]) + (", …" if len(clear) > NAMED_FILES else "")
        log.warning("%d key files are not encrypted (%s); `paifang keyserver encrypt` does it", len(clear), which)


def _identity(directory: Path) -> Identity:
    """Our identity. Raises IdentityError, also where it is another role's: nodes would refuse it at every handshake."""
    identity = Identity.load(directory)
    if identity.role != ROLE:
        remedy = f"`paifang certs issue CADIR --role {ROLE} --name NAME --out DIR` makes one"
        raise IdentityError(f"{directory}: the certificate is for {identity.role} {identity.name}; {remedy}")
    return identity


async def _follow_files(
    keyring: Keyring, policy: GrantsFile | None, server: KeyServer, audit: AuditLog, hup: asyncio.Event
) -> None:
    """Read the keys anew when told to, or when a file has changed; READY=1 says that we have done what we were told.

    That is also said when the keys stay as they were: who waits for it (`paifang up`) then learns why from a node.
    """
    while True:
        try:
            async with asyncio.timeout(POLL_S):
                await hup.wait()
            hup.clear()
            told = True
            audit.reopen()
        except TimeoutError:
            told = False
        except OSError as error:
            log.error("cannot reopen the audit log, the old one stays: %s", error)
        try:
            changes = await keyring.reload(always=told)
        except KeyFilesError as error:
            for file in error.files:
                log.error("the keys stay as they were: %s", file)
        except (OSError, TimeoutError) as error:  # the reader cannot be started, or does not end
            log.error("the keys stay as they were: %s", error)
        else:
            if changes is not None:
                log.info("keys read anew: %d added, %d removed, %d held", *changes, len(keyring.store))
                _warn_of_clear_keys(keyring)
        if policy is not None:
            _follow_policy(policy, keyring, server, always=told)
        if told:
            notify("READY=1")


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


def main() -> int:
    logs.setup("keyserver")
    try:
        match sys.argv[1:]:
            case ["issue", *arguments]:
                issue.main(arguments)
                return 0
            case ["check", *arguments]:
                return check.main(arguments)
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
