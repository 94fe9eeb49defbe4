"""Telling whoever started us that we serve: the datagram of sd_notify(3), without libsystemd.

The same words serve systemd, `paifang up` and the lab: `READY=1` once the process truly serves, `STOPPING=1` when it
begins to drain.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send `state` to $NOTIFY_SOCKET; does nothing without it. A supervisor that has gone away is no error of ours."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode())
        except OSError as error:
            # A supervisor that is gone has no use for our end; one that waits for READY=1 in vain has.
            level = logging.DEBUG if state == "STOPPING=1" else logging.WARNING
            log.log(level, "cannot notify %r of %r: %s", address, state, error)
