"""BIRD, which we configure, start and end: its files, its socket, its process.

All is in a directory of our own. A configuration is tried (`bird -p`) before it takes the place of the one before, and
`configure` on the socket puts it into force; sessions whose part has not changed stay up. What is announced always
stands in the file, so that a BIRD that was killed and is started again announces the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from core.endpoints import version
from l4fast import bgp, links
from l4fast.keeper import LOG, Keeper
from l4fast.shares import Share
from l4fast.tried import ended, put_tried
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings
from l4fast.vip_states import VipState, VipStates

log = logging.getLogger(__name__)

CONFIGURATION: Final = "bird.conf"
SOCKET: Final = "bird.ctl"
PID: Final = "bird.pid"
ANSWER_S: Final = 2.0
STARTED_S: Final = 3.0  # by when BIRD answers
ERROR: Final = 8000  # reply codes from here on are errors
CONNECT_S: Final = 10.0  # a session that is not up after so long is a problem


class Bird:
    """The VIPs by BGP. `password` of the sessions, empty for none."""

    method: Final = "bgp"

    def __init__(self, program: str, directory: Path, settings: VipSettings, node: str, password: str) -> None:
        self.states = VipStates()
        self._program = program
        self._directory = directory
        self._settings = settings
        self._node = node
        self._password = password
        fresh = [directory / PID, directory / SOCKET]
        self._keeper = Keeper(directory, settings.grace_s, self._argv(), fresh=fresh)
        self._names = bgp.names(settings.neighbours)
        self._sessions: dict[str, tuple[str, float]] = {}  # name → BIRD's word, since when
        self._bfd: Mapping[str, str] = {}
        self._announced: tuple[str, ...] = ()
        self._answered_at = 0.0  # or started
        self._unread = False  # the file has what BIRD may not have read yet

    def adopt(self) -> bool:
        """Goes on with the BIRD that an earlier agent has left. Blocks."""
        if not self._keeper.adopt():
            return False
        self._answered_at = time.monotonic()
        self._announced = bgp.configured((self._directory / CONFIGURATION).read_text())
        self.states.keep(self._announced, time.time())
        return True

    async def put(self, shares: Sequence[Share], pools: frozenset[str]) -> None:
        """Announces these and no others. Raises VipError and leaves all as it was."""
        self._unread |= await self._write(shares, pools)
        if self.runs() and self._unread:
            await self._configure()
        elif shares and not self.runs():
            self._keeper.start()
            self._answered_at = time.monotonic()
        self._unread = False
        self._announced = tuple(share.address for share in shares)
        self.states.keep([*self.states.addresses(), *self._announced] if not shares else self._announced, time.time())
        self._derive()

    async def _write(self, shares: Sequence[Share], pools: frozenset[str]) -> bool:
        """Whether the configuration has become another one."""
        path = self._directory / CONFIGURATION
        settings = self._settings
        text = bgp.configuration(
            shares, pools, router_id=settings.router_id or await asyncio.to_thread(_router_id, self._node),
            local_as=settings.local_as, neighbours=settings.neighbours, password=self._password,
        )  # fmt: skip
        return await put_tried(path, text, self._refusal)

    async def _refusal(self, path: Path) -> str:
        code, said = await ended(self._program, "-p", "-c", str(path))
        return f"BIRD refuses its configuration {path}: {said[-1] if said else code}" if code else ""

    async def _configure(self) -> None:
        answer = await self._ask("configure")
        if answer.code >= ERROR:
            raise VipError(f"BIRD refuses its configuration: {' '.join(answer.lines)}")

    def _argv(self) -> list[str]:
        path = self._directory
        files = ["-c", path / CONFIGURATION, "-s", path / SOCKET, "-P", path / PID]
        return [self._program, "-f", *map(str, files)]

    async def _ask(self, command: str) -> bgp.Answers:
        """Raises VipError."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._converse(command)
        except (OSError, TimeoutError) as error:
            raise VipError(f"BIRD does not answer ({error!r}); {self._directory / LOG} has its log") from None

    async def _converse(self, command: str) -> bgp.Answers:
        reader, writer = await asyncio.open_unix_connection(str(self._directory / SOCKET))
        try:
            await _read(reader)  # its greeting
            writer.write(command.encode() + b"\n")
            return await _read(reader)
        finally:
            writer.close()

    async def poll(self) -> None:
        """Reads the sessions' states. Raises VipError if BIRD has not answered for a while; it may just have begun."""
        if not self.runs():
            return
        try:
            words = bgp.protocols((await self._ask("show protocols")).lines)
            self._bfd = bgp.bfd_sessions((await self._ask("show bfd sessions")).lines)
        except VipError:
            if time.monotonic() - self._answered_at > STARTED_S:
                self._sessions = {name: ("BIRD does not answer", time.time()) for name in self._names}
                self._derive()
                raise
            return
        self._answered_at = time.monotonic()
        now = time.time()
        for name, neighbour in self._names.items():
            word = words.get(name, "not configured")
            before = self._sessions.get(name)
            if before is None or before[0] != word:
                self._sessions[name] = word, now
                if before is None or bgp.ESTABLISHED in (before[0], word):
                    log.warning("BGP session with %s: %s", neighbour.address, word)
        self._derive()

    def _derive(self) -> None:
        heard = {
            version(self._names[name].address) for name, (word, _) in self._sessions.items() if word == bgp.ESTABLISHED
        }
        now = time.time()
        for address in self.states.addresses():
            state = VipState.ANNOUNCED if version(address) in heard else VipState.UNHEARD
            if address not in self._announced:
                state = VipState.WITHDRAWN
            if self.states.note(address, state, now):
                log.warning("VIP %s: %s", address, state)

    def runs(self) -> bool:
        return self._keeper.runs()

    def renew(self) -> None:
        self._keeper.renew()

    async def withdraw(self) -> None:
        """The routers are told; BIRD goes on until `end`. Raises VipError."""
        if self.runs():
            await self.put((), frozenset())

    async def end(self) -> None:
        await self._keeper.end()
        self._sessions.clear()
        self._announced = ()
        self._derive()

    def close(self) -> None:
        """There is nothing to close."""

    def peers(self) -> list[dict[str, object]]:
        rows = []
        for name, (word, since) in self._sessions.items():
            neighbour = self._names[name]
            rows.append({
                "address": neighbour.address, "as": neighbour.number, "state": word, "up": word == bgp.ESTABLISHED,
                "since": round(since, 3), "bfd": self._bfd.get(neighbour.address, ""),
            })  # fmt: skip
        return rows

    def problems(self) -> list[str]:
        now, found = time.time(), []
        for name, (word, since) in self._sessions.items():
            neighbour = self._names[name]
            if word != bgp.ESTABLISHED and now - since > CONNECT_S:
                found.append(f"no BGP session with {neighbour.address} (AS {neighbour.number}): {word}")
        unheard = {version(address) for address in self._announced} - {version(n.address) for n in self._names.values()}
        found += [f"no router hears of the IPv{ip} VIPs: give one by its IPv{ip} address with --bgp-neighbour"
                  for ip in sorted(unheard)]  # fmt: skip
        return found


async def _read(reader: asyncio.StreamReader) -> bgp.Answers:
    answers = bgp.Answers()
    while data := await reader.read(1 << 16):
        if answers.receive_data(data):
            return answers
    raise ConnectionResetError("closed")


def _router_id(node: str) -> str:
    """The node's first IPv4 address that others may know it by, else a number of its name's. Blocks."""
    known = (ipaddress.ip_address(address) for address in links.addresses())
    first = next((each for each in known if each.version == 4 and not each.is_loopback), None)
    return str(first or ipaddress.IPv4Address(hashlib.blake2b(node.encode(), digest_size=4).digest()))
