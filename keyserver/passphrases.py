"""Where passphrases of key files and PINs of tokens come from: a file, the environment, or a credential of systemd.

Several may be given, and each is tried in turn: so a passphrase is changed without a moment at which some key cannot be
opened (give old and new, encrypt the files anew, give the new one alone). They are read anew at every reload, except
one of the environment, which is taken out of it at once so that no child process inherits it.

A credential (systemd.exec(5), LoadCredential=, LoadCredentialEncrypted=) is a file that systemd shows to one service;
an access list may make its mode look open to the group, so that its permissions are left to systemd.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path

from control.node import harden
from keyserver.errors import BadFile, KeyFilesError, StartError
from keyserver.keyfile import read_bounded, read_private

CREDENTIALS = "CREDENTIALS_DIRECTORY"


@dataclass(frozen=True, slots=True)
class Passphrases:
    """The sources, in the order in which what they hold is tried. `fixed` are those of the environment."""

    files: tuple[Path, ...] = ()
    credentials: tuple[Path, ...] = ()
    fixed: tuple[bytes, ...] = field(default=(), repr=False)

    def __bool__(self) -> bool:
        return bool(self.files or self.credentials or self.fixed)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files whose change may change what can be opened."""
        return self.files + self.credentials

    def read(self) -> tuple[bytes, ...]:
        """All of them. Raises KeyFilesError for a source that cannot be read or is empty."""
        found, bad = list(self.fixed), []
        for path in self.paths:
            data = read_private(path) if path in self.files else read_bounded(path)
            if isinstance(data, BadFile):
                bad.append(data)
            elif not (text := data.rstrip(b"\r\n")):
                bad.append(BadFile(str(path), "no passphrase in it", "write one into it: `openssl rand -base64 33`"))
            else:
                found.append(text)
        if bad:
            raise KeyFilesError(bad)
        return tuple(found)


NONE = Passphrases()


def add_arguments(
    parser: argparse.ArgumentParser, stem: str = "passphrase", what: str = "opens encrypted keys"
) -> None:
    """`--STEM-file`, `--STEM-env` and `--STEM-credential`."""
    for kind, metavar, text in (
        ("file", "FILE", f"{what}; a file that only its owner may read"),
        ("env", "NAME", "the same from an environment variable"),
        ("credential", "NAME", "the same from a credential of systemd (LoadCredential=)"),
    ):
        parser.add_argument(f"--{stem}-{kind}", action="append", default=[], metavar=metavar, help=text)


def from_options(options: argparse.Namespace, stem: str = "passphrase") -> Passphrases:
    """What was said with `add_arguments`; variables are taken out of the environment. Raises StartError."""
    files, variables, credentials = (
        getattr(options, f"{stem.replace('-', '_')}_{kind}") for kind in ("file", "env", "credential")
    )
    return Passphrases(
        tuple(map(Path, files)), tuple(map(_credential, credentials)), tuple(map(_from_environment, variables))
    )


def _credential(name: str) -> Path:
    directory = os.environ.get(CREDENTIALS)
    if directory is None:
        raise StartError(f"there is no credential {name}: ${CREDENTIALS} is unset; systemd's LoadCredential= sets it")
    if "/" in name or name in ("", ".", ".."):
        raise StartError(f"{name!r} is no credential's name; give the one of LoadCredential=NAME:PATH")
    return Path(directory, name)


def _from_environment(name: str) -> bytes:
    value = harden.take_variable(name).rstrip(b"\r\n")
    if not value:
        raise StartError(f"${name} is unset or empty; set it to the passphrase, or give --passphrase-file")
    return value
