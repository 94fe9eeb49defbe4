"""Access keys: made of a token and a file, and good for nothing without either."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from control.cloud.access_keys import SECRET_LENGTH, Keyring, key_id, token_id
from control.cloud.keyring import KEY, SPACE, KeyringError, load
from control.roles import ApiRole
from control.token_record import Token
from tests.control.memory_store import MemoryStore

TOKEN = Token("7Jq0vN2xWc", "ci", ApiRole.OPERATE, "ab" * 32, 0.0, "ann")
KEYRING = Keyring(bytes(32))


def test_the_id_is_the_tokens() -> None:
    assert key_id(TOKEN) == "PFAK7Jq0vN2xWc"
    assert token_id("PFAK7Jq0vN2xWc") == "7Jq0vN2xWc"
    assert [
        token_id(each) for each in ("PFAK7Jq0vN2xW", "PFAK7Jq0vN2xWcc", "LTAI7Jq0vN2xWc", "PFAK7Jq0vN2xW\n", "")
    ] == [None] * 5
    assert key_id(dataclasses.replace(TOKEN, id="old-0123456789")) is None


def test_the_secret_hangs_on_file_token_and_hash() -> None:
    secret = KEYRING.secret(TOKEN)
    assert len(secret) == SECRET_LENGTH
    others = [
        Keyring(bytes([1] * 32)).secret(TOKEN),
        KEYRING.secret(dataclasses.replace(TOKEN, id="8Jq0vN2xWc")),
        KEYRING.secret(dataclasses.replace(TOKEN, hash="cd" * 32)),
    ]
    assert len({secret, *others}) == 4
    assert KEYRING.secret(dataclasses.replace(TOKEN, name="other", used=3.0)) == secret
    assert KEYRING.fingerprint != Keyring(bytes([1] * 32)).fingerprint


def test_the_secret_before_stays_good_as_long_as_the_token_before() -> None:
    rotated = dataclasses.replace(TOKEN, hash="cd" * 32, before=TOKEN.hash, before_until=100.0)
    assert KEYRING.secrets(rotated, 99.0) == (KEYRING.secret(rotated), KEYRING.secret(TOKEN))
    assert KEYRING.secrets(rotated, 100.0) == (KEYRING.secret(rotated),)


async def test_the_file_is_made_once_and_kept(tmp_path: Path) -> None:
    store, file = MemoryStore(), tmp_path / "access.key"
    made = await load(store, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert (await load(store, file)).secret(TOKEN) == made.secret(TOKEN)
    record = await store.record(SPACE, KEY)
    assert record is not None
    assert bytes.fromhex(file.read_text()).hex() not in record.value.decode()
    renewed = await load(store, file, renew=True)
    assert renewed.secret(TOKEN) != made.secret(TOKEN)
    assert (await load(store, file)).fingerprint == renewed.fingerprint


async def test_another_control_node_needs_the_same_file(tmp_path: Path) -> None:
    store, first, second = MemoryStore(), tmp_path / "first", tmp_path / "second"
    made = await load(store, first)
    with pytest.raises(KeyringError, match=r"No such file.*copy it from another control node"):
        await load(store, second)
    assert not second.exists()
    second.touch(0o600)
    second.write_text("00" * 32)
    with pytest.raises(KeyringError, match="is not the one that this storage's keys are of"):
        await load(store, second)
    second.write_text(first.read_text())
    assert (await load(store, second)).fingerprint == made.fingerprint


@pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31], ids=["empty", "no-digits", "short"])
async def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "access.key"
    file.touch(0o600)
    file.write_text(text)
    with pytest.raises(KeyringError, match="hexadecimal digits"):
        await load(MemoryStore(), file)
    file.chmod(0o644)
    with pytest.raises(KeyringError, match="chmod 600"):
        await load(MemoryStore(), file)
