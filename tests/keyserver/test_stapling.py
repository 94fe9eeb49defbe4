"""OCSP answers from a responder on a real port, by the key server, to clients: sockets, policy, process, TLS."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from certs import ocsp
from certs.authority import Authority
from core.model import Certificate
from keyserver.client import KeyClient
from keyserver.grants import parse
from keyserver.keyfile import PrivateKey
from keyserver.ocsp_fetch import fetch
from keyserver.staples import FETCHING, Staples
from proxy.tls import TlsServer
from tests.keyserver.conftest import StartServer
from tests.keyserver.test_main import SECONDS, Start, start
from tests.responder import Responder, responding

__all__ = ["start"]
PAUSE_S = 0.02


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[KeyClient]:
    one = KeyClient([f"unix:{tmp_path / 'sock'}"])
    yield one
    await one.close()


async def answered(client: KeyClient, chain: str) -> bytes:
    async with asyncio.timeout(SECONDS):
        while not (given := await client.staple(chain)).answer:
            assert given.why in ("", FETCHING)
            await asyncio.sleep(PAUSE_S)
    return given.answer


async def test_who_gets_an_answer(
    tmp_path: Path, start_server: StartServer, client: KeyClient, keys: dict[str, PrivateKey], ca: Authority
) -> None:
    server = await start_server(tmp_path / "sock")
    staples = server.service._staples = Staples(fetch, lambda: datetime.now(UTC))
    await client.start()
    responder = Responder()
    with responding(responder) as leaves:
        leaf = responder.leaf(keys["p256"])
        leaves[leaf.serial_number] = leaf
        chain = responder.chain(leaf)
        assert (await client.staple(chain)).why == FETCHING
        subject = ocsp.subject(chain)
        assert subject is not None
        assert ocsp.judge(await answered(client, chain), subject, datetime.now(UTC)).ends == responder.ends
        await answered(client, chain)
        assert len(responder.asked) == 1
        server.service.grants = parse('[[grants]]\nclients = ["*"]\nkeys = ["rsa"]')
        given = await client.staple(chain)
        assert (given.answer, given.ends) == (b"", 0)
        assert "policy does not let" in given.why
        server.service.grants = None
        stranger = responder.chain(responder.leaf(Responder().key))
        given = await client.staple(stranger)
        assert "holds no private key" in given.why
        backwards = "".join(f"-----BEGIN{part}" for part in reversed(chain.split("-----BEGIN")[1:]))
        assert "has to come first" in (await client.staple(backwards)).why
        plain = ca.issue_leaf(keys["p256"].public_key(), ["a.test"]).decode()
        given = await client.staple(plain)
        assert (given.answer, given.why) == (b"", "")
        assert len(responder.asked) == 1
        alone = responder.chain(leaf).partition("-----END CERTIFICATE-----\n")
        assert "issuer's certificate is not in the chain" in (await client.staple(alone[0] + alone[1])).why
    await staples.close()


async def test_without_it(
    tmp_path: Path, start_server: StartServer, client: KeyClient, keys: dict[str, PrivateKey]
) -> None:
    await start_server(tmp_path / "sock")
    await client.start()
    responder = Responder()
    given = await client.staple(responder.chain(responder.leaf(keys["p256"])))
    assert (given.answer, given.ends, given.why) == (b"", 0, "")


def s_client(port: int) -> str:
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "web.test", "-status"]
    return subprocess.run(argv, input="", capture_output=True, text=True, timeout=SECONDS, check=False).stdout


@pytest.mark.parametrize("flags", [(), ("--no-ocsp",)], ids=["", "off"])
async def test_from_the_responder_to_the_tls_client(
    start: Start, tmp_path: Path, client: KeyClient, keys: dict[str, PrivateKey], flags: tuple[str, ...]
) -> None:
    child = start("--socket", tmp_path / "sock", "--audit-log", tmp_path / "audit", *flags)
    await client.start()
    responder = Responder()
    with responding(responder) as leaves:
        leaf: x509.Certificate = responder.leaf(keys["p256"])
        leaves[leaf.serial_number] = leaf
        chain = responder.chain(leaf)
        if not flags:
            await answered(client, chain)
        tls = TlsServer(client)
        assert await tls.configure({"web": [Certificate("web", chain=chain)]}) == []
        accept = lambda: tls.protocol("web", asyncio.Protocol())  # noqa: E731
        server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        text = await asyncio.to_thread(s_client, port)
        server.close()
        await tls.close()
    assert ("OCSP Response Status: successful" in text) is not bool(flags)
    assert ("no response sent" in text) is bool(flags)
    await client.close()
    assert child.terminate(SECONDS) == 0
    assert ("ocsp_fetched 1" in child.log.read_text()) is not bool(flags)
