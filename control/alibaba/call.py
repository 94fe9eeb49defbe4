"""What an action is given and what it makes: a call, and a draft of the configuration. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from control.alibaba.parameters import Given, Parameter
from control.edit import Edit, Op
from control.reconcile import NodeStatus
from control.references import referrers
from control.roles import ApiRole
from core.config import to_table
from core.fields import Kind
from core.model import CLASSES, Model, Object

Answer = Mapping[str, object]
ID_LENGTH = 20
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_KINDS = {cls: kind for kind, cls in CLASSES.items()}


@dataclass(frozen=True, slots=True)
class Site:
    """What the control plane was started with: the region's name, and the VIPs that instances get."""

    region: str = "paifang"
    vips: tuple[IPv4Network | IPv6Network, ...] = ()
    endpoint: str = ""

    @property
    def zone(self) -> str:
        """The region's only zone."""
        return f"{self.region}-a"


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
        return f"{kind}-{_letters(self.chance + seed.encode())}"


def identity_of(kind: str, *parts: str) -> str:
    """An ID that is the same for the same parts."""
    return f"{kind}-{_letters(repr(parts).encode())}"


def _letters(data: bytes) -> str:
    number = int.from_bytes(hashlib.sha256(data).digest())
    letters = []
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        letters.append(_DIGITS[digit])
    return "".join(letters)


@dataclass(slots=True)
class Draft:
    """What an action changes: edits of `model`, which stays what it was before."""

    model: Model
    edits: list[Edit] = field(default_factory=list)

    def put(self, item: Object) -> None:
        """Create an object, or put it in the place of the one that has its name."""
        self.edits.append(Edit(Op.PUT, _KINDS[type(item)], item.name, to_table(item)))

    def delete(self, kind: Kind, name: str) -> None:
        """Remove an object, once."""
        if not self.is_gone(kind, name):
            self.edits.append(Edit(Op.DELETE, kind, name))

    def is_gone(self, kind: Kind, name: str) -> bool:
        """Whether this draft removes it."""
        return any((each.op, each.kind, each.name) == (Op.DELETE, kind, name) for each in self.edits)

    def is_left(self, kind: Kind, name: str) -> bool:
        """Whether nothing refers to it but what this draft removes or puts in another form."""
        touched = {(each.kind, each.name) for each in self.edits}
        return all(user in touched for user in referrers(self.model, kind, name))


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


def page(found: Sequence[object], number: int, size: int) -> list[object]:
    """One page of a list, of pages numbered from 1."""
    return list(found[(number - 1) * size : number * size])
