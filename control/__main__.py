"""`python -m control`: the control plane."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from control.api import openapi
from control.node import harden, logs
from control.node.addresses import address
from control.node.identity import IdentityError
from control.node.output import drop_output
from control.server import ServeError, Settings, serve
from control.store import StoreError
from core.errors import ConfigErrors

EXAMPLES = """examples:
  paifang control --state /var/lib/paifang/control
  paifang control --state ./control --nodes 10.0.0.5:8471 --identity ./control-id
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
        help="users' REST API, loopback only (127.0.0.1:8470)",
    )  # fmt: skip
    result.add_argument("--nodes", type=address, metavar="HOST:PORT", help="nodes' API, mutual TLS; needs --identity")
    result.add_argument("--identity", type=Path, metavar="DIR", help="ca.pem, cert.pem, key.pem of role control")
    result.add_argument("--token-file", type=Path, metavar="FILE", help="the administrator's token (DIR/token)")
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


def main() -> int:
    """Serve; 0 after SIGTERM, 2 for what the user has to change, 1 for what failed."""
    arguments = parser()
    options = arguments.parse_args()
    if options.nodes is not None and options.identity is None:
        arguments.error("--nodes needs --identity DIR (`paifang certs issue CADIR --role control …` makes one)")
    logs.setup("control", options.log_level)
    harden.forbid_dumps()
    settings = Settings(options.state, options.api, options.nodes, options.identity, options.token_file)
    try:
        asyncio.run(serve(settings))
    except (ServeError, IdentityError) as error:
        print(f"paifang-control: {error}", file=sys.stderr)
        return 2
    except ConfigErrors as error:
        print(f"paifang-control: what {options.state}/control.db holds is not valid here:\n{error}", file=sys.stderr)
        print("paifang-control: start the release that wrote it, or give an empty --state", file=sys.stderr)
        return 1
    except (StoreError, OSError) as error:
        print(f"paifang-control: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
