"""HOST:PORT as command lines give it. Pure."""

from __future__ import annotations

import argparse
import ipaddress


def address(text: str) -> tuple[str, int]:
    """(host, port); the host of an IPv6 address stands in brackets. Raises ArgumentTypeError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether an address stays on this machine; names other than localhost do not count."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
