"""What keeps other processes out of the memory that holds the keys. Tried in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyserver import harden

ROOT = Path(harden.__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    return done.stdout.strip()


def test_no_core_dumps() -> None:
    code = """
import ctypes, resource
from keyserver import harden
harden.forbid_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""
    assert python(code) == "0 (0, 0)"


def test_memory_is_locked_where_that_is_allowed() -> None:
    code = """
from keyserver import harden
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
from keyserver import harden
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
