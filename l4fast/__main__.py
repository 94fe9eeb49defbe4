"""`python -m l4fast`: reads the command line, runs the node, turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import uvloop

from control.node import logs
from control.node.admin import AdminError
from control.node.identity import Identity, IdentityError
from control.node.link import LinkError
from l4fast.errors import L4Error, LoadError
from l4fast.settings import MakeClusterKey, Settings, SettingsError, make_key, parse

PROCESS = "paifang-l4"


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 after SIGTERM, 2 for what the command line or its files say, 1 for a failure at run time."""
    try:
        command = parse(argv)
        if isinstance(command, MakeClusterKey):
            make_key(command.path)
            return 0
        logs.setup(PROCESS, command.log_level)
        _run(command)
    except (SettingsError, IdentityError, LinkError) as error:
        print(f"{PROCESS}: {error}", file=sys.stderr)
        return 2
    except (L4Error, AdminError) as error:
        print(f"{PROCESS}: {error}", file=sys.stderr)
        return 1
    return 0


def _run(settings: Settings) -> None:
    if os.geteuid() != 0:
        raise LoadError("XDP needs root; run it with sudo or as a system service")
    identity = Identity.load(settings.identity)
    if (identity.role, identity.name) != ("l4", settings.name):
        raise IdentityError(
            f"{settings.identity}: the certificate is for {identity.role} {identity.name}, not l4 {settings.name}; "
            f"`paifang certs issue CADIR --role l4 --name {settings.name} --out {settings.identity}` makes it"
        )
    from l4fast.node import Node  # after the checks above: it imports pyroute2 and BCC's loader, which take a second

    async def run() -> None:
        await Node(settings, identity).run()

    uvloop.run(run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
