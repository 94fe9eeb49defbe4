"""Client certificates by real handshakes: who is admitted, who is not, and that no session goes around it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy.tls_profile import Profile
from tests.proxy.client_certs import DAY, Authority, ClientCert
from tests.proxy.tls_support import LocalKeys, certificate, client_context, get, new_key, run, serving

KEY = new_key("P-256")
WEB = certificate(KEY, ["web.test"])
OURS, OTHERS = Authority(), Authority("Others")
BELOW = Authority("Below", above=OURS)
GOOD, BAD = OURS.issue("good"), OURS.issue("bad")
thread = asyncio.to_thread


def asking(bundle: str = OURS.pem, crl: str = "", required: bool = True) -> Profile:
    return Profile(authorities=bundle, revoked=crl, required=required)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize(
    ("profile", "client", "admitted"),
    [
        pytest.param(asking(), GOOD, True, id="good"),
        pytest.param(asking(), None, False, id="none"),
        pytest.param(asking(), OTHERS.issue("good"), False, id="of another authority"),
        pytest.param(asking(), OURS.issue("late", until=timedelta(hours=-1)), False, id="expired"),
        pytest.param(asking(), OURS.issue("server", usage=ExtendedKeyUsageOID.SERVER_AUTH), False, id="a server's"),
        pytest.param(asking(), Authority("good").issue("good"), False, id="of an authority that nobody knows"),
        pytest.param(asking(OURS.pem + OTHERS.pem), OTHERS.issue("x"), True, id="of the second authority"),
        pytest.param(asking(BELOW.pem), BELOW.issue("x"), True, id="of an authority without its root"),
        pytest.param(asking(BELOW.pem), GOOD, False, id="of the root of an authority"),
        pytest.param(asking(required=False), None, True, id="none, optional"),
        pytest.param(asking(required=False), GOOD, True, id="good, optional"),
        pytest.param(asking(required=False), OTHERS.issue("x"), False, id="of another authority, optional"),
        pytest.param(asking(crl=OURS.revoke(BAD)), GOOD, True, id="not revoked"),
        pytest.param(asking(crl=OURS.revoke(BAD)), BAD, False, id="revoked"),
        pytest.param(asking(crl=OURS.revoke(BAD), required=False), BAD, False, id="revoked, optional"),
        pytest.param(asking(crl=OURS.revoke(until=timedelta(hours=-1))), GOOD, False, id="the list has run out"),
        pytest.param(asking(OURS.pem + OTHERS.pem, OURS.revoke()), OTHERS.issue("x"), False, id="no list of theirs"),
    ],
)
def test_who_is_admitted(profile: Profile, client: ClientCert | None, admitted: bool, version: str, tmp_path) -> None:
    async def main() -> None:
        async with serving(LocalKeys([KEY]), [WEB], profile=profile) as served:
            context = client.context(tmp_path, version) if client else client_context(version)
            if admitted:
                assert f"TLSv{version}" in await thread(get, served.port, "web.test", context)
                assert await served.settled() == {"ok": 1}
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await thread(get, served.port, "web.test", context)
                assert await served.settled() == {"failed_client_certificate": 1}

    run(main())


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_clients_are_told_which_authorities_are_meant(version: str) -> None:
    async def main() -> None:
        async with serving(LocalKeys([KEY]), [WEB], profile=asking(OURS.pem + OTHERS.pem, required=False)) as served:
            process = await asyncio.create_subprocess_exec(
                "openssl", "s_client", "-connect", f"127.0.0.1:{served.port}", "-servername", "web.test", version,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            out, _ = await process.communicate()
            assert b"Acceptable client certificate CA names\nCN = Partners\nCN = Others\n" in out

    run(main())


def session(port: int, context: ssl.SSLContext, before: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
    """One exchange: the session that it leaves, and whether it was resumed."""
    raw = socket.create_connection(("127.0.0.1", port), 10)
    with context.wrap_socket(raw, server_hostname="web.test", session=before) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while tls.recv(65536):
            pass
        return tls.session, bool(tls.session_reused)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_no_ticket_is_given(version: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(LocalKeys([KEY]), [WEB], profile=asking()) as served:
            made, _ = await thread(session, served.port, GOOD.context(tmp_path, version), None)
            assert made is None or not made.has_ticket

    run(main())


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize(
    "then", [asking(crl=OURS.revoke(GOOD)), asking(OTHERS.pem)], ids=["revoked", "other authorities"]
)
def test_no_session_outlives_what_admitted_it(then: Profile, version: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(LocalKeys([KEY]), [WEB], profile=asking()) as served:
            context = GOOD.context(tmp_path, version)
            made, _ = await thread(session, served.port, context, None)
            assert await served.tls.configure({"web": [WEB]}, {"web": then}) == []
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await thread(session, served.port, context, made)

    run(main())


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_session_of_a_listener_that_does_not_ask_is_none_here(version: str) -> None:
    """As in CVE-2025-23419: there, tickets of one virtual server were taken by another."""

    async def main() -> None:
        async with serving(LocalKeys([KEY]), [WEB]) as served:
            context = client_context(version)
            made, _ = await thread(session, served.port, context, None)
            assert (await thread(session, served.port, context, made))[1]
            assert await served.tls.configure({"web": [WEB]}, {"web": asking()}) == []
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await thread(session, served.port, context, made)
            assert (await served.settled())["failed_client_certificate"] == 1

    run(main())


def test_authorities_that_are_none_admit_nobody_new(tmp_path: Path) -> None:
    """Those of before stay; a listener that asked nobody asks nobody in vain: it serves nobody."""

    async def main() -> None:
        async with serving(LocalKeys([KEY]), [WEB]) as served:
            (problem,) = await served.tls.configure({"web": [WEB]}, {"web": asking("no PEM")})
            assert problem.startswith("listener 'web': OpenSSL does not take its authorities: ")
            assert problem.endswith("; every client is refused")
            for context in (client_context(), GOOD.context(tmp_path)):
                with pytest.raises(ssl.SSLError):
                    await thread(get, served.port, "web.test", context)
            assert await served.settled() == {"failed_no_certificate": 2}

            assert await served.tls.configure({"web": [WEB]}, {"web": asking()}) == []
            (problem,) = await served.tls.configure({"web": [WEB]}, {"web": asking("no PEM")})
            assert problem.endswith("; clients are asked as before")
            assert "TLSv1.3" in await thread(get, served.port, "web.test", GOOD.context(tmp_path))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await thread(get, served.port)

    run(main())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Profile(), Profile(), True),
        (Profile(), Profile(required=False), True),  # nobody is asked
        (asking(), asking(), True),
        (asking(), Profile(), False),
        (asking(), asking(required=False), False),
        (asking(), asking(crl=OURS.revoke()), False),
        (asking(), asking(OTHERS.pem), False),
    ],
)
def test_which_profiles_admit_the_same_clients(one: Profile, other: Profile, same: bool) -> None:
    assert one.admits_as(other) is same
    assert other.admits_as(one) is same


def test_certificates_are_read_when_they_are_too_long(tmp_path: Path) -> None:
    """OpenSSL takes them; what is passed on is another matter (`proxy.client_identity`)."""

    async def main() -> None:
        long = OURS.issue("x" * 60, until=DAY, names=[f"{n}.{'x' * 60}.test" for n in range(90)])
        assert len(long.der) > 4096
        async with serving(LocalKeys([KEY]), [WEB], profile=asking()) as served:
            assert "TLSv1.3" in await thread(get, served.port, "web.test", long.context(tmp_path))

    run(main())
