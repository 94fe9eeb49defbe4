"""Why a process cannot listen on an address, with what to do about it."""

from __future__ import annotations

import errno
import os

_REMEDIES = {
    errno.EADDRINUSE: "another process listens there; `ss -ltnp` shows which",
    errno.EADDRNOTAVAIL: "give an address of this machine; `ip address` lists them",
    errno.EACCES: "give the process CAP_NET_BIND_SERVICE, or choose a port of 1024 and above",
}


def cannot_bind(error: OSError) -> str:
    """The reason and the remedy. asyncio puts a text of its own in the place of the kernel's, hence the errno."""
    if error.errno is None:
        return str(error)  # a name that does not resolve
    reason = os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    remedy = _REMEDIES.get(error.errno)
    return f"{reason}; {remedy}" if remedy else reason
