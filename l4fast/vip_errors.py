"""What may go wrong with announcing VIPs."""

from __future__ import annotations

from l4fast.errors import L4Error


class VipError(L4Error):
    """The addresses cannot be announced, or not as wanted; one line with the remedy."""
