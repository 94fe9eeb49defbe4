"""Where clients come in, and who they are: on the kernel's word on a unix socket, on our CA's word on TCP."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import ssl
import struct
from pathlib import Path
from typing import NamedTuple, cast

from control.node.identity import IdentityError, peer_of
from keyserver.errors import StartError
from keyserver.policy import Access

BACKLOG = 128
SOCKET_MODE = 0o660
_UCRED = struct.Struct("3i")  # unix(7): pid, uid, gid


class Peer(NamedTuple):
    """Who is at the other end: as the audit log names it, and its certificate's serial number if it has one."""

    client: str
    serial: int | None


def bind_unix(path: Path, group: str | None) -> tuple[socket.socket, int]:
    """A listening socket and its inode, put in place by a rename: never is there none, or one open to all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if os.path.lexists(path) and not path.is_socket():
            raise StartError(f"cannot listen on {path}: a file that is no socket is there; remove it")
        beside.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            listener.bind(str(beside))
        finally:
            os.umask(mask)
        if group is not None:
            os.chown(beside, -1, grp.getgrnam(group).gr_gid)
        beside.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
        inode = beside.stat().st_ino
        beside.rename(path)
    except (OSError, KeyError, StartError) as error:
        listener.close()
        beside.unlink(missing_ok=True)
        if isinstance(error, StartError):
            raise
        raise StartError(f"cannot listen on {path}: {_why_not(error, group)}") from None
    return listener, inode


def _why_not(error: OSError | KeyError, group: str | None) -> str:
    if isinstance(error, KeyError):
        return f"there is no group {group}; `getent group` lists them"
    if error.errno is None:  # Python's own check
        return f"{error}; use a shorter one"
    return f"{error.strerror}; is its directory there, and ours to write?"


def local_peer(access: Access, transport: asyncio.Transport) -> Peer:
    """Who is at the other end of a unix socket, on the kernel's word. Raises IdentityError."""
    sock = transport.get_extra_info("socket")
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if not access.admits_uid(uid):
        raise IdentityError(f"uid {uid} may not use this key server (--allow-uid {uid} would let it)")
    return Peer(f"uid:{uid}", None)


def tls_peer(access: Access, transport: asyncio.Transport) -> Peer:
    """Which node is at the other end, on our CA's word. Raises IdentityError."""
    tls = cast(ssl.SSLObject, transport.get_extra_info("ssl_object"))
    role, name = peer_of(tls)
    if not access.admits_node(role, name):
        wanted = " or ".join(sorted(access.roles))
        raise IdentityError(f"{name} is of role {role}; nodes of role {wanted} get in, and only those of --allow-node")
    return Peer(f"{role}:{name}", int(str((tls.getpeercert() or {})["serialNumber"]), 16))
