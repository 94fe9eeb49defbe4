"""Whether private keys fit the chains of a configuration: asked of the key server's own tool.

No process but the key server's reads private keys, so that this one has none in its memory and none in its messages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Container, Mapping
from pathlib import Path

from control.prepare import Document, Prepared
from core.errors import ConfigError
from core.model import Kind

CHECK_TIMEOUT_S = 30.0


class KeyCheckError(Exception):
    """The tool itself has failed; the text says how."""


def problems(chains: Mapping[str, str], keys: Mapping[str, Path]) -> dict[str, str]:
    """What is wrong with the key file of each certificate, and what to do; without those that fit. KeyCheckError."""
    if not keys:
        return {}
    with tempfile.TemporaryDirectory(prefix="paifang-") as directory:
        files: list[str] = []
        for number, (name, key) in enumerate(keys.items()):
            chain = Path(directory, f"{number}.pem")
            chain.write_text(chains[name])
            files += [str(chain), str(key)]
        found = _ask(files)
    return {name: "; ".join(of_key) for name, (_, of_key) in zip(keys, found, strict=True) if of_key}


def errors(document: Document, prepared: Prepared, *, without: Container[str] = ()) -> list[ConfigError]:
    """The faults of a file's keys, but for those of the certificates `without`. Raises KeyCheckError."""
    keys = {name: path for name, path in prepared.keys.items() if name not in without}
    chains = {name: prepared.model.certificates[name].chain for name in keys}
    return [
        document.error(Kind.CERTIFICATES, name, "key_file", f"{keys[name]}: {text}")
        for name, text in problems(chains, keys).items()
    ]


def elsewhere(keys: Mapping[str, Path]) -> dict[str, Path]:
    """The key files that this user cannot read here: where a cluster's keys should be."""
    return {name: path for name, path in keys.items() if not os.access(path, os.R_OK)}


def _ask(files: list[str]) -> list[tuple[list[str], list[str]]]:
    argv = [sys.executable, "-P", "-m", "keyserver", "check", "--json", "--", *files]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise KeyCheckError(f"cannot check the keys: {error}") from None
    if done.returncode:
        raise KeyCheckError(f"cannot check the keys: {done.stderr.strip()}")
    found: list[tuple[list[str], list[str]]] = json.loads(done.stdout)
    return found
