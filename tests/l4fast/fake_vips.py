"""A list in place of keepalived and BIRD."""

from __future__ import annotations

from collections.abc import Sequence

from l4fast.shares import Share
from l4fast.vip_errors import VipError
from l4fast.vip_states import VipState, VipStates


class FakeProgram:
    """Does as it is told: `puts` has the addresses of each time, `calls` everything in order."""

    def __init__(self, method: str = "vrrp") -> None:
        self.method = method
        self.states = VipStates()
        self.calls: list[str] = []
        self.refuse = ""
        self.alive = False
        self.renewed = 0

    @property
    def puts(self) -> list[str]:
        return [call.removeprefix("put ") for call in self.calls if call.startswith("put")]

    async def put(self, shares: Sequence[Share], pools: frozenset[str]) -> None:
        self.calls.append("put " + " ".join(share.address for share in shares))
        if self.refuse:
            raise VipError(self.refuse)
        self.alive = True
        self.states.keep([share.address for share in shares], 0.0)
        for share in shares:
            self.states.note(share.address, VipState.MASTER, 0.0)

    async def poll(self) -> None:
        pass

    async def withdraw(self) -> None:
        self.calls.append("withdraw")

    async def end(self) -> None:
        self.calls.append("end")
        self.alive = False

    def close(self) -> None:
        self.calls.append("close")

    def adopt(self) -> bool:
        return self.alive

    def renew(self) -> None:
        self.renewed += 1

    def runs(self) -> bool:
        return self.alive

    def peers(self) -> list[dict[str, object]]:
        return []

    def problems(self) -> list[str]:
        return ["two masters"] if self.refuse == "rivals" else []
