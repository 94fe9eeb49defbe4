"""The `paifang` program's first step.

Importing the rest takes a tenth of a second, in which a Ctrl-C should end the program like any other and not with
Python's traceback.
"""

from __future__ import annotations

import signal


def main() -> int:
    """Become `control.cli`; returns the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored by who started us
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from control.cli import main as command

    return command()
