"""What an action is given and what it makes: a call, and a draft of the configuration. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from control.alibaba.parameters import Given, Parameter
from control.cloud.draft import Draft, identity_of, letters, page
from control.cloud.site import Site
from control.reconcile import NodeStatus
from control.roles import ApiRole
from core.model import Model

__all__ = ["Action", "Answer", "Call", "Change", "Draft", "Look", "Site", "identity_of", "page"]

Answer = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an action. `now` is Unix time in seconds; `chance` is 128 random bits, the same in every attempt."""

    given: Given
    site: Site
    now: float
    chance: bytes
    statuses: Sequence[NodeStatus] = ()

    def identity(self, kind: str, seed: str = "") -> str:
        """An ID for a new object, such as lb-…: by chance, and of `seed` too where one call makes several."""
        return f"{kind}-{letters(self.chance + seed.encode())}"


Look = Callable[[Call, Model], Answer]
Change = Callable[[Call, Draft], Answer]


@dataclass(frozen=True, slots=True)
class Action:
    """One action of the API. It looks, or it changes; `partly` says what of it there is not.

    `cannot` is why there is none of it: it is known and refused.
    """

    name: str
    parameters: tuple[Parameter, ...] = ()
    look: Look | None = None
    change: Change | None = None
    partly: str = ""
    cannot: str = ""

    @property
    def role(self) -> ApiRole:
        """What an access key needs."""
        return ApiRole.READ if self.change is None else ApiRole.ADMIN
