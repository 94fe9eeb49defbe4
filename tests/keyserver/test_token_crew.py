"""A token's keys through worker processes: listed, used, lost and found again. The token is SoftHSM 2's."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from control.node.files import write_atomic
from keyserver import token_worker
from keyserver.crew import Crew, Job, start_token_process
from keyserver.errors import ErrorCode, KeyFilesError
from keyserver.keyring import Keyring, Sources
from keyserver.passphrases import Passphrases
from keyserver.policy import KeyType
from keyserver.protocol import Sign
from keyserver.store import KeyStore
from keyserver.token_crew import TokenCrew
from keyserver.token_keys import Token, TokenError
from tests.keyserver import hsm
from tests.keyserver.conftest import TLS13, read_here
from tests.keyserver.hsm import Hsm
from tests.keyserver.test_keyring import signature
from tests.keyserver.test_store import verify

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hsm:
    (tmp_path / "hsm").mkdir()
    return hsm.make(tmp_path / "hsm", monkeypatch)


@pytest.fixture
async def crew() -> AsyncIterator[Crew]:
    crew = Crew("token", [], 1, start_token_process)
    await crew.start()
    yield crew
    await crew.close()


async def ready(crew: Crew) -> None:
    async with asyncio.timeout(20):
        while crew.ready < crew.size:
            await asyncio.sleep(0.005)


async def sign(store: KeyStore, key_id: bytes, scheme: int) -> bytes | ErrorCode:
    held, loop = store.get(key_id), asyncio.get_running_loop()
    done: asyncio.Future[bytes | ErrorCode] = loop.create_future()
    job = Job(Sign(1, key_id, scheme, "", TLS13), loop.time(), done.set_result, lambda: False)
    assert held.crew.ask(job)  # type: ignore[union-attr]
    return await asyncio.wait_for(done, 20)


async def test_keys_of_files_and_of_a_token(token: Hsm, crew: Crew, tmp_path: Path) -> None:
    ring = Keyring(Sources(()), read=read_here, token=TokenCrew(crew, token.token, Passphrases((token.pin_file,))))
    assert await ring.reload() == (3, 0)
    assert {held.key_type for held in ring.store} == {KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA}
    assert ring.store.names[token.id_of("shop")] == {"shop"}
    await ready(crew)
    for label, scheme in {"shop": 0x0403, "shop-384": 0x0503, "shop-rsa": 0x0804}.items():
        made = await sign(ring.store, token.id_of(label), scheme)
        assert isinstance(made, bytes)
        verify(token.keys[label], scheme, made, TLS13)
    await asyncio.to_thread(token.add, "late", ec.generate_private_key(ec.SECP256R1()))
    assert await ring.reload(always=False) is None, "a token does not tell when it changes"
    assert await ring.reload() == (1, 0)
    assert isinstance(await sign(ring.store, token.id_of("late"), 0x0403), bytes)
    await ring.close()


async def test_a_worker_that_dies_logs_in_anew(token: Hsm, crew: Crew) -> None:
    ring = Keyring(Sources(()), read=read_here, token=TokenCrew(crew, token.token, Passphrases((token.pin_file,))))
    await ring.reload()
    await ready(crew)
    os.kill(crew.hands[0].pid, signal.SIGKILL)
    assert isinstance(await signature(ring.store, token.id_of("shop-rsa")), bytes)
    assert crew.restarts == 1
    await ring.close()


async def test_a_pin_that_is_wrong_is_tried_once(
    token: Hsm, crew: Crew, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_atomic(tmp_path / "wrong", b"0000")
    token_crew = TokenCrew(crew, token.token, Passphrases((tmp_path / "wrong",)))
    ring = Keyring(Sources(()), read=read_here, token=token_crew)
    with pytest.raises(KeyFilesError, match=r"token pft: the PIN is refused \(PinIncorrect\); mend it"):
        await ring.reload()
    crew.hands[0].kill()
    async with asyncio.timeout(20):
        while crew.restarts < 1:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.2)
    assert "a new worker cannot use the token" not in caplog.text, "it was not even tried"
    assert crew.ready == 0
    write_atomic(tmp_path / "wrong", hsm.PIN.encode())
    assert await ring.reload() == (3, 0)
    await ready(crew)
    await ring.close()


async def test_a_token_that_goes_keeps_the_old_set(token: Hsm, crew: Crew) -> None:
    ring = Keyring(Sources(()), read=read_here, token=TokenCrew(crew, token.token, Passphrases((token.pin_file,))))
    await ring.reload()
    await ready(crew)
    os.kill(crew.hands[0].pid, signal.SIGSTOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keyserver.token_crew.LIST_TIMEOUT_S", 0.1)
        with pytest.raises(KeyFilesError, match="its worker does not answer"):
            await ring.reload()
    assert len(ring.store) == 3
    await ready(crew)
    assert isinstance(await signature(ring.store, token.id_of("shop-rsa")), bytes)
    await ring.close()


@pytest.mark.parametrize(
    ("module", "label", "pin", "why"),
    [
        (hsm.MODULE, "none", "pin", "there is no token 'none'"),
        ("/none.so", "pft", "pin", "the module cannot be used"),
        (hsm.MODULE, "pft", "missing", "missing: No such file or directory"),
    ],
)
def test_what_a_worker_answers_when_it_cannot(token: Hsm, module: str, label: str, pin: str, why: str) -> None:
    argv = [sys.executable, "-c", "import sys; from tests.keyserver.test_token_crew import ask; ask(*sys.argv[1:])"]
    done = subprocess.run(
        [*argv, module, label, str(token.directory / pin)], capture_output=True, text=True, cwd=ROOT, timeout=20
    )
    with pytest.raises(TokenError, match=why) as caught:
        token_worker.listing(done.stdout.encode())
    assert caught.value.final is False


def ask(module: str, label: str, pin: str) -> None:
    """In a process of its own, since a library is loaded once: a worker's answer to an order."""
    order = json.loads(token_worker.order(Token(module, label), Passphrases((Path(pin),))))
    signers, answer = token_worker.FromToken()(order, {})
    assert signers is None
    sys.stdout.write(answer.decode())


def test_a_pin_is_not_in_the_order_where_it_stands_in_a_file(token: Hsm) -> None:
    order = token_worker.order(token.token, Passphrases((token.pin_file,)))
    assert b"4321" not in order
    assert order.count(b"\n") == 1
