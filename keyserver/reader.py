"""Key files are read by a process of its own, which hands each key to the one process that signs with it, and ends.

So RSA keys are never in the memory of the process that talks to the network, and neither are passphrases of files and
what decrypting leaves behind. The reader is asked once (`Order`, JSON on its standard input, since a passphrase may be
in it) and answers once (`Reading`, JSON on its standard output):

* keys of the asking process's own kinds travel in the answer;
* keys of a crew's kinds go to each of its workers through the worker's own socket, which the reader inherits. The
  worker says "ok" when it has them. One that does not is named as deaf, to be replaced.

Files that have not changed since the last answer are not opened again (30 ms each, where they are encrypted): whoever
has their keys keeps them. An order is strict or not. A strict one hands out nothing if a single file is of no use; one
for a worker that has just started (`wanted`) hands out what was in force, as far as it can be found.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from certs.authority import key_id
from certs.chain import inspect
from certs.report import NO_KEY
from control.node import harden, logs
from keyserver.chains import Chain
from keyserver.errors import BadFile, KeyFilesError
from keyserver.keyfile import PrivateKey, files_below, load, type_of, usable
from keyserver.passphrases import Passphrases

ACK_TIMEOUT_S = 5.0  # a worker answers between two signatures
OK = b"ok\n"

Mark = tuple[int, int, int]  # inode, mtime and ctime in ns: any change of content or permission shows here


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A key file: what `stat` said before it was opened, whether a key is in the clear there, its keys and chain."""

    mark: Mark
    in_the_clear: bool
    keys: Mapping[str, str]  # id in hexadecimal → KeyType
    chain: Sequence[Any] = ()  # the fields of a `Chain`, its id in hexadecimal; empty where there is none


@dataclass(frozen=True, slots=True)
class Order:
    """What to read, and for whom. `workers`: descriptor of a worker's socket → the kinds of key that it is to get.

    known: files that were read before. wanted: ids in hexadecimal of what a new worker is to get, all else is left
    alone; None for a strict order.
    """

    paths: Sequence[str]
    passphrase_files: Sequence[str] = ()
    credentials: Sequence[str] = ()
    passphrases: Sequence[str] = field(default=(), repr=False)  # base64
    encrypted_only: bool = False
    known: Mapping[str, ReadFile] = field(default_factory=dict)
    workers: Mapping[int, Sequence[str]] = field(default_factory=dict)
    wanted: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """All files now in force, the new keys of those kinds that no worker has, and what went wrong."""

    files: Mapping[str, ReadFile]
    own: Mapping[str, str] = field(repr=False)  # id → PKCS #8 in base64
    bad: Sequence[tuple[str, str, str]] = ()
    deaf: Sequence[int] = ()


def to_json(value: Order | Reading) -> bytes:
    return json.dumps(asdict(value)).encode()


def order_from_json(text: bytes) -> Order:
    fields: dict[str, Any] = json.loads(text)
    fields["known"] = _files(fields["known"])
    fields["workers"] = {int(descriptor): kinds for descriptor, kinds in fields["workers"].items()}
    return Order(**fields)


def reading_from_json(text: bytes) -> Reading:
    fields: dict[str, Any] = json.loads(text)
    fields["files"] = _files(fields["files"])
    fields["bad"] = [tuple(bad) for bad in fields["bad"]]
    return Reading(**fields)


def _files(fields: Mapping[str, Any]) -> dict[str, ReadFile]:
    return {
        path: ReadFile(tuple(file["mark"]), file["in_the_clear"], file["keys"], file["chain"])
        for path, file in fields.items()
    }


