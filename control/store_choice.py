"""Which storage a control node uses: the options of `paifang control`, and what they open."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from control.etcd import Tls
from control.store import Store
from control.store_etcd import EtcdStore
from control.store_sqlite import SqliteStore

PREFIX = "/paifang/"


@dataclass(frozen=True, slots=True)
class EtcdChoice:
    """An etcd for several control nodes."""

    endpoints: tuple[str, ...]
    prefix: str
    tls: Tls


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("storage (docs/stores.md)")
    group.add_argument(
        "--store", choices=("sqlite", "etcd"), default="sqlite", help="where versions and tokens are kept (%(default)s)"
    )
    group.add_argument(
        "--etcd", action="append", default=[], metavar="URL",
        help="an etcd member, https://HOST:2379; may be repeated: they are tried in turn",
    )  # fmt: skip
    group.add_argument("--etcd-prefix", default=PREFIX, metavar="PREFIX", help="of our keys in etcd (%(default)s)")
    group.add_argument("--etcd-ca", type=Path, metavar="FILE", help="the CA of its certificates, PEM (the system's)")
    group.add_argument("--etcd-cert", type=Path, metavar="FILE", help="our certificate as its client, PEM")
    group.add_argument("--etcd-key", type=Path, metavar="FILE", help="the certificate's key, PEM")


def read_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> EtcdChoice | None:
    """What was chosen, None for SQLite; ends with a message where the options do not go together."""
    if options.store == "sqlite":
        for name in ("etcd", "etcd_prefix", "etcd_ca", "etcd_cert", "etcd_key"):
            if getattr(options, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} needs --store etcd")
        return None
    if not options.etcd:
        parser.error("--store etcd needs --etcd https://HOST:2379")
    if (options.etcd_cert is None) is not (options.etcd_key is None):
        parser.error("--etcd-cert and --etcd-key go together")
    tls = Tls(options.etcd_ca, options.etcd_cert, options.etcd_key)
    return EtcdChoice(tuple(options.etcd), options.etcd_prefix, tls)


async def open_store(state: Path, etcd: EtcdChoice | None) -> Store:
    """The storage. Raises StoreError."""
    if etcd is None:
        return await SqliteStore.open(state / "control.db")
    return await EtcdStore.open(etcd.endpoints, etcd.prefix, etcd.tls)
