"""The keys in force: from files, by way of the reader, to this process and its crews.

A look at the files (`stat`) tells whether anything has changed; if so the reader (reader.py) reads it, hands RSA keys
to the workers and the others to us. All or nothing: if a single file cannot be used, nothing changes and the error
names each such file. A worker that was started later is given what is in force, as far as its files can be read. Keys
of a token (token_crew.py) are listed when all is read anew on demand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from control.node.tasks import Tasks
from keyserver.chains import Chains
from keyserver.crew import Crew, Hand
from keyserver.errors import BadFile, KeyFilesError
from keyserver.keyfile import files_below
from keyserver.passphrases import NONE, Passphrases
from keyserver.policy import KeyType
from keyserver.reader import Mark, Order, ReadFile, Reading, chains_of, key_from, mark_of, reading_from_json, to_json
from keyserver.store import Elsewhere, Held, KeyStore, Signer
from keyserver.token_crew import Listing, TokenCrew
from keyserver.token_keys import TokenError

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 600.0  # 20,000 encrypted keys

Read = Callable[[Order], Awaitable[Reading]]
Fingerprint = tuple[tuple[str, Mark], ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """Key files and directories of them, what opens those that are encrypted, and whether others are refused."""

    paths: tuple[Path, ...]
    passphrases: Passphrases = NONE
    encrypted_only: bool = False


async def read_elsewhere(order: Order) -> Reading:
    """The reader's answer, by a process of its own. Raises KeyFilesError where that fails."""
    descriptors = tuple(order.workers)
    argv = [sys.executable, "-P", "-m", "keyserver.reader"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, pass_fds=descriptors)
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            text, _ = await process.communicate(to_json(order))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise KeyFilesError([BadFile("key files", f"their reader ended with code {process.returncode}", "see above")])
    return reading_from_json(text)


