"""Each TLS policy at its edges, by real handshakes: what it takes, what it refuses, who chooses."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from core.model import TlsPolicy
from proxy.tls_profile import Profile, new_context
from tests.proxy.tls_support import LocalKeys, certificate, client_context, get, new_key, run, s_client, serving

P256, RSA = new_key("P-256"), new_key("RSA")
WEB = {"EC": (P256, certificate(P256, ["web.test"])), "RSA": (RSA, certificate(RSA, ["web.test"]))}
AEAD = {
    f"ECDHE-{signature}-{cipher}"
    for signature in ("ECDSA", "RSA")
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
}
CBC = {
    f"ECDHE-{signature}-{cipher}"
    for signature in ("ECDSA", "RSA")
    for cipher in ("AES128-SHA", "AES256-SHA", "AES128-SHA256", "AES256-SHA384")
}
OLD, STRICT, MODERN, NEW = TlsPolicy


@pytest.mark.parametrize(
    ("policy", "suites", "modern"),
    [(OLD, AEAD | CBC, False), (STRICT, AEAD, False), (MODERN, AEAD, True), (NEW, set(), True)],
)
def test_suites_are_the_policys(policy, suites, modern) -> None:
    """RFC 9325 §4.2: no RSA key exchange, finite-field DH, PSK or anonymous suite anywhere; CBC in tls_1_2 alone."""
    context = new_context(Profile(policy))
    ciphers = context.get_ciphers()
    older = {each["name"] for each in ciphers if each["protocol"] != "TLSv1.3"}
    assert (older if context.minimum_version == ssl.TLSVersion.TLSv1_2 else set()) == suites
    assert (context.maximum_version == ssl.TLSVersion.TLSv1_3) == modern
    assert {each["kea"] for each in ciphers} == {"kx-ecdhe", "kx-any"}
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


V1_0, V1_1, V1_2, V1_3 = (("-tls1",), ("-tls1_1",), ("-tls1_2",), ("-tls1_3",))
ALL = ("-cipher", "ALL:COMPLEMENTOFALL:@SECLEVEL=0")


def only(suite: str) -> tuple[str, ...]:
    return ("-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0")


@pytest.mark.parametrize(
    ("policy", "key", "client", "outcome"),
    [
        (OLD, "RSA", (*V1_0, *ALL), "version"),
        (OLD, "RSA", (*V1_1, *ALL), "version"),
        (OLD, "EC", V1_2, "TLSv1.2"),
        (OLD, "EC", V1_3, "version"),
        (OLD, "RSA", only("ECDHE-RSA-AES128-SHA"), "ECDHE-RSA-AES128-SHA"),
        (OLD, "EC", only("ECDHE-ECDSA-AES256-SHA384"), "ECDHE-ECDSA-AES256-SHA384"),
        (OLD, "RSA", only("AES128-GCM-SHA256"), "no_overlap"),
        (OLD, "RSA", only("DHE-RSA-AES128-GCM-SHA256"), "no_overlap"),
        (OLD, "EC", only("ECDHE-ECDSA-AES128-CCM"), "no_overlap"),
        (OLD, "RSA", only("ECDHE-RSA-NULL-SHA"), "no_overlap"),
        (STRICT, "RSA", (*V1_1, *ALL), "version"),
        (STRICT, "EC", V1_2, "TLSv1.2"),
        (STRICT, "EC", V1_3, "version"),
        (STRICT, "RSA", only("ECDHE-RSA-AES128-SHA"), "no_overlap"),
        (STRICT, "RSA", only("ECDHE-RSA-AES128-GCM-SHA256"), "ECDHE-RSA-AES128-GCM-SHA256"),
        (MODERN, "RSA", (*V1_1, *ALL), "version"),
        (MODERN, "EC", V1_2, "TLSv1.2"),
        (MODERN, "EC", V1_3, "TLSv1.3"),
        (MODERN, "EC", (), "TLSv1.3"),
        (MODERN, "RSA", only("ECDHE-RSA-AES256-SHA384"), "no_overlap"),
        # In TLS 1.2 a client's groups have to allow an ECDSA certificate's curve too: hence RSA.
        *((MODERN, "RSA", (*V1_2, "-groups", group), "TLSv1.2") for group in ("X25519", "P-256", "P-384")),
        *((MODERN, "RSA", (*V1_3, "-groups", group), "TLSv1.3") for group in ("X25519", "P-256", "P-384")),
        *((MODERN, "RSA", (*V1_2, "-groups", group), "no_overlap") for group in ("X448", "P-521")),
        *((MODERN, "RSA", (*V1_3, "-groups", group), "no_overlap") for group in ("X448", "P-521")),
        (NEW, "RSA", (*V1_2, *ALL), "version"),
        (NEW, "RSA", V1_3, "TLSv1.3"),
        (NEW, "EC", ("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"), "no_overlap"),
    ],
)
def test_what_a_client_gets(policy, key, client, outcome) -> None:
    async def main() -> None:
        held, web = WEB[key]
        async with serving(LocalKeys([held]), [web], profile=Profile(policy)) as served:
            out = await s_client(served.port, *client)
            if outcome in ("version", "no_overlap"):
                assert "alert" in out, out
                assert await served.settled() == {f"failed_{outcome}": 1}
            else:
                assert f"Protocol version: {outcome}\n" in out or f"Ciphersuite: {outcome}\n" in out, out
                assert await served.settled() == {"ok": 1}

    run(main())


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [(OLD, "ECDHE-ECDSA-AES256-GCM-SHA384"), (STRICT, "ECDHE-ECDSA-AES128-GCM-SHA256")],
)
def test_who_chooses_the_suite(policy, chosen) -> None:
    """Where weaker suites are offered too, a client that puts them first does not get them."""

    async def main() -> None:
        async with serving(LocalKeys([P256]), [WEB["EC"][1]], profile=Profile(policy)) as served:
            wishes = "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
            assert f"Ciphersuite: {chosen}\n" in await s_client(served.port, *only(wishes))

    run(main())


def test_a_policy_changes_in_place_and_both_contexts_with_it() -> None:
    """The version is decided by the base context, suites by the one that SNI selects."""

    async def main() -> None:
        web = WEB["EC"][1]
        async with serving(LocalKeys([P256]), [web]) as served:
            assert "TLSv1.3" in await s_client(served.port)
            assert await served.tls.configure({"web": [web]}, {"web": Profile(OLD)}) == []
            assert "TLSv1.2" in await s_client(served.port)
            assert "Ciphersuite: ECDHE-ECDSA-AES128-SHA\n" in await s_client(
                served.port, *only("ECDHE-ECDSA-AES128-SHA")
            )
            assert await served.tls.recheck() is None
            assert await served.tls.configure({"web": [web]}, {"web": Profile(NEW)}) == []
            assert "alert" in await s_client(served.port, "-tls1_2")

    run(main())


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], ""), (["http/1.0", "x"], ""), ([], "")],
)
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_the_protocol_that_alpn_agrees_on(offered: list[str], chosen: str, version: str) -> None:
    """A client that offers others alone is told of none, and may speak HTTP/1.1."""

    async def main() -> None:
        async with serving(LocalKeys([P256]), [WEB["EC"][1]]) as served:
            context = client_context(version)
            context.set_alpn_protocols(offered)
            assert f" alpn={chosen} " in await asyncio.to_thread(get, served.port, "web.test", context)

    run(main())


@pytest.mark.parametrize("policy", TlsPolicy)
def test_nothing_is_compressed_and_nothing_comes_early(policy: TlsPolicy) -> None:
    async def main() -> None:
        async with serving(LocalKeys([P256]), [WEB["EC"][1]], profile=Profile(policy)) as served:
            process = await asyncio.create_subprocess_exec(
                "openssl", "s_client", "-connect", f"127.0.0.1:{served.port}", "-comp", "-ign_eof",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            out, _ = await process.communicate(b"GET / HTTP/1.1\r\n\r\n")
            assert b"\nCompression: NONE\n" in out
            early = [line.strip() for line in out.splitlines() if b"Max Early Data" in line]
            assert early == ([b"Max Early Data: 0"] if policy in (MODERN, NEW) else [])

    run(main())
