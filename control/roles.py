"""What the users' API lets a token do: read < operate < admin, each with all that the one before it may. Pure."""

from __future__ import annotations

from enum import StrEnum


class ApiRole(StrEnum):
    """`read` sees; `operate` drains and weighs as well; `admin` changes configuration, tokens and nodes."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def may(self, needed: ApiRole) -> bool:
        """Whether who has this role may do what needs `needed`."""
        order = tuple(ApiRole)
        return order.index(self) >= order.index(needed)