class Keyring:
    """Keeps `store` what the files say. Belongs to the loop's thread."""

    def __init__(
        self,
        sources: Sources,
        crews: Sequence[Crew] = (),
        read: Read = read_elsewhere,
        token: TokenCrew | None = None,
    ) -> None:
        self.store = KeyStore()
        self.stale = False  # while something has changed that cannot be used
        self._sources = sources
        self._crews = {kind: crew for crew in crews for kind in crew.kinds}
        self._read = read
        self._token = token
        self._listing: Listing = {}
        self._files: Mapping[str, ReadFile] = {}
        self._fingerprint: Fingerprint | None = None
        self._passphrases_seen: tuple[Mark | None, ...] = ()
        self.changed: Callable[[], None] = lambda: None  # called when the set has been replaced
        self._lock = asyncio.Lock()
        self._tasks = Tasks()
        for crew in crews:
            crew.fresh = self._equip_soon

    @property
    def in_the_clear(self) -> tuple[str, ...]:
        """Files that hold a key that is not encrypted."""
        return tuple(path for path, file in self._files.items() if file.in_the_clear)

    async def reload(self, *, always: bool = True) -> tuple[int, int] | None:
        """Read what has changed: (keys added, keys removed). Without `always`, None where no file has.

        Raises KeyFilesError; then the old set stays, and only a further change makes `reload(always=False)` try again.
        """
        async with self._lock:
            fingerprint = await asyncio.to_thread(self._look)  # before reading: a change in between is seen next time
            if not always and fingerprint == self._fingerprint:
                return None
            self._fingerprint = fingerprint
            self.stale = True  # until all of it has been read
            listing = await self._list() if always else self._listing
            opened_by = tuple(map(mark_of, self._sources.passphrases.paths))
            known = _without_chains(self._files) if opened_by == self._passphrases_seen else {}
            with self._hands(lambda hand: hand.equipped or not known) as hands:  # a new one has nothing to keep
                reading = await self._read(self._order(hands, known=known))
                if reading.bad:
                    raise KeyFilesError([BadFile(*bad) for bad in reading.bad])
                _take_note(hands, reading.deaf)
            held = self._held(reading) | self._in_token(listing)
            read = reading.files
            unread = {path for path, file in read.items() if path in known and known[path].mark == file.mark}
            files = {path: self._files[path] if path in unread else file for path, file in read.items()}
            self._files, self._passphrases_seen, self._listing = files, opened_by, listing
            chains = Chains(chain for chain in chains_of(files.values()) if chain.key_id in held)
            changes = self.store.replace(held, _names(files, listing), chains)
            self.stale = False
            self.changed()
            return changes

    async def close(self) -> None:
        await self._tasks.close()
        if self._token is not None:
            await self._token.close()

    @contextlib.contextmanager
    def _hands(self, which: Callable[[Hand], bool]) -> Iterator[dict[int, Hand]]:
        """Some of the workers, by descriptors of their key sockets, which are ours until the end.

        A worker may end, and another may start, while the reader reads: descriptors of our own keep them apart.
        """
        hands = [hand for crew in set(self._crews.values()) for hand in crew.hands if which(hand)]
        mine = {os.dup(hand.keys.fileno()): hand for hand in hands if hand.keys.fileno() >= 0}
        try:
            yield mine
        finally:
            for descriptor in mine:
                os.close(descriptor)

    def _order(
        self, hands: Mapping[int, Hand], *, known: Mapping[str, ReadFile], wanted: Sequence[str] | None = None
    ) -> Order:
        passphrases = self._sources.passphrases
        return Order(
            paths=list(map(str, self._sources.paths)),
            passphrase_files=list(map(str, passphrases.files)),
            credentials=list(map(str, passphrases.credentials)),
            passphrases=[b64encode(each).decode() for each in passphrases.fixed],
            encrypted_only=self._sources.encrypted_only,
            known=known,
            workers={descriptor: sorted(hand.crew.kinds) for descriptor, hand in hands.items()},
            wanted=wanted,
        )

    def _held(self, reading: Reading) -> dict[bytes, Held]:
        held: dict[bytes, Held] = {}
        for file in reading.files.values():
            for text, kind in file.keys.items():
                key_id = bytes.fromhex(text)
                old = self.store.get(key_id)
                if (crew := self._crews.get(KeyType(kind))) is not None:
                    held[key_id] = old or Elsewhere(key_id, KeyType(kind), crew)
                elif text in reading.own:
                    held[key_id] = Signer(key_from(reading.own[text]))
                else:
                    assert old is not None, "the reader left out a key that we do not have"
                    held[key_id] = old
        return held

    async def _list(self) -> Listing:
        """What the token has. Raises KeyFilesError."""
        if self._token is None:
            return {}
        try:
            return await self._token.list()
        except TokenError as error:
            raise KeyFilesError([BadFile(f"token {self._token.label}", error.why, error.remedy)]) from None

    def _in_token(self, listing: Listing) -> dict[bytes, Held]:
        if self._token is None:
            return {}
        crew = self._token.crew
        return {key_id: Elsewhere(key_id, KeyType(kind), crew) for key_id, (kind, _) in listing.items()}

    def _equip_soon(self) -> None:
        self._tasks.spawn(self._equip(), "keys for a new worker")

    async def _equip(self) -> None:
        """Give workers that have just started what is in force."""
        async with self._lock:
            with self._hands(lambda hand: not hand.equipped) as hands:
                if not hands:
                    return
                wanted = [held.key_id.hex() for held in self.store if held.key_id not in self._listing]
                try:
                    reading = await self._read(self._order(hands, known={}, wanted=wanted))
                except KeyFilesError as error:
                    log.error("a new worker gets no keys: %s", error)
                    reading = Reading({}, {}, deaf=list(hands))
                for bad in reading.bad:
                    log.error("a new worker cannot have the keys of %s", BadFile(*bad))
                _take_note(hands, reading.deaf)

    def _look(self) -> Fingerprint:
        """What `stat` says of every file and directory; any change of content, permission or set shows here."""
        sources = self._sources
        files = (file for file, _ in files_below(sources.paths))
        seen = ((str(path), mark_of(path)) for path in (*sources.paths, *sources.passphrases.paths, *files))
        return tuple((path, mark) for path, mark in seen if mark is not None)


def _take_note(hands: Mapping[int, Hand], deaf: Collection[int]) -> None:
    for descriptor, hand in hands.items():
        if descriptor in deaf:
            log.error("worker %s %d does not take its keys", hand.crew.name, hand.pid)
            hand.kill()
        else:
            hand.equipped = True


def _without_chains(files: Mapping[str, ReadFile]) -> dict[str, ReadFile]:
    """What the reader has to know of what it has read before."""
    return {path: replace(file, chain=()) for path, file in files.items()}


def _names(files: Mapping[str, ReadFile], listing: Listing) -> dict[bytes, set[str]]:
    names: dict[bytes, set[str]] = {}
    for path, file in files.items():
        for key_id in file.keys:
            names.setdefault(bytes.fromhex(key_id), set()).add(Path(path).stem)
    for token_key_id, (_, label) in listing.items():
        names.setdefault(token_key_id, set()).add(label)
    return names