def mark_of(path: Path) -> Mark | None:
    """None where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def key_from(text: str) -> PrivateKey:
    """The key of a `Reading` or of what a worker was sent."""
    return usable(load_der_private_key(b64decode(text), None))


def carry_out(order: Order) -> Reading:
    """Read, and hand out to the workers."""
    strict = order.wanted is None
    try:
        passphrases = Passphrases(
            tuple(map(Path, order.passphrase_files)),
            tuple(map(Path, order.credentials)),
            tuple(map(b64decode, order.passphrases)),
        ).read()
    except KeyFilesError as error:
        return Reading({}, {}, [_fields(file) for file in error.files], list(order.workers))
    bad = [file for path in order.paths if (file := _open_to_others(Path(path)))]
    files: dict[str, ReadFile] = {}
    fresh: dict[str, PrivateKey] = {}
    for path, must in files_below(list(map(Path, order.paths))):
        mark = mark_of(path)
        known = order.known.get(str(path))
        if strict and known is not None and known.mark == mark:
            files[str(path)] = known
            continue
        found = load(path, must, passphrases)
        if isinstance(found, BadFile):
            bad.append(found)
        elif found.in_the_clear and order.encrypted_only:
            bad.append(BadFile(str(path), "it is not encrypted", f"`paifang keyserver encrypt {path}` does it"))
        else:
            held = {key_id(key.public_key()).hex(): key for key in found.keys}
            assert mark is not None
            kinds = {each: type_of(key) for each, key in held.items()}
            files[str(path)] = ReadFile(mark, found.in_the_clear, kinds, _chain(found.certificates))
            fresh.update(held)
    if order.wanted is not None:
        fresh = {each: key for each, key in fresh.items() if each in order.wanted}
    elif bad:
        return Reading({}, {}, [_fields(file) for file in bad])
    kept = files.values() if strict else ()
    deaf = [descriptor for descriptor, kinds in order.workers.items() if not _hand_out(descriptor, kinds, kept, fresh)]
    workers_kinds = {kind for kinds in order.workers.values() for kind in kinds}
    own = {each: _text(key) for each, key in fresh.items() if type_of(key) not in workers_kinds} if strict else {}
    return Reading(files, own, [_fields(file) for file in bad], deaf)


def _chain(pem: str) -> list[Any]:
    """For `ReadFile.chain`."""
    if not pem:
        return []
    report = inspect(pem, datetime.now(UTC))
    if report.key_id == NO_KEY or not report.names:
        return []
    return [report.key_id.hex(), list(report.names), report.not_after, pem]


def chains_of(files: Iterable[ReadFile]) -> Iterator[Chain]:
    """The chains that stand with the keys."""
    for identifier, names, not_after, pem in (file.chain for file in files if file.chain):
        yield Chain(bytes.fromhex(identifier), tuple(names), not_after, pem)


def _fields(file: BadFile) -> tuple[str, str, str]:
    return (file.path, file.why, file.remedy)


def _open_to_others(path: Path) -> BadFile | None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return None  # reading it says so
    if stat.S_ISDIR(mode) and mode & (stat.S_IWGRP | stat.S_IWOTH):
        return BadFile(str(path), "others may replace the keys in it", f"chmod go-w {path}")
    return None


def _text(key: PrivateKey) -> str:
    return b64encode(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())).decode()


def _hand_out(descriptor: int, kinds: Sequence[str], kept: Iterable[ReadFile], fresh: Mapping[str, PrivateKey]) -> bool:
    """Whether a worker has taken its keys: new ones, and those of files in force that it has already."""
    add = {each: _text(key) for each, key in fresh.items() if type_of(key) in kinds}
    keep = {each for file in kept for each, kind in file.keys.items() if kind in kinds} - add.keys()
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        sock.settimeout(ACK_TIMEOUT_S)
        try:
            sock.sendall(json.dumps({"keep": sorted(keep), "add": add}).encode() + b"\n")
            return sock.recv(len(OK)) == OK
        except OSError:
            return False


def main() -> int:
    """`python -m keyserver.reader`."""
    logs.setup("keyserver")
    harden.forbid_dumps()
    harden.lock_memory()
    sys.stdout.buffer.write(to_json(carry_out(order_from_json(sys.stdin.buffer.read()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
