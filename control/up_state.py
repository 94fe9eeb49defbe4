"""The state directory of `paifang up`: what lies where, who owns it, and what is made in it on first use.

lock           held by the running `paifang up`           up.json     where its API is (for `paifang get` …)
ca/            the cluster's CA; ca.pem is to be trusted  identities/ control and L7, made anew at each start
keys/          private keys of development certificates, and links to the configuration's key files
chains/        their public chains                        keys.sock   the key server
control/ l7/   states of these processes                  run/ log/   readiness sockets, logs
acme/          account and chains, a directory for each ACME CA
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from certs.authority import Authority, AuthorityError
from control.node.admin import AdminError, check_path

LONGEST_SOCKET = "run/keyserver2.notify"  # of a key server that replaces another
LINK_SUFFIX = ".given.key"


class StateError(Exception):
    """A state directory that cannot be used; the text has the remedy."""


class State:
    """An open state directory, locked until `close`. Raises StateError."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        try:
            check_path(self.root / LONGEST_SOCKET)
        except AdminError as error:
            raise StateError(f"--state {error}") from None
        try:
            self._check_owner()
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
            for name in ("identities", "keys", "chains", "acme", "control", "l7", "run", "log"):
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"--state {self.root}: {error.strerror}; give a directory of your own") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._lock, 20).decode().strip() or "?"
            os.close(self._lock)
            text = f"{self.root} is in use by another `paifang up` (pid {owner}); stop it, or give another --state"
            raise StateError(text) from None
        os.truncate(self._lock, 0)
        os.write(self._lock, f"{os.getpid()}\n".encode())

    def _check_owner(self) -> None:
        """Leave alone what is not ours: its mode would change, and its owner could not use it any more."""
        if not self.root.is_dir() or not any(self.root.iterdir()):
            return
        if not (self.root / "lock").exists():
            raise StateError(f"--state {self.root}: holds other files; give a new or an empty directory")
        if (owner := (self.root / "lock").stat().st_uid) != os.geteuid():
            raise StateError(f"--state {self.root}: belongs to uid {owner}; run it as that user, or give another one")

    def close(self) -> None:
        """Let go of the lock."""
        (self.root / "up.json").unlink(missing_ok=True)
        os.close(self._lock)

    def make_identities(self) -> None:
        """The CA if it is missing, and fresh identities of it."""
        try:
            authority = Authority.init(self.root / "ca")
            for role, name in (("control", "control"), ("l7", "local")):
                authority.issue_node(role, name, ["127.0.0.1"]).write(self.root / "identities" / role)
        except AuthorityError as error:
            raise StateError(str(error)) from None

    def link_keys(self, files: Iterable[Path]) -> None:
        """Make exactly these key files known to the key server, by links."""
        keys = self.root / "keys"
        wanted = {_link_name(file): file for file in map(Path.absolute, files)}
        present = {path.name for path in keys.iterdir() if path.name.endswith(LINK_SUFFIX)}
        for name in present - wanted.keys():
            (keys / name).unlink()
        for name in wanted.keys() - present:
            (keys / name).symlink_to(wanted[name])


def owner(root: Path) -> int:
    """The process id of the `paifang up` that has a state directory; 0: none has."""
    try:
        lock = os.open(root / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.read(lock, 20).decode().strip()
        return int(text) if text.isdecimal() else 0
    else:
        return 0
    finally:
        os.close(lock)


def _link_name(file: Path) -> str:
    """Of the path alone: two files stand side by side while one certificate changes from one to the other."""
    return hashlib.sha256(os.fsencode(file)).hexdigest()[:32] + LINK_SUFFIX
