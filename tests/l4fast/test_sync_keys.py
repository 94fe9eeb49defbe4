from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest

from l4fast.sync_keys import ClusterKey, KeyFileError, key_by_id, node_id, parse_secrets, seed_digest

SECRET = bytes(range(32))
KEY = ClusterKey(SECRET)


def test_key_file() -> None:
    hex_text, base64_text = SECRET.hex(), base64.b64encode(bytes(32)).decode()
    secrets = parse_secrets(f"# made today\n{hex_text}  # current\n\n{base64_text}\n")
    assert secrets.seed is None
    first, second = secrets.keys
    assert first.id == KEY.id
    assert second.id == ClusterKey(bytes(32)).id != KEY.id
    assert key_by_id((first, second), second.id) is second
    assert key_by_id((first,), second.id) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        (SECRET.hex()[:-2], "line 1: a cluster key has 32 bytes, this one has 31"),
        ("\n" + SECRET.hex() + "00", "line 2: a cluster key has 32 bytes, this one has 33"),
        (f"seed {SECRET.hex()}", "holds no key"),
        (f"{SECRET.hex()}\nseed", "line 2: a seed has 32 bytes, this one has 0"),
        (f"{SECRET.hex()}\nseed {SECRET.hex()[2:]}", "line 2: a seed has 32 bytes, this one has 31"),
        (f"{SECRET.hex()}\nseed {SECRET.hex()}\nseed {SECRET.hex()}", "holds two seeds"),
        ("not a key!", "line 1: neither hex nor base64"),
        ("äöü", "line 1: neither hex nor base64"),
    ],
)
def test_bad_key_file(text: str, message: str) -> None:
    with pytest.raises(KeyFileError, match=re.escape(message)):
        parse_secrets(text)


def test_the_seed_is_the_same_whatever_the_keys_are() -> None:
    """HKDF-SHA256 (RFC 5869) by hand: one block of output. Other labels are derived from keys, never from a seed."""
    extracted = hmac.digest(bytes(32), SECRET, "sha256")
    expected = int.from_bytes(hmac.digest(extracted, b"paifang flow hash\x01", "sha256")[:8], "big")
    for keys in (bytes(32).hex(), f"{SECRET.hex()}\n{bytes(32).hex()}"):
        for text in (f"{keys}\nseed {SECRET.hex()}", f"seed  {base64.b64encode(SECRET).decode()} # ours\n{keys}"):
            assert parse_secrets(text).seed == expected
    assert parse_secrets(f"{SECRET.hex()}\nseed {bytes(32).hex()}").seed != expected


def test_seeds_are_compared_without_being_told() -> None:
    digests = [seed_digest(seed) for seed in (None, 0, 1, 2**64 - 1)]
    assert digests[0] == 0
    assert len(set(digests)) == 4
    assert seed_digest(1) == int.from_bytes(hashlib.sha256(b"paifang seed" + bytes(7) + b"\1").digest()[:4], "big")


def test_node_ids() -> None:
    assert node_id("l4-1") != node_id("l4-2")
    assert node_id("l4-1") == int.from_bytes(hashlib.sha256(b"l4-1").digest()[:8], "big")
