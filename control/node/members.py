"""The members of availability groups that come and go, from wherever a node learns of them: DNS, files, the control
plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

from control.node.dns import Names
from control.node.member_files import MemberFiles
from control.node.tasks import Tasks
from core import spread
from core.members import together, with_members
from core.model import AvailabilityGroup, Model, Server


def members_document(groups: Mapping[str, Sequence[Server]]) -> dict[str, list[dict[str, object]]]:
    """Members for a report: each with address, port, weight, zone and rack."""
    return {name: [asdict(server) for server in servers] for name, servers in groups.items()}


class Members:
    """`on_change` is called when members, or the problems with them, have changed."""

    def __init__(self, on_change: Callable[[], None], tasks: Tasks) -> None:
        self._names = Names(on_change, tasks)
        self._files = MemberFiles(on_change, tasks)
        self._on_change = on_change
        self._registered: Mapping[str, tuple[Server, ...]] = {}

    def watch(self, *models: Model) -> None:
        """Follows what these configurations name from now on; what was known before is kept."""
        self._names.watch(*models)
        self._files.watch(*models)

    async def first_answers(self, timeout_s: float) -> None:
        """Returns when everything has been asked once, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._files.first_looks()
                await self._names.first_answers(timeout_s)
        except TimeoutError:
            return

    def groups(self, model: Model) -> dict[str, tuple[Server, ...]]:
        """All members of the groups whose members come and go; `model` is one of those that are watched."""
        return {
            name: together(group, self._found(group))
            for name, group in model.availability_groups.items()
            if spread.is_dynamic(group)
        }

    def _found(self, group: AvailabilityGroup) -> list[tuple[Server, ...]]:
        registered = self._registered.get(group.name, ()) if group.registered else ()
        return [*self._names.found(group), self._files.found(group), registered]

    def take_registered(self, members: Mapping[str, tuple[Server, ...]]) -> None:
        """Those that have registered with the control plane, by group. They stay while it is away."""
        if members != self._registered:
            self._registered = members
            self._on_change()

    def resolved(self, model: Model) -> Model:
        """The configuration with the members that are known now."""
        return with_members(model, self.groups(model))

    def problems(self, model: Model) -> list[str]:
        """What could not be learnt, and groups that are not spread as they ask for."""
        return [f"availability group {name}: {text}" for name, text in self._problems(model)]

    def _problems(self, model: Model) -> Iterable[tuple[str, str]]:
        yield from self._names.problems(model)
        for name, members in self.groups(model).items():
            group = model.availability_groups[name]
            if text := self._files.problem(group):
                yield name, text
            if members:
                yield from ((name, why) for why, _ in spread.faults(group, members))
