"""A machine of a page's own, on which its commands are run as they stand.

It is the machine of the tests with namespaces of its own for mounts, processes and networks: `/etc`, `/opt`, `/root`,
`/usr/local`, `/usr/src` and `/var` are those of the machine below, and what is written there is gone afterwards; `/run`
and the home directory, in which the shell begins, are empty at first. So commands may name `/var/lib/paifang`, 10.0.0.5
and port 443, whatever runs outside. One shell runs all commands of a page, so that variables, aliases and the directory
last from one block to the next. Who leaves the machine ends all of its processes.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.docs.blocks import Step
from tests.docs.shown import agree

DEADLINE_S: Final = 40.0
BIN: Final = Path(sys.executable).parent

_START: Final = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir /run/layers
for directory in /etc /opt /root /usr/local /usr/src /var; do
    layer=/run/layers/${directory//\//_}
    mkdir $layer $layer.work
    mount -t overlay overlay -o lowerdir=$directory,upperdir=$layer,workdir=$layer.work $directory
done
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
mkdir /run/home
cd /run/home
chmod o+x /root
set +e
shopt -s expand_aliases
"""


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True, slots=True)
class Left:
    """A program that runs: where it writes, and the machine's file with the process that waits for it."""

    output: Path
    pid: str

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")


class Machine:
    """The shell of a machine; `directory` is outside and holds what commands print."""

    def __init__(self, shell: subprocess.Popen[str], directory: Path) -> None:
        self._shell, self._directory, self._number = shell, directory, 0
        self.running: Left | None = None

    def run(self, command: str, code: int = 0) -> Done:
        """What a command printed; it has to end with this code, and before the deadline."""
        self._number += 1
        files = [self._directory / f"{self._number}.{kind}" for kind in ("sh", "out", "err", "code")]
        script, out, err, ended = files
        script.write_text(command + "\n")
        self._tell(f". {script} >{out} 2>{err} </dev/null; echo $? >{ended}.new; mv {ended}.new {ended}")
        self._wait(ended.exists, command)
        done = Done(int(ended.read_text()), out.read_text(errors="replace"), err.read_text(errors="replace"))
        assert done.code == code, f"{command}\nended with {done.code}, not {code}:\n{done.text}"
        return done

    def follow(self, step: Step, code: int = 0, loose: Sequence[str] = ()) -> Done:
        """Runs a command of a page, which has to print what the page shows, if it shows anything.

        Of the words of `loose` it may print others.
        """
        done = self.run(step.command, code)
        if step.shown:
            assert agree(step.shown, done.text, loose), (
                f"{step.command}\nprinted:\n{done.text}\nthe page shows:\n{step.shown}"
            )
        return done

    def leave_running(self, command: str, until: str) -> Left:
        """Starts a command that does not end, and waits until its output matches."""
        self._number += 1
        output, script = self._directory / f"{self._number}.out", self._directory / f"{self._number}.sh"
        script.write_text(command + "\n")
        output.touch()
        pid = f"/run/{self._number}.pid"
        self._tell(f"{{ . {script}; echo ended with $?; }} >{output} 2>&1 </dev/null & echo $! >{pid}")

        def there() -> bool:
            text = output.read_text(errors="replace")
            assert "ended with " not in text or re.search(until, text), f"{command}\n{text}"
            return re.search(until, text) is not None

        self._wait(there, f"{command}\nuntil it says {until}", output)
        return Left(output, pid)

    def stop(self, left: Left | None, signal: str = "TERM") -> None:
        """Ends what was left running, and waits for its end."""
        assert left is not None
        self.run(
            f"pkill -{signal} -P $(cat {left.pid}); while kill -0 $(cat {left.pid}) 2>/dev/null; do sleep 0.02; done"
        )

    def eventually(self, command: str, pattern: str) -> str:
        """Runs a command again and again, until what it prints matches."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            self.run(f"{{ {command}\n}} >/run/eventually 2>&1; true")
            text = self.run("cat /run/eventually").out
            if re.search(pattern, text):
                return text
            assert time.monotonic() < deadline, f"{command}\nnever printed {pattern}:\n{text}"
            time.sleep(0.1)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """A file of the machine."""
        outside = self._directory / "file"
        outside.write_text(text)
        path = shlex.quote(path)
        self.run(f"mkdir -p $(dirname {path}) && cp {outside} {path} && chmod {mode} {path}")

    def _tell(self, line: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(line + "\n")
        self._shell.stdin.flush()

    def _wait(self, condition: object, what: str, output: Path | None = None) -> None:
        assert callable(condition)
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            said = output.read_text(errors="replace") if output else ""
            assert self._shell.poll() is None, f"the shell ended under {what}\n{said}"
            assert time.monotonic() < deadline, f"never came to its end: {what}\n{said}"
            time.sleep(0.01)


@contextmanager
def machine(directory: Path) -> Iterator[Machine]:
    """A fresh machine, root's, with `paifang` on its PATH."""
    argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "/bin/bash", "--norc"]
    environment = {"PATH": f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/run/home"}
    errors = directory / "shell.err"
    with errors.open("wb") as err, subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=err, stderr=err, text=True, env=environment | {"LANG": "C.UTF-8"}
    ) as shell:  # fmt: skip
        try:
            yours = Machine(shell, directory)
            yours.run(_START + "true")
            yield yours
        finally:
            shell.kill()
