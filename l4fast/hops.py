"""How a packet is handed on to its next hop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop: its MAC address, and by which of the node's interfaces it is reached; empty: the first.

    `vlan`: the VLAN that it is in; 0: frames are untagged. `here`: none, but this node itself.
    """

    mac: bytes
    interface: str = ""
    vlan: int = 0
    here: bool = False

    @classmethod
    def of(cls, hop: Hop | bytes) -> Hop:
        """A MAC address alone is one on the first interface."""
        return hop if isinstance(hop, Hop) else cls(hop)


HERE = Hop(b"", here=True)
