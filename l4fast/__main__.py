"""`python -m l4fast`: reads the command line, runs or asks the node, turns errors into one line and an exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from control.node import collector, harden, logs
from control.node.admin import AdminError, check_path
from control.node.identity import Identity, IdentityError
from control.node.link import LinkError
from control.node.metrics_server import MetricsError
from control.node.output import drop_output
from l4fast import ask
from l4fast.errors import L4Error, LoadError
from l4fast.settings import ADMIN_SOCKET, MakeClusterKey, Parser, Settings, SettingsError, load_secrets, make_key, parse

PROCESS = "paifang-l4"


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 after SIGTERM, 2 for what the command line or its files say, 1 for a failure at run time."""
    try:
        if argv[:1] == ["ask"]:
            return _ask(argv[1:])
        if argv[:1] == ["seed"] and len(argv) == 2:  # for `paifang explain --cluster-key`
            print(load_secrets(Path(argv[1])).seed or 0)
            return 0
        if argv == ["doctor"]:  # for `paifang doctor --role l4`
            return _doctor()
        if argv[:1] == ["decap"]:
            return _decap(argv[1:])
        command = parse(argv)
        if isinstance(command, MakeClusterKey):
            make_key(command.path)
            print(f"{command.path}: a new cluster key; every L4 node needs a copy, mode 0600")
            return 0
        logs.setup(PROCESS, command.log_level)
        harden.forbid_dumps()
        collector.relax()
        _run(command)
    except (SettingsError, IdentityError, LinkError) as error:
        print(f"{PROCESS}: {error}", file=sys.stderr)
        return 2
    except (L4Error, AdminError, MetricsError) as error:
        print(f"{PROCESS}: {error}", file=sys.stderr)
        return 1
    return 0


def _ask(argv: Sequence[str]) -> int:
    options = ask.parser(Parser).parse_args(argv)
    try:
        ask.run(options)
    except OSError as error:
        drop_output()
        if not isinstance(error, BrokenPipeError):  # `paifang l4 ask sessions --state DIR | head`
            print(f"{PROCESS}: cannot write the answer: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _decap(argv: Sequence[str]) -> int:
    from l4fast import decap  # BCC's loader and pyroute2 take a second

    settings = decap.parse(argv)
    logs.setup(PROCESS)
    _check_root()
    decap.run(settings)
    return 0


def _doctor() -> int:
    from l4fast import doctor

    print(json.dumps(doctor.look()))
    return 0


def _check_root() -> None:
    if os.geteuid() != 0:
        raise LoadError("XDP needs root; run it with sudo or as a system service")


def _run(settings: Settings) -> None:
    _check_root()
    identity = Identity.load(settings.identity)
    if (identity.role, identity.name) != ("l4", settings.name):
        raise IdentityError(
            f"{settings.identity}: the certificate is for {identity.role} {identity.name}, not l4 {settings.name}; "
            f"`paifang certs issue CADIR --role l4 --name {settings.name} --out {settings.identity}` makes it"
        )
    check_path(settings.state / ADMIN_SOCKET)  # before anything is attached
    from l4fast.node import Node  # after the checks above: it imports pyroute2 and BCC's loader, which take a second

    async def run() -> None:
        await Node(settings, identity).run()

    uvloop.run(run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
