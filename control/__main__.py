"""`python -m control`: the control plane."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from certs.authority import AuthorityError
from control.access import Limits
from control.api import openapi
from control.cloud import options as cloud
from control.durations import duration
from control.listening import Files
from control.metering_keep import Retention
from control.node import collector, harden, logs
from control.node.addresses import address
from control.node.identity import IdentityError
from control.node.output import drop_output
from control.server import ServeError, Settings, reset_admin_token, serve
from control.signing import LIFETIME
from control.store import StoreError
from control.store_choice import add_options, read_options
from core.errors import ConfigErrors

RATE_LIMIT = 100_000

EXAMPLES = """examples:
  paifang control --state /var/lib/paifang/control
  paifang control --state ./control --nodes 10.0.0.5:8471 --identity ./control-id --ca ./ca
  paifang control --state ./control --api 10.0.0.5:8470 --identity ./control-id
  paifang control --state ./control --reset-admin-token
  paifang control --state ./control --store etcd --etcd https://10.0.0.7:2379 --etcd https://10.0.0.8:2379 \\
      --etcd-ca ca.pem --etcd-cert client.pem --etcd-key client-key.pem
"""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="paifang control",
        description="The control plane: configuration with versions, REST API, links to the nodes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--state", type=Path, required=True, metavar="DIR", help="database and token; made if missing")
    result.add_argument(
        "--api", type=address, default=("127.0.0.1", 8470), metavar="HOST:PORT",
        help="users' REST API (127.0.0.1:8470); any other address has TLS",
    )  # fmt: skip
    result.add_argument(
        "--api-tls-cert", type=Path, metavar="FILE", help="its certificate and chain, PEM (--identity's)"
    )
    result.add_argument(
        "--api-tls-key", type=Path, metavar="FILE", help="its key; both are read again when they change"
    )
    result.add_argument(
        "--api-host", action="append", default=[], metavar="NAME",
        help="a further name that requests without TLS may come under, of a reverse proxy; may be repeated",
    )  # fmt: skip
    result.add_argument(
        "--api-rate", type=_rate, default=Limits.requests_per_s, metavar="N",
        help="requests a second of one token, and four times as many of one address (%(default)g)",
    )  # fmt: skip
    result.add_argument("--nodes", type=address, metavar="HOST:PORT", help="nodes' API, mutual TLS; needs --identity")
    result.add_argument("--identity", type=Path, metavar="DIR", help="ca.pem, cert.pem, key.pem of role control")
    result.add_argument(
        "--ca", type=Path, metavar="CADIR",
        help="the cluster's CA, as `paifang certs init` makes it: nodes can join and renew their identities",
    )  # fmt: skip
    result.add_argument(
        "--identity-lifetime", type=duration, default=LIFETIME, metavar="TIME", help="of nodes that join or renew (30d)"
    )
    result.add_argument(
        "--token-file", type=Path, metavar="FILE",
        help="where the administrator's token goes, and is kept good (DIR/token, on the first start); - is stdout",
    )  # fmt: skip
    result.add_argument(
        "--reset-admin-token", action="store_true", help="make another administrator's token, and end (docs/access.md)"
    )
    cloud.add_options(result)
    result.add_argument("--audit-stderr", action="store_true", help="write the audit log to stderr too, as JSON lines")
    result.add_argument(
        "--metering-days", type=_retention, default=Retention(), metavar="HOURS,DAYS",
        help="keep what listeners used by the hour, and by the day, for so many days (92,400)",
    )  # fmt: skip
    add_options(result)
    result.add_argument("--log-level", default="INFO", choices=logs.LEVELS)
    result.add_argument("--openapi", action=_OpenApi, nargs=0, help="print the REST API's OpenAPI document, and end")
    return result


class _OpenApi(argparse.Action):
    """Prints the document, with no need of what serving needs."""

    def __call__(self, *_: object) -> None:
        try:
            print(json.dumps(openapi(), indent=2, ensure_ascii=False), flush=True)
        except BrokenPipeError:  # `paifang control --openapi | head`
            drop_output()
        sys.exit(0)


def _rate(text: str) -> float:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= RATE_LIMIT):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 to {RATE_LIMIT}")
    return float(text)


def _retention(text: str) -> Retention:
    try:
        return Retention.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main() -> int:
    """Serve; 0 after SIGTERM, 2 for what the user has to change, 1 for what failed."""
    arguments = parser()
    options = arguments.parse_args()
    if options.nodes is not None and options.identity is None:
        arguments.error("--nodes needs --identity DIR (`paifang certs issue CADIR --role control …` makes one)")
    etcd = read_options(arguments, options)
    logs.setup("control", options.log_level)
    harden.forbid_dumps()
    collector.relax()
    if (options.api_tls_cert is None) is not (options.api_tls_key is None):
        arguments.error("--api-tls-cert and --api-tls-key go together")
    tls = None if options.api_tls_cert is None else Files(options.api_tls_cert, options.api_tls_key)
    clouds = cloud.read_options(arguments, options)
    if options.ca is not None and options.nodes is None:
        arguments.error("--ca needs --nodes: nodes join there")
    settings = Settings(
        options.state, options.api, options.nodes, options.identity, options.token_file, tls, tuple(options.api_host),
        options.api_rate, options.audit_stderr, etcd, options.ca, options.identity_lifetime, options.metering_days,
        clouds, options.access_key_file, options.new_access_keys,
    )  # fmt: skip
    try:
        asyncio.run(reset_admin_token(settings) if options.reset_admin_token else serve(settings))
    except (ServeError, IdentityError, AuthorityError) as error:
        print(f"paifang-control: {error}", file=sys.stderr)
        return 2
    except ConfigErrors as error:
        kept = f"{options.state}/control.db" if etcd is None else f"etcd below {etcd.prefix}"
        print(f"paifang-control: what {kept} holds is not valid here:\n{error}", file=sys.stderr)
        print("paifang-control: start the release that wrote it, or give an empty --state", file=sys.stderr)
        return 1
    except (StoreError, OSError) as error:
        print(f"paifang-control: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
