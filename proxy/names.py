"""Host names as requests carry them."""

from __future__ import annotations


def host_name(host: bytes) -> str:
    """The name in a Host value: lower case, without port and trailing dot."""
    text = host.decode("ascii").lower()
    name = text.partition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]
    return name.removesuffix(".")
