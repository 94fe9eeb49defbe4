"""The command line of `paifang keyserver`, as settings."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from control.node import logs
from keyserver import passphrases
from keyserver.keyring import Sources
from keyserver.passphrases import Passphrases
from keyserver.policy import Access
from keyserver.token_keys import Token

DEFAULT_RATE = 20_000  # signatures a second and client: more than a busy TLS node of eight cores asks for
MAX_WORKERS = 64
METRICS = "127.0.0.1:8476"
OFF = "off"

EXAMPLES = """examples:
  paifang keyserver --keys ./keys --socket /run/paifang/keys.sock --allow-uid 33 --socket-group www-data
  paifang keyserver --keys ./keys --listen 10.0.0.5:8473 --identity ./key-1
  paifang keyserver issue --help        make a development certificate
  paifang keyserver check --help        do a chain and a key fit?
  paifang keyserver encrypt --help      encrypt key files in place
  paifang keyserver ping ENDPOINT       does it answer?
SIGHUP reads the keys anew and reopens the audit log; SIGTERM drains and ends.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    keys: Sources
    rsa_workers: int
    token: Token | None
    pin: Passphrases
    token_workers: int
    socket: Path | None
    socket_group: str | None
    access: Access
    listen: tuple[str, int] | None
    identity: Path | None
    control: str | None
    audit_log: Path
    rate: float
    key_rate: float | None
    policy: Path | None
    ticket_secret: Path | None
    metrics: tuple[str, int] | None
    metrics_asked: bool
    ocsp: bool
    log_level: str


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
    parser.add_argument("--keys", type=Path, nargs="+", default=[], metavar="PATH", help="PEM files or directories")
    passphrases.add_arguments(parser)
    parser.add_argument("--encrypted-only", action="store_true", help="refuse key files that are not encrypted")
    parser.add_argument("--pkcs11-module", metavar="PATH", help="a PKCS #11 library; its keys are used besides --keys")
    parser.add_argument("--pkcs11-token", metavar="LABEL", help="which of its tokens")
    passphrases.add_arguments(parser, "pkcs11-pin", "the token's PIN")
    parser.add_argument(
        "--pkcs11-workers", type=int, default=1, metavar="N", help="processes, each with a session (%(default)s)"
    )
    parser.add_argument("--socket", type=Path, metavar="PATH", help="listen on a unix socket (mode 0660)")
    parser.add_argument("--socket-group", metavar="GROUP", help="the socket's group (default: the process's)")
    parser.add_argument(
        "--allow-uid", type=_uid, action="append", metavar="N", help="who may use the socket (default: the same user)"
    )
    parser.add_argument("--listen", metavar="ADDR:PORT", help="listen on TCP with mutual TLS, for nodes of role l7")
    parser.add_argument("--identity", type=Path, metavar="DIR", help="this server's identity, for --listen")
    parser.add_argument(
        "--control", metavar="URL", help="node API of the control plane: renews --identity, tells who is revoked"
    )
    parser.add_argument(
        "--allow-node", action="append", metavar="NAME", help="which nodes may use --listen (default: all of role l7)"
    )
    parser.add_argument(
        "--ticket-secret", type=Path, metavar="FILE", help="what session tickets come from; the same on all key servers"
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="which client may use which key (default: all)")
    parser.add_argument("--key-rate", type=float, metavar="N", help="signatures a second and key (default: no limit)")
    parser.add_argument("--audit-log", type=Path, default=Path("-"), metavar="PATH", help="default: standard output")
    parser.add_argument(
        "--rate", type=float, default=DEFAULT_RATE, metavar="N", help="signatures a second and client (%(default)s)"
    )
    parser.add_argument(
        "--metrics",
        metavar="ADDR:PORT",
        help=f"where Prometheus gets /metrics, without TLS or password, or {OFF} (default {METRICS}, if free)",
    )
    parser.add_argument(
        "--rsa-workers", type=int, default=1, metavar="N", help="processes that sign with RSA keys (%(default)s)"
    )
    parser.add_argument("--no-ocsp", dest="ocsp", action="store_false", help="ask no OCSP responders for nodes")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="INFO", help="(%(default)s)")
    if arguments and not arguments[0].startswith("-"):
        parser.error(f"{arguments[0]!r} is unknown; give options, or issue, check, encrypt, ping")
    options = parser.parse_args(arguments)
    if not options.keys and options.pkcs11_module is None:
        parser.error("no keys: give --keys PATH, --pkcs11-module PATH or both")
    pin = passphrases.from_options(options, "pkcs11-pin")
    if not (options.pkcs11_module is None) == (options.pkcs11_token is None) == (not pin):
        parser.error("--pkcs11-module, --pkcs11-token and one of --pkcs11-pin-… belong together")
    for flag, workers in (("--rsa-workers", options.rsa_workers), ("--pkcs11-workers", options.pkcs11_workers)):
        if not 1 <= workers <= MAX_WORKERS:
            parser.error(f"{flag}: give 1 to {MAX_WORKERS}")
    if options.socket is None and options.listen is None:
        parser.error("nothing to listen on: give --socket PATH, --listen ADDR:PORT or both")
    if (options.listen is None) != (options.identity is None):
        parser.error("--listen and --identity belong together: TCP is served with mutual TLS only")
    if options.socket is None and (options.allow_uid or options.socket_group):
        parser.error("--allow-uid and --socket-group are for --socket")
    if options.control is not None and (options.identity is None or not options.control.startswith("https://")):
        parser.error("--control: give https://HOST:8471, and --listen with --identity, which it is about")
    if options.listen is None and options.allow_node:
        parser.error("--allow-node is for --listen")
    for flag, rate in (("--rate", options.rate), ("--key-rate", options.key_rate)):
        if rate is not None and not rate >= 1:
            parser.error(f"{flag}: give 1 or more signatures a second")
    listen = _address(parser, "--listen", options.listen) if options.listen is not None else None
    metrics = METRICS if options.metrics is None else options.metrics
    return Settings(
        keys=Sources(tuple(options.keys), passphrases.from_options(options), options.encrypted_only),
        rsa_workers=options.rsa_workers,
        token=Token(options.pkcs11_module, options.pkcs11_token) if options.pkcs11_module is not None else None,
        pin=pin,
        token_workers=options.pkcs11_workers,
        socket=options.socket,
        socket_group=options.socket_group,
        access=Access(
            frozenset(options.allow_uid or [os.geteuid()]),
            frozenset(options.allow_node) if options.allow_node else None,
        ),
        listen=listen,
        identity=options.identity,
        control=options.control,
        audit_log=options.audit_log,
        rate=options.rate,
        key_rate=options.key_rate,
        policy=options.policy,
        ticket_secret=options.ticket_secret,
        metrics=None if metrics == OFF else _address(parser, "--metrics", metrics),
        metrics_asked=options.metrics is not None,
        ocsp=options.ocsp,
        log_level=options.log_level,
    )


def _address(parser: argparse.ArgumentParser, flag: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        parser.error(f"{flag} {text!r}: give ADDR:PORT, such as 10.0.0.5:8473")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _uid(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number; `id -u {text}` shows a user's")
    return int(text)
