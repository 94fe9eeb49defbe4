"""Stapling to real clients: what they get, and that nobody gets what is stale."""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.report import VOID, Staple
from core.model import Certificate
from keyserver.errors import ErrorCode, KeyServerError
from proxy import keyless, tls_native, tls_ocsp
from proxy.tls_certificates import Credential, read
from proxy.tls_native import NativeUnavailable
from proxy.tls_ocsp import Staples
from tests.proxy.tls_support import LOOPS, WAYS, Key, LocalKeys, certificate, get, new_key, run, serving
from tests.responder import Responder

P256, RSA = new_key("P-256"), new_key("RSA")
STATUS = "OCSP Response Status: successful"
NONE = "OCSP response: no response sent"


@dataclass
class StapledKeys(LocalKeys):
    """Keys whose holder has OCSP answers too, by chain."""

    staples: dict[str, Staple] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    refused: ErrorCode | None = None

    async def staple(self, chain_pem: str, /) -> Staple:
        await asyncio.sleep(0)
        self.questions.append(chain_pem)
        if self.refused is not None:
            raise KeyServerError(self.refused)
        return self.staples.get(chain_pem, Staple(b"", 0, "its OCSP answer is being fetched"))


def chain(of: Responder, key: Key, *, name: str = "web", must_staple: bool = False) -> Certificate:
    return Certificate(name, chain=of.chain(of.leaf(key, must_staple=must_staple)))


def answer(of: Responder, web: Certificate, ends: float | None = None) -> Staple:
    leaf = x509.load_pem_x509_certificate(web.chain.encode())
    assert of.ends is not None
    return Staple(of.answer(leaf), int(of.ends.timestamp() if ends is None else ends), "")


def leaf_of(web: Certificate) -> bytes:
    return x509.load_pem_x509_certificate(web.chain.encode()).public_bytes(Encoding.DER)


