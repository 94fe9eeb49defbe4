"""Keeping others out of this process's memory: no core dumps, no ptrace by the same user, no swapping out.

For every process that holds secrets: private keys, passphrases, the secrets of session tickets, tokens, cluster keys.

prctl(2) PR_SET_DUMPABLE 0 makes /proc/PID/mem and ptrace a matter for CAP_SYS_PTRACE. Root can still read everything:
that is what separate machines for key servers are for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # asm-generic/mman.h; on fault: thread stacks are not filled at once
_libc = ctypes.CDLL(None, use_errno=True)


def forbid_dumps() -> None:
    """No core file, and no look into our memory by processes of the same user. Raises OSError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def lock_memory() -> str:
    """Keep all memory out of swap. Returns why that was not done, or an empty string.

    Not tried under a finite RLIMIT_MEMLOCK without CAP_IPC_LOCK: later allocations would then fail at that limit.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and os.geteuid() != 0:
        return f"RLIMIT_MEMLOCK is {limit} bytes; LimitMEMLOCK=infinity or CAP_IPC_LOCK would allow it"
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return os.strerror(ctypes.get_errno() or errno.EPERM)
    return ""


def take_variable(name: str) -> bytes:
    """The value of a variable of the environment, which is taken out of it; empty where it is not set.

    /proc/PID/environ shows the memory in which exec(2) has put the variables, also those that unsetenv(3) has taken
    out: the value is overwritten there.
    """
    value = os.environb.get(name.encode(), b"")
    entries, prefix = ctypes.POINTER(ctypes.c_void_p).in_dll(_libc, "environ"), name.encode() + b"="
    index = 0
    while entries and (entry := entries[index]) is not None:
        if (text := ctypes.string_at(entry)).startswith(prefix):
            ctypes.memset(entry + len(prefix), 0, len(text) - len(prefix))
        index += 1
    os.environb.pop(name.encode(), None)
    return value
