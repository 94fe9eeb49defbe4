"""`paifang keyserver check`: whether chains and private keys fit and may be served, before anybody serves them.

It stands here because it reads private keys, which no other package does; `paifang check` and `paifang up` run it as a
process of its own. What it prints has reasons in words and nothing of a key.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from certs.authority import key_id
from certs.chain import inspect
from certs.report import NO_KEY
from control.node import harden
from keyserver import passphrases
from keyserver.errors import BadFile, KeyFilesError, StartError
from keyserver.keyfile import load
from keyserver.passphrases import NONE, Passphrases

EXAMPLES = """examples:
  paifang keyserver check fullchain.pem privkey.pem
"""


def problems(chain: str, key: Path, opened_by: Passphrases = NONE) -> tuple[list[str], list[str]]:
    """What is wrong with a PEM chain by itself, and what with the file of its private key."""
    report = inspect(chain, datetime.now(UTC))
    if key.is_dir():
        return list(report.problems), ["is a directory; give the file of its private key"]
    try:
        found = load(key, True, opened_by.read())
    except KeyFilesError as error:
        return list(report.problems), [f"{file.why}; {file.remedy}" for file in error.files]
    if isinstance(found, BadFile):
        return list(report.problems), [f"{found.why}; {found.remedy}"]
    if report.key_id != NO_KEY and report.key_id not in {key_id(each.public_key()) for each in found.keys}:
        return list(report.problems), ["not the private key of this chain; give the one that its leaf was made with"]
    return list(report.problems), []


def check(pairs: Sequence[tuple[Path, Path]], opened_by: Passphrases = NONE) -> list[tuple[list[str], list[str]]]:
    """`problems` of each (chain file, key file). Raises StartError for a chain file that cannot be read."""
    found = []
    for chain, key in pairs:
        try:
            text = chain.read_text("ascii")
        except OSError as error:
            raise StartError(f"{chain}: {error.strerror}; give a file of PEM certificates") from None
        except UnicodeDecodeError:
            raise StartError(f"{chain}: not PEM text; give a file of PEM certificates") from None
        found.append(problems(text, key, opened_by))
    return found


def main(arguments: Sequence[str]) -> int:
    """0 if all fit, 1 if not. Raises StartError."""
    parser = argparse.ArgumentParser(
        prog="paifang keyserver check",
        description="Tell whether certificate chains and their private keys fit and may be served. Serves nothing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="CHAIN KEY", help="PEM files, in pairs")
    parser.add_argument("--json", action="store_true", help="print for each pair [[about CHAIN…], [about KEY…]]")
    passphrases.add_arguments(parser)
    options = parser.parse_args(arguments)
    if len(options.files) % 2:
        parser.error("files come in pairs: CHAIN KEY")
    harden.forbid_dumps()
    pairs = list(zip(options.files[::2], options.files[1::2], strict=True))
    found = check(pairs, passphrases.from_options(options))
    if options.json:
        print(json.dumps(found))
        return 0
    for (chain, key), (of_chain, of_key) in zip(pairs, found, strict=True):
        lines = [*(f"{chain}: {problem}" for problem in of_chain), *(f"{key}: {problem}" for problem in of_key)]
        print("\n".join(lines) or f"{chain} and {key} fit", file=sys.stderr if lines else sys.stdout)
    return 1 if any(of_chain or of_key for of_chain, of_key in found) else 0
