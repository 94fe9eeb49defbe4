"""Addresses of both IP versions as the maps hold them: in wire order."""

from __future__ import annotations

import ctypes as ct
import socket
from typing import Any


def address_bytes(address: str) -> bytes:
    """Four or sixteen bytes. The address was checked when the configuration was read."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def text_of(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)


def put_address(structure: Any, field: str, address: bytes) -> None:
    """Writes a field of type `struct address`."""
    at = getattr(type(structure), field)
    if at.size != len(address):
        raise ValueError(f"{field} has {at.size} bytes, not {len(address)}")
    ct.memmove(ct.addressof(structure) + at.offset, address, at.size)


def prefix_mask(prefix: int, version: int) -> bytes:
    """So many leading bits of an address."""
    size = 16 if version == 6 else 4
    return ((1 << prefix) - 1 << 8 * size - prefix).to_bytes(size)
