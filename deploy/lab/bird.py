"""The router's BIRD, as a process of the lab: it is ready when its socket answers, and ends in order.

python -m deploy.lab.bird --directory DIR     DIR/bird.conf is there already
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from control.node.notify import notify

READY_S: Final = 10.0
SOCKET: Final = "bird.ctl"


def argv(directory: Path) -> list[str]:
    program = shutil.which("bird", path="/usr/sbin:/sbin:/usr/bin") or "bird"
    files = ("-c", directory / "bird.conf", "-s", directory / SOCKET, "-P", directory / "bird.pid")
    return [program, "-f", *map(str, files)]


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
            return sock.recv(4) == b"0001"  # "BIRD … ready."
        except OSError:
            return False


def main(words: Sequence[str] | None = None) -> int:
    """BIRD's exit code; 1 if it does not get ready."""
    parser = argparse.ArgumentParser(prog="python -m deploy.lab.bird", description=__doc__.split("\n\n")[0])
    parser.add_argument("--directory", type=Path, required=True, metavar="DIR")
    directory = parser.parse_args(words).directory
    bird = subprocess.Popen(argv(directory), stdin=subprocess.DEVNULL)

    def end(_number: int, _frame: FrameType | None) -> None:
        bird.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    deadline = time.monotonic() + READY_S
    while bird.poll() is None and not answers(directory / SOCKET):
        if time.monotonic() > deadline:
            print("paifang-bird: BIRD does not answer on its socket", file=sys.stderr)
            bird.terminate()
            return 1
        time.sleep(0.02)
    notify("READY=1")
    return bird.wait()


if __name__ == "__main__":
    sys.exit(main())
