"""The administrator's token that the control plane makes by itself, and the way back in for who has lost it.

Nobody can ask for the first token, so it is made on the first start: when there is no token at all. It goes into
STATE/token (mode 0600) and, where stdout is a terminal, is shown there once; never into a log, unless it is asked for
by `--token-file -`, which prints it and keeps no copy. A file that is named by `--token-file FILE` is kept good: where
it is missing or what it holds is not good any more, it gets a new token in the place of the one before. Whoever may
write there, or start the control plane with another file, is the administrator of this machine.

`--reset-admin-token` makes another one at any time, beside a control plane that runs.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from control.audit import Audit, Told
from control.node.files import write_atomic
from control.roles import ApiRole
from control.store import Store
from control.tokens import Refused, Tokens

log = logging.getLogger(__name__)

NAME = "admin"
STDOUT = Path("-")
FRAME = "=" * 78


class TokenFileError(Exception):
    """The token's file cannot be read or written; the text has the remedy."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an administrator's token goes: into `file`, unless it is STDOUT. `named`: by who has started us."""

    file: Path
    named: bool
    out: TextIO

    @classmethod
    def of(cls, state: Path, token_file: Path | None, out: TextIO) -> Destination:
        return cls(state / "token" if token_file is None else token_file, token_file is not None, out)

    @property
    def place(self) -> str:
        """Whose token is replaced by one that goes here."""
        return "-" if self.file == STDOUT else f"{socket.gethostname()}:{self.file.absolute()}"

    def deliver(self, text: str) -> None:
        """Raises OSError."""
        if self.file != STDOUT:
            write_atomic(self.file, text.encode() + b"\n")
            log.info("the administrator's token is in %s", self.file)
            if not self.out.isatty():
                return
        where = "" if self.file == STDOUT else f"; it is in {self.file} too"
        told = f"The administrator's token. It is shown this once{where}:"
        print(f"{FRAME}\n{told}\n\n    {text}\n\n{FRAME}", file=self.out, flush=True)


async def ensure(store: Store, audit: Audit, destination: Destination) -> None:
    """Make the administrator's token where there is none yet. Raises TokenFileError, TokenError."""
    tokens = Tokens(store)
    if count := await tokens.adopt_old():
        log.info("%d token(s) of an earlier release go on as administrators' tokens", count)
    try:
        keep = destination.named and destination.file != STDOUT
        if keep and await _is_good(tokens, destination.file):
            return
        if keep or not await tokens.all():
            await _make(tokens, audit, destination, "START")
        elif not any(token.role is ApiRole.ADMIN and not token.ended(tokens.now()) for token in await tokens.all()):
            log.warning("no administrator's token is good any more: paifang control --state … --reset-admin-token")
    except OSError as error:
        raise _unusable(destination, error) from None


async def reset(store: Store, audit: Audit, destination: Destination) -> None:
    """Make another administrator's token, in the place of the one that went there. Raises as `ensure`."""
    tokens = Tokens(store)
    await tokens.adopt_old()
    try:
        await _make(tokens, audit, destination, "RESET")
    except OSError as error:
        raise _unusable(destination, error) from None


async def _make(tokens: Tokens, audit: Audit, destination: Destination, method: str) -> None:
    token, text = await tokens.make_own(NAME, destination.place)
    destination.deliver(text)
    objects = (f"tokens/{token.id}",)
    await audit.tell(Told("paifang control", "", "", "this machine", method, "/v1/tokens", 201, objects=objects))


async def _is_good(tokens: Tokens, file: Path) -> bool:
    """Whether the file has an administrator's token. Raises OSError; TokenFileError for another one."""
    present = _present(file)
    if not present:
        return False
    found = await tokens.find(present)
    if isinstance(found, Refused):
        return False
    if found.role is not ApiRole.ADMIN:
        raise TokenFileError(f"the token file {file} has {found.name!r}, of role {found.role.value}; give another file")
    return True


def _present(file: Path) -> str:
    """What stands in the file; empty without one."""
    return file.read_text(errors="replace").strip() if file.exists() else ""


def _unusable(destination: Destination, error: OSError) -> TokenFileError:
    remedy = "give a file of this user by --token-file"
    return TokenFileError(f"the token file {destination.file}: {error.strerror}; {remedy}")
