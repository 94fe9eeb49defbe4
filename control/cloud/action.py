"""An action of a cloud's API, and a call of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from control.cloud.draft import Draft, letters
from control.cloud.site import Site
from control.reconcile import NodeStatus
from control.roles import ApiRole
from core.model import Model

TIME = "%Y-%m-%dT%H:%M:%SZ"
Answer = Mapping[str, object]
G = TypeVar("G")
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Call(Generic[G]):
    """One call of an action. `now` is Unix time in seconds; `chance` is 128 random bits, the same in every attempt."""

    given: G
    site: Site
    now: float
    chance: bytes
    statuses: Sequence[NodeStatus] = ()

    def identity(self, kind: str, seed: str = "") -> str:
        """An ID for a new object, such as lb-…: by chance, and of `seed` too where one call makes several."""
        return f"{kind}-{letters(self.chance + f'{kind} {seed}'.encode())}"


@dataclass(frozen=True, slots=True)
class Action(Generic[C]):
    """It looks, or it changes; `partly` says what of it there is not, `cannot` why there is none of it: it is known
    and refused.
    """

    name: str
    look: Callable[[C, Model], Answer] | None = field(default=None, kw_only=True)
    change: Callable[[C, Draft], Answer] | None = field(default=None, kw_only=True)
    partly: str = field(default="", kw_only=True)
    cannot: str = field(default="", kw_only=True)

    @property
    def role(self) -> ApiRole:
        """What an access key needs."""
        return ApiRole.READ if self.change is None else ApiRole.ADMIN

    @property
    def refuses(self) -> Sequence[str]:
        """The fields of the API that it does not take."""
        raise NotImplementedError
