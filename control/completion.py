"""Completion of `paifang` in bash and zsh, by argcomplete: it runs the command itself to know what may come next.

Names of objects are those that the control plane knows; where it does not answer at once there are none.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from control.client import ApiError, connect

SHELLS = ("bash", "zsh")
WAIT_S = 1.0  # for names; who presses Tab waits
ASKED = "_ARGCOMPLETE" in os.environ  # a shell wants to know what may come next

Completer = Callable[..., list[str]]


def script(options: argparse.Namespace) -> int:
    """Print what a shell has to read."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["paifang"], shell=options.shell), end="")
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and end the process, if a shell asks."""
    if ASKED:
        from argcomplete import autocomplete

        autocomplete(parser, always_complete_options=False)


def names(kind: str | None = None) -> Completer:
    """The names of the objects of `kind`, or of the kind that is on the command line."""

    def completer(parsed_args: argparse.Namespace, **_: object) -> list[str]:
        try:
            api = connect(parsed_args.api, parsed_args.token, parsed_args.state, ca=parsed_args.ca, timeout_s=WAIT_S)
            found = api.request("GET", f"/v1/{kind or parsed_args.kind}").document
        except ApiError:
            return []
        return [str(each["name"]) for each in found] if isinstance(found, list) else []

    return completer


def of(action: argparse.Action, completer: Completer) -> None:
    """Have an argument completed by `completer`."""
    action.completer = completer  # type: ignore[attr-defined]
