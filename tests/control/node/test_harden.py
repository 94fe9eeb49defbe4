"""What keeps other processes out of the memory that holds the keys. Tried in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from control.node import harden

ROOT = Path(harden.__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    return done.stdout.strip()


def test_no_core_dumps() -> None:
    code = """
import ctypes, resource
from control.node import harden
harden.forbid_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""
    assert python(code) == "0 (0, 0)"


def test_memory_is_locked_where_that_is_allowed() -> None:
    code = """
from control.node import harden
why = harden.lock_memory()
bytearray(50_000_000)
locked = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmLck")]
print("locked" if int(locked[0]) > 0 else "not locked", bool(why))
"""
    assert python(code) in ("locked False", "not locked True")


@pytest.mark.root
def test_a_process_of_the_same_user_cannot_read_the_memory() -> None:
    """Two processes of one unprivileged user, before and after."""
    code = """
import os
from control.node import harden
os.setgroups([]); os.setgid(65534); os.setuid(65534)
import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # what exec by that user would have set
def readable(pid):
    child = os.fork()
    if child == 0:
        try:
            open(f"/proc/{pid}/mem", "rb").close()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
before = readable(os.getpid())
victim_ready, tell = os.pipe()
hold, release = os.pipe()
victim = os.fork()
if victim == 0:
    harden.forbid_dumps()
    os.write(tell, b"x")
    os.close(release)
    os.read(hold, 1)
    os._exit(0)
os.read(victim_ready, 1)
print(before, readable(victim))
os.close(release)
os.waitpid(victim, 0)
"""
    assert python(code) == "True False"


def test_a_variable_that_is_taken_is_nowhere_to_be_read() -> None:
    """Neither by children nor in /proc/PID/environ; the others stay."""
    code = """
import os, subprocess
from pathlib import Path
from control.node import harden
before = b"SECRET=opensesame" in Path("/proc/self/environ").read_bytes()
print(before, harden.take_variable("SECRET"), harden.take_variable("SECRET"), harden.take_variable("NONE"))
print("SECRET" in os.environ, b"opensesame" in Path("/proc/self/environ").read_bytes(), os.environ["OTHER"])
print(subprocess.run(["env"], capture_output=True).stdout.count(b"opensesame"))
os.environ["LATER"] = "sesame"
print(harden.take_variable("LATER"), "LATER" in os.environ)
"""
    environment = {**ENVIRONMENT, "SECRET": "opensesame", "OTHER": "stays", "SECRETARY": "no"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == [
        "True b'opensesame' b'' b''", "False False stays", "0", "b'sesame' False",
    ]  # fmt: skip
