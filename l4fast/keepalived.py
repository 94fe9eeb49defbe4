"""keepalived, which we configure, start, reload and end: its files, its fifo, its process.

All is in a directory of our own. A configuration is tried (`--config-test`) before it takes the place of the one
before, so that a refused one leaves the VIPs as they are. A reload (SIGHUP) leaves the instances that have not changed
alone. keepalived tells of every change on a fifo, which is open before it starts: it would find nobody to write to
otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from l4fast import links, vrrp
from l4fast.keeper import LOG, Keeper
from l4fast.shares import Share
from l4fast.tried import ended, put_tried
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings
from l4fast.vip_states import VipState, VipStates

log = logging.getLogger(__name__)

CONFIGURATION: Final = "keepalived.conf"
FIFO: Final = "notify"
PID: Final = "keepalived.pid"
CHILD_PID: Final = "vrrp.pid"
STARTED_S: Final = 5.0  # by when keepalived has told of every address
RIVAL_S: Final = 10.0  # two masters: for so long after the last notice of the other one
RIVAL_APART_S: Final = 1.0  # between the first and the last notice: an election may bring one or two
_STAMP = re.compile(r"^\w{3} \w{3} [ \d]\d [\d:]{8} \d{4}: ")


class Keepalived:
    """The VIPs by VRRP. `interfaces`: those of the data plane, the first of which is the default for VRRP."""

    method: Final = "vrrp"

    def __init__(
        self, program: str, directory: Path, settings: VipSettings, node: str, interfaces: Sequence[str]
    ) -> None:
        self.states = VipStates()
        self._program = program
        self._directory = directory
        self._ids = settings.ids
        self._node = node
        self._interface = settings.interface or interfaces[0]
        self._interfaces = tuple(interfaces)
        fresh = [directory / PID, directory / CHILD_PID]
        self._keeper = Keeper(directory, settings.grace_s, self._argv(), fresh=fresh, fifo=directory / FIFO)
        self._notices = vrrp.Notices()
        self._rivals: dict[str, tuple[float, float]] = {}  # heard first and last
        self._unread = False  # the file has what keepalived may not have read yet
        self._gone_at = 0.0  # 0: it is there
        self._fifo = _open_fifo(directory / FIFO)

    def adopt(self) -> bool:
        """Goes on with the keepalived that an earlier agent has left. Blocks.

        What it has told nobody is not known; an address that is on its interface is one of a master."""
        if not self._keeper.adopt():
            return False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fifo, 1 << 16):
                pass
        found = dict(vrrp.configured((self._directory / CONFIGURATION).read_text()))
        here, now = links.addresses(), time.time()
        self.states.keep(found, now)
        for address in found:
            self.states.note(address, VipState.MASTER if address in here else VipState.BACKUP, now)
        return True

    async def put(self, shares: Sequence[Share], pools: frozenset[str]) -> None:
        """Announces these and no others; `pools` need nothing special. Raises VipError and leaves all as it was."""
        if not shares:
            await self.end()
            return
        self._unread |= await self._write(shares)
        if self.runs() and not self._unread:
            return
        if self.runs():
            await self._until_started()
            self.states.keep([share.address for share in shares], time.time())
            self._signal(signal.SIGHUP)
        else:
            self.states.keep([share.address for share in shares], time.time())
            self._keeper.start()
        self._unread = False

    async def _write(self, shares: Sequence[Share]) -> bool:
        """Whether the configuration has become another one."""
        path = self._directory / CONFIGURATION
        try:
            text = vrrp.configuration(
                shares, node=self._node, interface=self._interface, interfaces=self._interfaces, ids=self._ids,
                fifo=str(self._directory / FIFO),
            )  # fmt: skip
        except vrrp.TooManyAddresses as error:
            raise VipError(f"{error}; widen --vrrp-ids, or use --vip bgp") from None
        return await put_tried(path, text, self._refusal)

    async def _refusal(self, path: Path) -> str:
        code, said = await ended(self._program, "--config-test", "--use-file", str(path))
        why = "; ".join(_STAMP.sub("", line) for line in said[-3:])
        return f"keepalived refuses its configuration {path}: {why or code}" if code else ""

    async def _until_started(self) -> None:
        """SIGHUP would end a keepalived that does not expect it yet."""
        deadline = time.monotonic() + STARTED_S
        while self._silent() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            await self.poll()

    def _silent(self) -> bool:
        states = {self.states.of(address) for address in self.states.addresses()}
        return states == {VipState.STARTING}

    def _argv(self) -> list[str]:
        path = self._directory
        files = ["--use-file", path / CONFIGURATION, "--pid", path / PID, "--vrrp_pid", path / CHILD_PID]
        return [self._program, "--dont-fork", "--log-console", "--no-syslog", "--vrrp", *map(str, files)]

    def _signal(self, number: signal.Signals) -> None:
        """Raises VipError."""
        try:
            os.kill(int((self._directory / PID).read_text()), number)
        except (OSError, ValueError) as error:
            raise VipError(f"keepalived does not run ({error!r}); {self._directory / LOG} says why") from None

    async def poll(self) -> None:
        """Reads what keepalived has told."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fifo, 1 << 16):
                self._heard(data)
        self._look_after_process()

    def _look_after_process(self) -> None:
        """A keepalived that has gone without a word, and does not come back, has nothing any more."""
        now = time.time()
        if not self.runs() or _alive(self._directory / CHILD_PID):
            self._gone_at = 0.0
        elif not self._gone_at:
            self._gone_at = now
        elif now - self._gone_at > STARTED_S:
            for address in self.states.addresses():
                self.states.note(address, VipState.FAULT, now)

    def _heard(self, data: bytes) -> None:
        for notice in self._notices.receive_data(data):
            now = time.time()
            if notice.rival:
                first, last = self._rivals.get(notice.address, (now, now))
                self._rivals[notice.address] = (first if now - last < RIVAL_S else now), now
            elif notice.state is not None and self.states.note(notice.address, notice.state, now):
                log.warning("VIP %s: %s", notice.address, notice.state)

    def runs(self) -> bool:
        return self._keeper.runs()

    def renew(self) -> None:
        self._keeper.renew()

    async def withdraw(self) -> None:
        """keepalived resigns, takes the addresses off, and ends."""
        await self.end()

    async def end(self) -> None:
        await self._keeper.end()
        await self.poll()
        for address in self.states.addresses():
            self.states.note(address, VipState.WITHDRAWN, time.time())

    def close(self) -> None:
        os.close(self._fifo)

    def peers(self) -> list[dict[str, object]]:
        """VRRP knows no peers, only whether there is a better one."""
        return []

    def problems(self) -> list[str]:
        now = time.time()
        if self._gone_at and now - self._gone_at > STARTED_S:
            return [f"keepalived does not run, and no VIP is held; {self._directory / LOG} says why"]
        found = []
        for address in self.states.addresses():
            state = self.states.of(address)
            first, last = self._rivals.get(address, (0.0, 0.0))
            if last - first >= RIVAL_APART_S and now - last < RIVAL_S:
                found.append(_rival(address))
            if state is VipState.FAULT:
                found.append(f"the VIP {address} was given up: an interface is down or has no address of its version")
            if state is VipState.STARTING and now - self.states.since(address) > STARTED_S:
                found.append(f"keepalived says nothing of the VIP {address}; {self._directory / LOG} has its log")
        return found


def _alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _rival(address: str) -> str:
    return (
        f"two machines have the VIP {address}: this one hears another, which does not hear this one; let IP protocol "
        "112 pass between the nodes, and see that nobody else uses its virtual router id (--vrrp-ids)"
    )


def _open_fifo(path: Path) -> int:
    if not path.is_fifo():
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def take_off_leftovers(directory: Path) -> list[str]:
    """Removes the addresses that a killed keepalived of this directory has left on interfaces; returns them. Blocks.

    It has to be done before XDP is attached: its tables are empty at first, and the kernel would answer with RST."""
    try:
        text = (directory / CONFIGURATION).read_text()
    except OSError:
        return []
    return [address for address, device in vrrp.configured(text) if links.remove_address(device, address)]
