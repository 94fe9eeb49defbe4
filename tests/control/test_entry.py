"""The program's first step: quiet at Ctrl-C, also while the rest is being imported."""

import signal
import subprocess
import sys

PROGRAM = """
import signal, sys, importlib.abc

class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "control.cli":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
{prelude}
sys.argv = ["paifang", "--version"]
from control.entry import main
main()
"""


def run(prelude: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", PROGRAM.format(prelude=prelude)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def test_an_interrupt_during_imports_is_no_traceback() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_who_ignores_interrupts_goes_on() -> None:
    done = run("signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("paifang ")
