"""The keys in force: from files, by way of the reader, to this process and its crews.

A look at the files (`stat`) tells whether anything has changed; if so the reader (reader.py) reads it, hands RSA keys
to the workers and the others to us. All or nothing: if a single file cannot be used, nothing changes and the error
names each such file. A worker that was started later is given what is in force, as far as its files can be read. Keys
of a token (token_crew.py) are listed when all is read anew on demand.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from control.node.tasks import Tasks
from keyserver.crew import Crew
from keyserver.errors import BadFile, KeyFilesError
from keyserver.keyfile import files_below
from keyserver.passphrases import NONE, Passphrases
from keyserver.policy import KeyType
from keyserver.reader import Mark, Order, ReadFile, Reading, key_from, mark_of, reading_from_json, to_json
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
            known = self._files if opened_by == self._passphrases_seen else {}
            reading = await self._read(self._order(known=known))
            if reading.bad:
                raise KeyFilesError([BadFile(*bad) for bad in reading.bad])
            held = self._held(reading) | self._in_token(listing)
            self._files, self._passphrases_seen, self._listing = reading.files, opened_by, listing
            changes = self.store.replace(held, _names(reading.files, listing))
            self.stale = False
            self.changed()
            self._take_note(reading.deaf)
            return changes

    async def close(self) -> None:
        await self._tasks.close()
        if self._token is not None:
            await self._token.close()

    def _order(self, *, known: Mapping[str, ReadFile], wanted: Sequence[str] | None = None) -> Order:
        """For all workers, or, with `wanted`, for those that have nothing yet."""
        passphrases = self._sources.passphrases
        hands = [(crew, hand) for crew in set(self._crews.values()) for hand in crew.hands]
        return Order(
            paths=list(map(str, self._sources.paths)),
            passphrase_files=list(map(str, passphrases.files)),
            credentials=list(map(str, passphrases.credentials)),
            passphrases=[b64encode(each).decode() for each in passphrases.fixed],
            encrypted_only=self._sources.encrypted_only,
            known=known,
            workers={
                hand.keys.fileno(): sorted(crew.kinds)
                for crew, hand in hands
                if hand.keys.fileno() >= 0 and not (wanted is not None and hand.equipped)
            },
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

    def _take_note(self, deaf: Sequence[int]) -> None:
        for crew in set(self._crews.values()):
            for hand in list(crew.hands):
                if hand.keys.fileno() in deaf:
                    log.error("worker %s %d does not take its keys", crew.name, hand.pid)
                    hand.kill()
                elif hand.keys.fileno() >= 0:
                    hand.equipped = True

    def _equip_soon(self) -> None:
        self._tasks.spawn(self._equip(), "keys for a new worker")

    async def _equip(self) -> None:
        """Give workers that have just started what is in force."""
        async with self._lock:
            wanted = [held.key_id.hex() for held in self.store if held.key_id not in self._listing]
            order = self._order(known={}, wanted=wanted)
            if not order.workers:
                return
            try:
                reading = await self._read(order)
            except KeyFilesError as error:
                log.error("a new worker gets no keys: %s", error)
                reading = Reading({}, {}, deaf=list(order.workers))
            for bad in reading.bad:
                log.error("a new worker cannot have the keys of %s", BadFile(*bad))
            self._take_note(reading.deaf)

    def _look(self) -> Fingerprint:
        """What `stat` says of every file and directory; any change of content, permission or set shows here."""
        sources = self._sources
        files = (file for file, _ in files_below(sources.paths))
        seen = ((str(path), mark_of(path)) for path in (*sources.paths, *sources.passphrases.paths, *files))
        return tuple((path, mark) for path, mark in seen if mark is not None)


def _names(files: Mapping[str, ReadFile], listing: Listing) -> dict[bytes, set[str]]:
    names: dict[bytes, set[str]] = {}
    for path, file in files.items():
        for key_id in file.keys:
            names.setdefault(bytes.fromhex(key_id), set()).add(Path(path).stem)
    for token_key_id, (_, label) in listing.items():
        names.setdefault(token_key_id, set()).add(label)
    return names
