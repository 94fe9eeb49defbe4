"""The cluster key file: what the L4 nodes of a cluster share, and the keys that are derived of it. Pure.

A pair of key and nonce is never used twice: each boot of each node seals under a key of its own, HKDF-SHA256(cluster
key, node id, boot epoch, boot salt). The salt is 64 random bits, so this holds even where a clock runs backwards and
the state directory is lost. What would break it is one running process copied with its memory (a virtual machine's
snapshot resumed twice).

The cluster id names the cluster key and is derived from it. What is sealed under a key that is not in the key file is
therefore *foreign*, whether it comes from another cluster or from a node that has not been given the new key.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
SEED_WORD: Final = "seed"  # begins the seed's line in the key file


class KeyFileError(Exception):
    """A cluster key file whose text is not a key."""


def node_id(name: str) -> int:
    """64 bits of SHA-256: two of a cluster's node names do not meet by chance."""
    digest = Hash(SHA256())
    digest.update(name.encode())
    return int.from_bytes(digest.finalize()[:8], "big")


class ClusterKey:
    """One secret of the cluster: its public id, and the key that each boot of each node seals under."""

    __slots__ = ("_secret", "id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise KeyFileError(f"a cluster key has {KEY_BYTES} bytes, this one has {len(secret)}")
        self._secret = secret
        self.id = int.from_bytes(self._derive(b"paifang sync 4 cluster id", 4), "big")

    def _derive(self, info: bytes, size: int) -> bytes:
        return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(self._secret)

    def cipher(self, node: int, boot: int, salt: int) -> AESGCM:
        """The cipher of one boot of one node. About 10 µs: keep it."""
        return AESGCM(self._derive(b"paifang sync 4 boot" + struct.pack("!QQQ", node, boot, salt), KEY_BYTES))


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the L4 nodes of a cluster share."""

    keys: tuple[ClusterKey, ...]
    seed: int | None  # of the flows' hash, 64 bits


def parse_secrets(text: str) -> Secrets:
    """Reads a key file: one key a line, in hex or base64, and once `seed` and a key; `#` starts a comment. Raises
    KeyFileError.

    The first key seals; every key opens. So a key is changed without a gap: append the new one on every node, then
    move it to the top on every node, then remove the old one. The seed stays: with another one, flows that have no
    session go to other servers.
    """
    keys: list[ClusterKey] = []
    seeds: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            if words[0] == SEED_WORD:
                seeds.append(flow_seed(_decode("".join(words[1:]))))
            else:
                keys.append(ClusterKey(_decode("".join(words))))
        except KeyFileError as error:
            raise KeyFileError(f"line {number}: {error}") from None
    if not keys:
        raise KeyFileError("it holds no key")
    if len(seeds) > 1:
        raise KeyFileError("it holds two seeds")
    return Secrets(tuple(keys), seeds[0] if seeds else None)


def flow_seed(secret: bytes) -> int:
    """What the flows' hash begins with (select.h): of a secret that no key is derived from. Raises KeyFileError."""
    if len(secret) != KEY_BYTES:
        raise KeyFileError(f"a seed has {KEY_BYTES} bytes, this one has {len(secret)}")
    made = HKDF(algorithm=SHA256(), length=8, salt=None, info=b"paifang flow hash").derive(secret)
    return int.from_bytes(made, "big")


def seed_digest(seed: int | None) -> int:
    """What nodes compare to know that they have the same seed; 0: there is none."""
    if seed is None:
        return 0
    digest = Hash(SHA256())
    digest.update(b"paifang seed" + seed.to_bytes(8, "big"))
    return int.from_bytes(digest.finalize()[:4], "big") or 1


def _decode(line: str) -> bytes:
    """Hex first: 64 hex digits are also valid base64, but of 48 bytes."""
    for read in (bytes.fromhex, lambda text: base64.b64decode(text, validate=True)):
        try:
            return read(line)
        except (ValueError, binascii.Error):
            continue
    raise KeyFileError("neither hex nor base64")


def key_by_id(keys: Sequence[ClusterKey], cluster: int) -> ClusterKey | None:
    """None for a cluster that is not ours."""
    return next((key for key in keys if key.id == cluster), None)
