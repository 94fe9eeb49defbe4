"""The keys in force: what a reload changes, who gets which key, and what a worker that is new gets."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certs.authority import Authority, key_id, private_pem
from control.node.files import write_atomic
from keyserver.crew import Crew, Job
from keyserver.encrypt import encrypted_pem
from keyserver.errors import BadFile, ErrorCode, KeyFilesError
from keyserver.keyfile import PrivateKey
from keyserver.keyring import Keyring, Sources
from keyserver.passphrases import NONE, Passphrases
from keyserver.policy import KeyType
from keyserver.protocol import Sign
from keyserver.reader import Order, Reading
from keyserver.store import Elsewhere, KeyStore, Signer
from tests.keyserver.conftest import TLS13, WorkerThread, key_store, read_here
from tests.keyserver.test_store import verify


async def ring_of(*paths: Path, passphrases: Passphrases = NONE) -> Keyring:
    ring = Keyring(Sources(paths, passphrases), read=read_here)
    await ring.reload()
    return ring


async def test_keys_in_the_clear_are_told_apart(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    write_atomic(tmp_path / "a.key", encrypted_pem(keys["p256"], b"a passphrase"))
    write_atomic(tmp_path / "b.key", private_pem(keys["rsa"]))
    opened_by = Passphrases(fixed=(b"a passphrase",))
    ring = await ring_of(tmp_path, passphrases=opened_by)
    assert ring.in_the_clear == (str(tmp_path / "b.key"),)
    with pytest.raises(KeyFilesError, match=r"b\.key: it is not encrypted; `paifang keyserver encrypt"):
        await asyncio.to_thread(key_store, [tmp_path], opened_by, encrypted_only=True)
    write_atomic(tmp_path / "b.key", encrypted_pem(keys["rsa"], b"a passphrase"))
    assert await ring.reload(always=False) == (0, 0)
    assert ring.in_the_clear == ()
    assert len(await asyncio.to_thread(key_store, [tmp_path], opened_by, encrypted_only=True)) == 2


async def test_a_passphrase_that_changes_is_noticed(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    write_atomic(tmp_path / "a.key", encrypted_pem(keys["p256"], b"a passphrase"))
    write_atomic(tmp_path / "passphrase", b"a passphrase")
    ring = await ring_of(tmp_path / "a.key", passphrases=Passphrases((tmp_path / "passphrase",)))
    write_atomic(tmp_path / "passphrase", b"another passphrase")
    with pytest.raises(KeyFilesError, match=r"a\.key: not a usable private key"):
        await ring.reload(always=False)
    assert len(ring.store) == 1


async def test_reload(key_dir: Path, keys: dict[str, PrivateKey], ids: dict[str, bytes]) -> None:
    ring = await ring_of(key_dir)
    assert await ring.reload(always=False) is None
    assert await ring.reload() == (0, 0)
    fresh = ec.generate_private_key(ec.SECP256R1())
    write_atomic(key_dir / "fresh.pem", private_pem(fresh))
    (key_dir / "rsa.key").unlink()
    assert await ring.reload(always=False) == (1, 1)
    assert key_id(fresh.public_key()) in ring.store
    assert ids["rsa"] not in ring.store


async def test_a_bad_file_keeps_the_old_set(key_dir: Path, ids: dict[str, bytes]) -> None:
    ring = await ring_of(key_dir)
    good = (key_dir / "p256.key").read_bytes()
    write_atomic(key_dir / "p256.key", good[:100])
    with pytest.raises(KeyFilesError, match=r"p256\.key"):
        await ring.reload(always=False)
    assert all(key in ring.store for key in ids.values())
    assert await ring.reload(always=False) is None, "the same mistake is reported once"
    with pytest.raises(KeyFilesError):
        await ring.reload()
    write_atomic(key_dir / "p256.key", good)
    assert await ring.reload(always=False) == (0, 0)


async def test_a_permission_that_is_mended_is_noticed(key_dir: Path) -> None:
    ring = await ring_of(key_dir)
    for bad, good, path in ((0o644, 0o600, key_dir / "rsa.key"), (0o777, 0o700, key_dir)):
        path.chmod(bad)
        with pytest.raises(KeyFilesError):
            await ring.reload(always=False)
        path.chmod(good)
        assert await ring.reload(always=False) == (0, 0)


async def test_chains_come_and_go_with_their_files_and_keys(
    key_dir: Path, ca: Authority, keys: dict[str, PrivateKey], ids: dict[str, bytes]
) -> None:
    for name in ("p256", "rsa"):
        (key_dir / f"{name}-chain.pem").write_bytes(ca.issue_leaf(keys[name].public_key(), ["a.test"]))
    ring = await ring_of(key_dir)
    assert [chain.key_id for chain in ring.store.chains.find("a.test")] == [ids["p256"], ids["rsa"]]
    (key_dir / "p384.key").touch()
    assert await ring.reload(always=False) == (0, 0)
    assert len(ring.store.chains) == 2, "what was not read again is still known"
    (key_dir / "rsa.key").unlink()
    assert await ring.reload(always=False) == (0, 1)
    assert [chain.key_id for chain in ring.store.chains.find("a.test")] == [ids["p256"]], "a chain alone is of no use"
    (key_dir / "p256-chain.pem").unlink()
    assert await ring.reload(always=False) == (0, 0)
    assert ring.store.chains.find("a.test") == []


@pytest.fixture
async def crew() -> AsyncIterator[Crew]:
    crew = Crew("rsa", [KeyType.RSA], 2, WorkerThread)
    await crew.start()
    yield crew
    await crew.close()


async def signature(store: KeyStore, key_id: bytes) -> bytes | ErrorCode:
    held = store.get(key_id)
    assert isinstance(held, Elsewhere)
    done: asyncio.Future[bytes | ErrorCode] = asyncio.get_running_loop().create_future()
    request, now = Sign(1, key_id, 0x0804, "", TLS13), asyncio.get_running_loop().time()
    assert held.crew.ask(Job(request, now, done.set_result, lambda: False))
    return await asyncio.wait_for(done, 10)


async def until_ready(crew: Crew) -> None:
    async with asyncio.timeout(10):
        while crew.ready < crew.size:
            await asyncio.sleep(0.002)


async def test_rsa_keys_are_elsewhere(
    key_dir: Path, crew: Crew, keys: dict[str, PrivateKey], ids: dict[str, bytes]
) -> None:
    ring = Keyring(Sources((key_dir,)), [crew], read_here)
    assert await ring.reload() == (4, 0)
    await until_ready(crew)
    assert {name for name, key in ids.items() if isinstance(ring.store.get(key), Signer)} == {"p256", "p384", "ed25519"}
    made = await signature(ring.store, ids["rsa"])
    assert isinstance(made, bytes)
    verify(keys["rsa"], 0x0804, made, TLS13)
    fresh = rsa.generate_private_key(65537, 2048)
    write_atomic(key_dir / "fresh.key", private_pem(fresh))
    assert await ring.reload(always=False) == (1, 0)
    for each in (ids["rsa"], key_id(fresh.public_key())):
        assert isinstance(await signature(ring.store, each), bytes)
    (key_dir / "rsa.key").unlink()
    assert await ring.reload(always=False) == (0, 1)
    stale = Elsewhere(ids["rsa"], KeyType.RSA, crew)
    assert await signature(KeyStore({ids["rsa"]: stale}), ids["rsa"]) is ErrorCode.UNKNOWN_KEY, "no worker has it"
    await ring.close()


async def test_a_new_worker_gets_what_is_in_force(key_dir: Path, crew: Crew, ids: dict[str, bytes]) -> None:
    ring = Keyring(Sources((key_dir,)), [crew], read_here)
    await ring.reload()
    await until_ready(crew)
    write_atomic(key_dir / "broken.key", b"x")
    fresh = rsa.generate_private_key(65537, 2048)
    write_atomic(key_dir / "fresh.key", private_pem(fresh))
    for hand in list(crew.hands):
        hand.kill()
    while crew.restarts < 2:
        await asyncio.sleep(0.01)
    await until_ready(crew)
    assert isinstance(await signature(ring.store, ids["rsa"]), bytes)
    assert key_id(fresh.public_key()) not in ring.store, "what is broken holds back what is new"
    (key_dir / "broken.key").unlink()
    assert await ring.reload(always=False) == (1, 0)
    assert isinstance(await signature(ring.store, key_id(fresh.public_key())), bytes)
    await ring.close()


@pytest.mark.parametrize("strict", [True, False])
async def test_a_worker_that_starts_while_others_get_their_keys(
    key_dir: Path, crew: Crew, ids: dict[str, bytes], strict: bool
) -> None:
    """It was not in the order, so it must not be taken for one that has its keys."""
    disturbed: list[None] = []
    hindered = asyncio.Event()

    async def read(order: Order) -> Reading:
        if hindered.is_set() and not disturbed:
            disturbed.append(None)
            before = crew.restarts
            crew.hands[0].kill()
            while crew.restarts == before:
                await asyncio.sleep(0.005)
        return await read_here(order)

    ring = Keyring(Sources((key_dir,)), [crew], read)
    await ring.reload()
    await until_ready(crew)
    hindered.set()
    if strict:
        (key_dir / "p256.key").touch()
        assert await ring.reload(always=False) == (0, 0)
    else:
        crew.hands[1].kill()
    async with asyncio.timeout(10):
        while not disturbed or crew.restarts < (1 if strict else 2):
            await asyncio.sleep(0.005)
    await until_ready(crew)
    assert isinstance(await signature(ring.store, ids["rsa"]), bytes)
    await ring.close()


async def test_a_worker_that_lacks_a_key_is_replaced(
    key_dir: Path, crew: Crew, ids: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    ring = Keyring(Sources((key_dir,)), [crew], read_here)
    await ring.reload()
    await until_ready(crew)
    sock = socket.socket(fileno=os.dup(crew.hands[0].keys.fileno()))
    with sock:
        sock.setblocking(True)
        sock.sendall(b'{"keep": [], "add": {}}\n')
        assert await asyncio.to_thread(sock.recv, 10) == b"ok\n"
    (key_dir / "p256.key").touch()
    assert await ring.reload(always=False) == (0, 0)
    assert "does not take its keys" in caplog.text
    while crew.restarts < 1:
        await asyncio.sleep(0.01)
    await until_ready(crew)
    assert isinstance(await signature(ring.store, ids["rsa"]), bytes)
    await ring.close()


async def test_a_reader_that_fails_changes_nothing(key_dir: Path, crew: Crew, ids: dict[str, bytes]) -> None:
    fails = False

    async def read(order: Order) -> Reading:
        if fails:
            raise KeyFilesError([BadFile("key files", "their reader ended with code 1", "see above")])
        return await read_here(order)

    ring = Keyring(Sources((key_dir,)), [crew], read)
    await ring.reload()
    fails = True
    with pytest.raises(KeyFilesError, match="their reader ended"):
        await ring.reload()
    assert len(ring.store) == 4
    crew.hands[0].kill()
    while crew.restarts < 1:
        await asyncio.sleep(0.01)
    fails = False
    await until_ready(crew)
    await ring.close()
