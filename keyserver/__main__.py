"""`python -m keyserver`: the process that holds the private keys."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from control.node import logs
from control.node.identity import Identity, IdentityError
from control.node.notify import notify
from control.node.tasks import Tasks
from core.endpoints import endpoint
from keyserver import check, encrypt, harden, issue, passphrases
from keyserver.audit import AuditLog
from keyserver.crew import Crew
from keyserver.errors import KeyFilesError, StartError
from keyserver.keyring import Keyring, Sources
from keyserver.policy import Access, KeyType
from keyserver.server import KeyServer
from keyserver.service import Service

log = logging.getLogger("keyserver")

POLL_S = 1.0  # how soon a changed key file is noticed without a SIGHUP
SUMMARY_S = 60.0
REFRESH_TIMEOUT_S = 5.0
MAX_WORKERS = 64
NAMED_FILES = 5  # in a log line
DRAIN_S = 5.0  # clients close by themselves after a GOODBYE; this is for those that do not
DEFAULT_RATE = 20_000  # signatures a second and client: more than a busy TLS node of eight cores asks for

ROLE = "keyserver"

EXAMPLES = """examples:
  paifang keyserver --keys ./keys --socket /run/paifang/keys.sock --allow-uid 33
  paifang keyserver --keys ./keys --listen 10.0.0.5:8473 --identity ./key-1
  paifang keyserver issue --help        make a development certificate
  paifang keyserver check --help        do a chain and a key fit?
  paifang keyserver encrypt --help      encrypt key files in place
SIGHUP reads the keys anew and reopens the audit log; SIGTERM drains and ends.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    keys: Sources
    rsa_workers: int
    socket: Path | None
    socket_group: str | None
    access: Access
    listen: tuple[str, int] | None
    identity: Path | None
    audit_log: Path
    rate: float


def parse(arguments: list[str]) -> Settings:
    """Settings from the command line; exits with code 2 and a message for what does not fit together.

    Raises StartError for a passphrase that is not there.
    """
    parser = argparse.ArgumentParser(
        prog="paifang keyserver",
        description="Holds private keys and signs TLS handshakes, and nothing else, for the nodes that serve TLS.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--keys", type=Path, nargs="+", required=True, metavar="PATH", help="PEM files or directories")
    passphrases.add_arguments(parser)
    parser.add_argument("--encrypted-only", action="store_true", help="refuse key files that are not encrypted")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="listen on a unix socket (mode 0660)")
    parser.add_argument("--socket-group", metavar="GROUP", help="the socket's group (default: the process's)")
    parser.add_argument(
        "--allow-uid", type=_uid, action="append", metavar="N", help="who may use the socket (default: the same user)"
    )
    parser.add_argument("--listen", metavar="ADDR:PORT", help="listen on TCP with mutual TLS, for nodes of role l7")
    parser.add_argument("--identity", type=Path, metavar="DIR", help="this server's identity, for --listen")
    parser.add_argument(
        "--allow-node", action="append", metavar="NAME", help="which nodes may use --listen (default: all of role l7)"
    )
    parser.add_argument("--audit-log", type=Path, default=Path("-"), metavar="PATH", help="default: standard output")
    parser.add_argument(
        "--rate", type=float, default=DEFAULT_RATE, metavar="N", help="signatures a second and client (%(default)s)"
    )
    parser.add_argument(
        "--rsa-workers", type=int, default=1, metavar="N", help="processes that sign with RSA keys (%(default)s)"
    )
    if arguments and not arguments[0].startswith("-"):
        parser.error(f"{arguments[0]!r} is unknown; give options, or issue, check, encrypt")
    options = parser.parse_args(arguments)
    if options.socket is None and options.listen is None:
        parser.error("nothing to listen on: give --socket PATH, --listen ADDR:PORT or both")
    if (options.listen is None) != (options.identity is None):
        parser.error("--listen and --identity belong together: TCP is served with mutual TLS only")
    if options.socket is None and (options.allow_uid or options.socket_group):
        parser.error("--allow-uid and --socket-group are for --socket")
    if options.listen is None and options.allow_node:
        parser.error("--allow-node is for --listen")
    if options.rate < 1:
        parser.error("--rate: give 1 or more signatures a second")
    if not 1 <= options.rsa_workers <= MAX_WORKERS:
        parser.error(f"--rsa-workers: give 1 to {MAX_WORKERS}; a core each is of use, more is not")
    listen = None
    if options.listen is not None:
        host, colon, port = options.listen.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            parser.error(f"--listen {options.listen!r}: give ADDR:PORT, such as 10.0.0.5:8473")
        listen = (host.removeprefix("[").removesuffix("]"), int(port))
    return Settings(
        keys=Sources(tuple(options.keys), passphrases.from_options(options), options.encrypted_only),
        rsa_workers=options.rsa_workers,
        socket=options.socket,
        socket_group=options.socket_group,
        access=Access(
            frozenset(options.allow_uid or [os.geteuid()]),
            frozenset(options.allow_node) if options.allow_node else None,
        ),
        listen=listen,
        identity=options.identity,
        audit_log=options.audit_log,
        rate=options.rate,
    )


def _uid(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number; `id -u {text}` shows a user's")
    return int(text)


async def serve(settings: Settings, audit: AuditLog) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code. Raises StartError, KeyFilesError or IdentityError."""
    rsa = Crew("rsa", [KeyType.RSA], settings.rsa_workers)
    keyring = Keyring(settings.keys, [rsa])
    try:
        try:
            await rsa.start()
            await keyring.reload()
        except OSError as error:
            raise StartError(f"cannot start another process: {error}; has this user too many of them?") from None
        _tell_of_keys(keyring)
        return await _serve(settings, keyring, [rsa], audit)
    finally:
        await keyring.close()
        await rsa.close()


async def _serve(settings: Settings, keyring: Keyring, crews: Sequence[Crew], audit: AuditLog) -> int:
    stop = asyncio.Event()
    failures: list[str] = []

    def died(name: str, error: BaseException) -> None:
        failures.append(name)
        stop.set()

    loop = asyncio.get_running_loop()
    tasks = Tasks(died)
    service = Service(keyring.store, audit, rate=settings.rate, refresh=lambda: _refresh(keyring, loop))
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
    tasks.spawn(_follow_files(keyring, audit, hup), "key files")
    tasks.spawn(_summarise(service), "summary")
    notify("READY=1")
    await stop.wait()
    notify("STOPPING=1")
    log.info("draining; so far: %s", _counters(service))
    await server.drain(DRAIN_S)
    await tasks.close()
    audit.close()
    return 1 if failures else 0


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


async def _follow_files(keyring: Keyring, audit: AuditLog, hup: asyncio.Event) -> None:
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
