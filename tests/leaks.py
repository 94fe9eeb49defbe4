"""Looking for secrets where none may be: in files, in what /proc shows of processes, in their memory.

A secret is looked for in every form that it might be written in: as it is, as Python's `repr` and JSON show it, in
hexadecimal, in base64 (wherever it may begin in it), and for a key's numbers in both byte orders and as they stand in a
PEM file. What a search finds nothing with proves nothing: its user has it find something that is there by right.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

PIECE = 1 << 22  # bytes read at a time; pieces overlap by the longest needle
LEAST = 16  # bytes of a needle: shorter ones are somewhere by chance
# Mappings of the kernel, which /proc/PID/mem does not give out, and of devices.
UNREADABLE = ("[vvar]", "[vsyscall]", "[vvar_vclock]", "/dev/")

Needles = Mapping[str, bytes]


def forms(label: str, secret: bytes) -> dict[str, bytes]:
    """A secret in the forms in which text and logs hold bytes."""
    assert len(secret) >= LEAST, f"{label} is too short to be told from chance"
    found = {
        f"{label} as it is": secret,
        f"{label} backwards": secret[::-1],
        f"{label} hex": secret.hex().encode(),
        f"{label} HEX": secret.hex().upper().encode(),
        f"{label} repr": repr(secret)[2:-1].encode(),
        f"{label} JSON": json.dumps(secret.decode("latin-1"))[1:-1].encode(),
        f"{label} as a URL": quote_from_bytes(secret).encode(),
    }
    for shift in range(3):
        # Of the first and the last four characters some bits are of what stands beside the secret.
        text = base64.b64encode(bytes(shift) + secret)[4 if shift else 0 :]
        found[f"{label} base64 at {shift}"] = text.rstrip(b"=")[:-1]
    return found


def numbers(pem: bytes) -> dict[str, bytes]:
    """The secret numbers of a key, big-endian."""
    key = load_pem_private_key(pem, None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"d": key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")}
    assert isinstance(key, rsa.RSAPrivateKey)
    private = key.private_numbers()
    named = {name: getattr(private, name) for name in ("d", "p", "q", "dmp1", "dmq1", "iqmp")}
    return {name: value.to_bytes((value.bit_length() + 7) // 8, "big") for name, value in named.items()}


def key_forms(label: str, pem: bytes) -> dict[str, bytes]:
    """The forms of every secret number of a key, and of the lines of its PEM that hold one."""
    der = base64.b64decode(b"".join(line for line in pem.splitlines() if not line.startswith(b"-----")))
    text = base64.b64encode(der)
    found = {}
    for name, number in numbers(pem).items():
        found |= forms(f"{label} {name}", number)
        at = der.index(number)
        first, last = -(-at * 4 // 3) + 1, (at + len(number)) * 4 // 3 - 1
        for line in range(first // 64, last // 64 + 1):  # PEM breaks its base64 every 64 characters
            piece = text[max(first, line * 64) : min(last, line * 64 + 64)]
            if len(piece) >= LEAST:
                found[f"{label} {name} PEM line {line}"] = piece
    assert all(len(form) >= LEAST for form in found.values())
    return found


@dataclass(frozen=True)
class Found:
    needle: str
    where: str


def in_bytes(data: bytes, needles: Needles, where: str) -> set[Found]:
    return {Found(name, where) for name, needle in needles.items() if needle in data}


def in_files(paths: Iterable[Path], needles: Needles) -> set[Found]:
    return {found for path in paths for found in in_bytes(path.read_bytes(), needles, str(path))}


def in_proc(pids: Iterable[int], needles: Needles) -> set[Found]:
    """Command lines, environments and names of processes and their threads."""
    found: set[Found] = set()
    for pid in pids:
        files = [Path(f"/proc/{pid}/{name}") for name in ("cmdline", "environ")]
        found |= in_files([*files, *Path(f"/proc/{pid}/task").glob("*/comm")], needles)
    return found


def mappings(pid: int) -> Iterator[tuple[int, int, str]]:
    """Start, end and name of what the process may read."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        name = fields[5] if len(fields) > 5 else "anonymous"
        if "r" in fields[1] and not name.startswith(UNREADABLE):
            start, _, end = fields[0].partition("-")
            yield int(start, 16), int(end, 16), name


def in_memory(pid: int, needles: Needles) -> tuple[set[Found], int]:
    """What is in a process's memory, and how many bytes were looked at. Needs root (CAP_SYS_PTRACE)."""
    overlap = max(map(len, needles.values()))
    found: set[Found] = set()
    looked_at = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end, mapping in mappings(pid):
            at = start
            while at < end:
                memory.seek(at)
                try:
                    piece = memory.read(min(PIECE, end - at))
                except OSError:  # unmapped since, or a file's end
                    break
                if not piece:
                    break
                looked_at += len(piece)
                found |= in_bytes(piece, needles, mapping)
                if at + len(piece) >= end:
                    break
                at += max(len(piece) - overlap, 1)
    return found, looked_at


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]