def status(port: int, version: str, *options: str) -> str:
    """What `openssl s_client` tells of the stapled answer."""
    where = ["-connect", f"127.0.0.1:{port}", "-servername", "web.test"]
    done = subprocess.run(
        ["openssl", "s_client", *where, "-status", version, *options],
        input="", capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_clients_that_ask_get_the_answer(version: str, way: str, loop: str) -> None:
    async def main() -> None:
        of = Responder()
        web = chain(of, P256)
        keys = StapledKeys([P256], staples={web.chain: answer(of, web)})
        async with serving(keys, [web], way) as served:
            text = await asyncio.to_thread(status, served.port, version)
            assert STATUS in text
            assert "Cert Status: good" in text
            await asyncio.to_thread(get, served.port)
            assert (await served.settled())["stapled"] == 1, "a client that does not ask gets none"

    run(main(), loop)


def test_each_certificate_of_a_name_has_its_own() -> None:
    async def main() -> None:
        of = Responder()
        both = [chain(of, P256, name="ec"), chain(of, RSA, name="rsa")]
        keys = StapledKeys([P256, RSA], staples={each.chain: answer(of, each) for each in both})
        async with serving(keys, both) as served:
            for web, signatures in zip(both, ("ECDSA+SHA256", "RSA-PSS+SHA256"), strict=True):
                text = await asyncio.to_thread(status, served.port, "-tls1_3", "-sigalgs", signatures)
                leaf = x509.load_pem_x509_certificate(web.chain.encode())
                assert f"Serial Number: {leaf.serial_number:X}" in text.replace("Serial Number: 0", "Serial Number: ")

    run(main())


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_stale_answer_is_not_stapled(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        of = Responder()
        web = chain(of, P256)
        keys = StapledKeys([P256], staples={web.chain: answer(of, web)})
        async with serving(keys, [web]) as served:
            assert STATUS in await asyncio.to_thread(status, served.port, version)
            assert of.ends is not None
            served.tls._staples._clock = lambda: of.ends.timestamp()  # type: ignore[union-attr]
            assert NONE in await asyncio.to_thread(status, served.port, version)
            assert (await served.settled())["ok"] == 2

    run(main())


def test_answers_come_later_and_are_renewed_without_a_new_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        of = Responder()
        web = chain(of, P256)
        keys = StapledKeys([P256])
        async with serving(keys, [web]) as served:
            assert NONE in await asyncio.to_thread(status, served.port, "-tls1_3")
            monkeypatch.setattr(tls_ocsp, "ASK_SOON_S", 0.0)
            served.tls._staples._leaves.clear()
            fetching = "certificate 'web': no OCSP answer is stapled: its OCSP answer is being fetched"
            assert await served.tls.recheck() == [fetching]
            keys.staples[web.chain] = answer(of, web)
            assert await served.tls.recheck() == []
            assert STATUS in await asyncio.to_thread(status, served.port, "-tls1_3")
            asked = len(keys.questions)
            assert await served.tls.recheck() == []
            assert len(keys.questions) == asked, "not before a minute is over"
            served.tls._staples._leaves[leaf_of(web)].wait_s = 0.0
            keys.refused = ErrorCode.UNAVAILABLE
            assert await served.tls.recheck() == ["certificate 'web': no OCSP answer is renewed: unavailable"]
            assert STATUS in await asyncio.to_thread(status, served.port, "-tls1_3"), "the old one stays"

    run(main())


async def asking(keys: StapledKeys, web: Certificate) -> tuple[Staples, Credential]:
    keyless.load()
    return Staples(keys, lambda: 1000.0), read(web)


def test_what_is_missing_is_asked_for_less_and_less_often() -> None:
    async def main() -> None:
        web = chain(Responder(), P256)
        keys = StapledKeys([P256])
        staples, credential = await asking(keys, web)
        asked = []
        for second in range(200):
            before = len(keys.questions)
            await staples.ask([credential], 100.0 + second)
            if len(keys.questions) > before:
                asked.append(second)
        assert asked == [0, 2, 6, 14, 30, 62, 122, 182]
        keys.staples[web.chain] = Staple(b"x", 2000, "")
        await staples.ask([credential], 400.0)
        keys.staples.clear()
        staples._clock = lambda: 2000.0
        await staples.ask([credential], 460.0)
        await staples.ask([credential], 462.0)
        assert len(keys.questions) == len(asked) + 3, "as at the beginning"

    run(main())


@pytest.mark.parametrize(("given", "kept"), [(Staple(b"", 0, "away"), True), (Staple(b"", VOID, "revoked"), False)])
def test_an_answer_is_kept_unless_it_is_void(given: Staple, kept: bool) -> None:
    async def main() -> None:
        web = chain(Responder(), P256)
        keys = StapledKeys([P256], staples={web.chain: Staple(b"x", 2000, "")})
        staples, credential = await asking(keys, web)
        await staples.ask([credential], 100.0)
        assert staples.has(credential)
        keys.staples[web.chain] = given
        await staples.ask([credential], 160.0)
        assert staples.has(credential) is kept
        assert staples.why_not(credential) == given.why

    run(main())


def test_certificates_without_a_responder_are_not_asked_about() -> None:
    async def main() -> None:
        web = certificate(P256, ["web.test"])
        keys = StapledKeys([P256])
        async with serving(keys, [web]) as served:
            assert await served.tls.recheck() is None
            assert keys.questions == []
            assert NONE in await asyncio.to_thread(status, served.port, "-tls1_3")

    run(main())


def test_one_that_must_be_stapled_waits_for_its_answer() -> None:
    async def main() -> None:
        of = Responder()
        old, new = chain(of, P256), chain(of, P256, must_staple=True)
        keys = StapledKeys([P256], staples={old.chain: answer(of, old)})
        insist = "clients insist on a stapled OCSP answer, and there is none"
        async with serving(keys, [old]) as served:
            (problem,) = await served.tls.configure({"web": [new]})
            assert f"{insist} yet: its OCSP answer is being fetched; its predecessor stays in service" in problem
            assert STATUS in await asyncio.to_thread(status, served.port, "-tls1_3")
            keys.staples[new.chain] = answer(of, new)
            assert await served.tls.recheck() == []
            text = await asyncio.to_thread(status, served.port, "-tls1_3", "-showcerts")
            leaf = x509.load_pem_x509_certificate(new.chain.encode()).public_bytes(Encoding.PEM).decode()
            assert leaf in text
            assert STATUS in text
        async with serving(StapledKeys([P256]), [new]) as served:
            (problem,) = await served.tls.recheck() or []
            assert problem == f"certificate 'web': {insist}: its OCSP answer is being fetched"
            assert NONE in await asyncio.to_thread(status, served.port, "-tls1_3"), (
                "the first one is served all the same"
            )

    run(main())


def test_an_old_key_server_has_none() -> None:
    async def main() -> None:
        web = chain(Responder(), P256)
        async with serving(StapledKeys([P256], refused=ErrorCode.UNKNOWN_REQUEST), [web]) as served:
            (problem,) = await served.tls.recheck() or []
            assert "the key server is of a version that has none" in problem
            await asyncio.to_thread(get, served.port)

    run(main())


def test_handshakes_go_on_where_stapling_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        of = Responder()
        web = chain(of, P256)
        keys = StapledKeys([P256], staples={web.chain: answer(of, web)})
        async with serving(keys, [web]) as served:
            served.tls._staples._clock = lambda: 1 // 0
            assert NONE in await asyncio.to_thread(status, served.port, "-tls1_3")
            served.tls._staples._clock = time.time
            assert (await served.settled())["ok"] == 1
        assert "could not be stapled" in caplog.text

    run(main())


def test_a_python_whose_contexts_cannot_be_reached_goes_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        of = Responder()
        web = chain(of, P256)
        async with serving(StapledKeys([P256], staples={web.chain: answer(of, web)}), [web]) as served:
            assert NONE in await asyncio.to_thread(status, served.port, "-tls1_3")
        assert "are not stapled: contexts of this Python are laid out differently" in caplog.text

    tls_native._prove.cache_clear()
    monkeypatch.setattr(tls_native, "_behind_header", lambda context: 0)
    with pytest.raises(NativeUnavailable):
        tls_native._prove()
    run(main())
