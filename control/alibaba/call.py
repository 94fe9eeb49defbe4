"""What an action is given and what it makes: a call, and a draft of the configuration. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from control.alibaba.parameters import Given, Parameter
from control.cloud import action
from control.cloud.action import TIME, Answer
from control.cloud.draft import Draft, identity_of, page
from control.cloud.site import Site

__all__ = ["TIME", "Action", "Answer", "Call", "Draft", "Site", "identity_of", "page"]

Call = action.Call[Given]


@dataclass(frozen=True, slots=True)
class Action(action.Action[Call]):
    """One action of the API."""

    parameters: tuple[Parameter, ...] = ()

    @property
    def refuses(self) -> Sequence[str]:
        return [each.name for each in self.parameters if each.refused]
