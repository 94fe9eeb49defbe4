"""The whole of keyless TLS against real clients, with the keys held by the test."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable

import greenlet
import pytest

from core.model import Certificate
from proxy.tls import TlsServer
from proxy.tls_failures import Failure
from proxy.tls_handshake import Handshake
from proxy.tls_stream import TlsStream
from proxy.tls_waiting import GreenletWaiting
from tests.proxy.tls_support import (
    LOOPS,
    WAYS,
    LocalKeys,
    certificate,
    client_context,
    get,
    new_key,
    run,
    s_client,
    serving,
    subject,
)

P256, P384, RSA, ED = (new_key(kind) for kind in ("P-256", "P-384", "RSA", "ED25519"))
Blocking = Callable[..., Awaitable[str]]
thread = asyncio.to_thread


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("key", "version", "schemes"),
    [
        pytest.param(P256, "1.2", {0x0403}, id="P-256 1.2"),
        pytest.param(P256, "1.3", {0x0403}, id="P-256 1.3"),
        pytest.param(P384, "1.2", {0x0403, 0x0503}, id="P-384 1.2"),
        pytest.param(P384, "1.3", {0x0503}, id="P-384 1.3"),
        pytest.param(RSA, "1.2", {0x0804}, id="RSA 1.2"),
        pytest.param(RSA, "1.3", {0x0804}, id="RSA 1.3"),
        pytest.param(ED, "1.2", {0x0807}, id="Ed25519 1.2"),
        pytest.param(ED, "1.3", {0x0807}, id="Ed25519 1.3"),
    ],
)
def test_every_kind_of_key_serves_verifying_clients(key, version, schemes, way, loop) -> None:
    async def main() -> None:
        web = certificate(key, ["web.test"])
        async with serving(LocalKeys([key]), [web], way) as served:
            context = client_context(version, trust=web.chain)
            bodies = await asyncio.gather(*(thread(get, served.port, "web.test", context) for _ in range(8)))
            assert {body.split()[0] for body in bodies} == {f"TLSv{version}"}
            assert all("sni=web.test alpn=http/1.1 " in body for body in bodies)
            assert set(served.keys.schemes) <= schemes
            assert set(served.keys.names) == {"web.test"}
            assert await served.settled() == {"ok": 8}

    run(main(), loop)


def test_a_client_without_pss_gets_pkcs1() -> None:
    async def main() -> None:
        web = certificate(RSA, ["web.test"])
        async with serving(LocalKeys([RSA]), [web]) as served:
            await s_client(served.port, "-tls1_2", "-sigalgs", "RSA+SHA384")
            assert served.keys.schemes == [0x0501]

    run(main())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", [P256, P384, RSA], ids=["P-256", "P-384", "RSA"])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_openssl_and_curl_are_served(key, version, way) -> None:
    assert shutil.which("openssl")
    assert shutil.which("curl")

    async def main() -> None:
        async with serving(LocalKeys([key]), [certificate(key, ["web.test"])], way) as served:
            out = await s_client(served.port, "-tls" + version.replace(".", "_"))
            assert f"Protocol version: TLSv{version}" in out
            process = await asyncio.create_subprocess_exec(
                "curl", "-sk", f"--tlsv{version}", "--tls-max", version,
                "--resolve", f"web.test:{served.port}:127.0.0.1", f"https://web.test:{served.port}/",
                stdout=subprocess.PIPE,
            )  # fmt: skip
            body, _ = await process.communicate()
            assert process.returncode == 0
            assert body.startswith(f"TLSv{version} sni=web.test".encode())

    run(main())


@pytest.mark.parametrize(
    ("key", "cipher", "served"),
    [
        (RSA, "ECDHE-RSA-CHACHA20-POLY1305", True),
        (RSA, "AES256-GCM-SHA384", False),  # RSA key exchange: no forward secrecy, and the key server does not decrypt
        (RSA, "ECDHE-RSA-AES256-SHA384", False),  # CBC
        (RSA, "ECDHE-RSA-AES256-SHA", False),
        (RSA, "DHE-RSA-AES256-GCM-SHA384", False),
        (P256, "ECDHE-ECDSA-AES256-GCM-SHA384", True),
        (P256, "ECDHE-ECDSA-AES256-CCM", False),
        (P256, "AECDH-AES256-SHA", False),
    ],
)
def test_weak_suites_of_tls_1_2_are_not_negotiated(key, cipher, served) -> None:
    async def main() -> None:
        async with serving(LocalKeys([key]), [certificate(key, ["web.test"])]) as tls:
            out = await s_client(tls.port, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
            assert (f"Ciphersuite: {cipher}" in out) == served, out
            assert await tls.settled() == ({"ok": 1} if served else {"failed_no_overlap": 1})

    run(main())


def test_names_choose_certificates() -> None:
    async def main() -> None:
        keys = [P256, P384, RSA]
        chains = [
            certificate(P256, ["first.test"], "first"),
            certificate(P384, ["exact.wild.test"], "exact"),
            certificate(P256, ["*.wild.test"], "wild"),
        ]
        async with serving(LocalKeys(keys), chains) as served:
            for name, shown in [
                ("first.test", "first.test"),
                ("FIRST.test", "first.test"),
                ("exact.wild.test", "exact.wild.test"),
                ("other.wild.test", "*.wild.test"),
                ("deep.other.wild.test", "first.test"),
                ("wild.test", "first.test"),
                ("unknown.test", "first.test"),
                (None, "first.test"),
            ]:
                assert await thread(subject, served.port, name) == shown, name

    run(main())


def test_a_name_with_two_key_types_suits_both_kinds_of_client() -> None:
    async def main() -> None:
        chains = [certificate(P256, ["web.test"], "new"), certificate(RSA, ["web.test"], "old")]
        async with serving(LocalKeys([P256, RSA]), chains) as served:
            for ciphers, signs in [("ECDHE-ECDSA-AES128-GCM-SHA256", 0x0403), ("ECDHE-RSA-AES128-GCM-SHA256", 0x0804)]:
                context = client_context("1.2")
                context.set_ciphers(ciphers)
                assert ciphers in await thread(get, served.port, "web.test", context)
                assert served.keys.schemes[-1] == signs

    run(main())


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_sessions_are_resumed_across_a_change_of_certificates(version) -> None:
    def session_of(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession, bool]:
        raw = socket.create_connection(("127.0.0.1", port), 10)
        with context.wrap_socket(raw, server_hostname="web.test", session=session) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while tls.recv(65536):
                pass
            assert tls.session is not None
            return tls.session, bool(tls.session_reused)

    async def main() -> None:
        first, second = (certificate(P256, ["web.test"]) for _ in range(2))
        async with serving(LocalKeys([P256]), [first]) as served:
            context = client_context(version)
            session, reused = await thread(session_of, served.port, context, None)
            assert not reused
            await served.tls.configure({"web": [second]})
            _, reused = await thread(session_of, served.port, context, session)
            assert reused
            assert len(served.keys.schemes) == 1

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_replacing_certificates_loses_no_handshake(way) -> None:
    async def main() -> None:
        chains = [certificate(key, ["web.test"]) for key in (P256, RSA, P384)]
        async with serving(LocalKeys([P256, RSA, P384]), [chains[0]], way) as served:
            clients = [asyncio.create_task(thread(get, served.port)) for _ in range(60)]
            for turn in range(30):
                assert await served.tls.configure({"web": [chains[turn % 3]]}) == []
                await asyncio.sleep(0.002)
            bodies = await asyncio.gather(*clients)
            assert len(bodies) == 60
            assert await served.settled() == {"ok": 60}

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_handshake_keeps_the_certificate_that_it_began_with(way) -> None:
    async def main() -> None:
        old, new = certificate(P256, ["old.test"]), certificate(P256, ["new.test"])
        async with serving(LocalKeys([P256], silent=True), [old], way) as served:
            client = asyncio.create_task(thread(subject, served.port, "web.test"))
            while not served.keys.asked:
                await asyncio.sleep(0.005)
            assert await served.tls.configure({"web": [new]}) == []
            served.keys.asked.pop()()
            assert await client == "old.test"
            served.keys.silent = False
            assert await thread(subject, served.port, "web.test") == "new.test"

    run(main())


def test_whoever_waited_when_a_listener_was_removed_is_served() -> None:
    """Its sockets close a moment later, and what is in their queues then is accepted."""

    async def main() -> None:
        async with serving(LocalKeys([P256]), [certificate(P256, ["web.test"])]) as served:
            assert await served.tls.configure({}) == []
            assert "TLSv1.3" in await thread(get, served.port)

    run(main())


def test_a_bad_certificate_keeps_its_predecessor() -> None:
    async def main() -> None:
        good = certificate(P256, ["good.test"])
        async with serving(LocalKeys([P256]), [good]) as served:
            served.keys.problems = ["expired yesterday"]
            problems = await served.tls.configure({"web": [certificate(P256, ["bad.test"])]})
            assert problems == ["certificate 'web': expired yesterday; its predecessor stays in service"]
            assert await thread(subject, served.port, None) == "good.test"
            for chain, why in [("", "no chain of PEM certificates"), ("-----BEGIN PRIVATE KEY-----", "a private key")]:
                (problem,) = await served.tls.configure({"web": [Certificate("web", chain=chain)]})
                assert why in problem
            assert await thread(subject, served.port, None) == "good.test"
            problems = await served.tls.configure({"web": [Certificate("other", chain="?")]})
            assert len(problems) == 2
            assert "'other'" in problems[0]
            assert problems[1] == "listener 'web': no certificate can be served"
            with pytest.raises(ssl.SSLError):
                await thread(get, served.port)
            assert (await served.settled())["failed_no_certificate"] == 1

    run(main())


def test_a_node_starts_without_its_key_server() -> None:
    async def main() -> None:
        keys = LocalKeys([P256], fails=True)
        tls = TlsServer(keys)
        web = certificate(P256, ["web.test"])
        (problem,) = await tls.configure({"web": [web]})
        assert "could not be checked" in problem
        assert problem.endswith("it is served unchecked")
        assert await tls.configure({"web": [web]}) == [problem]
        keys.problems = ["no key is held for it"]
        keys.fails = False
        (objection,) = await tls.configure({"web": [web]})
        assert objection == "certificate 'web': no key is held for it; it is served all the same"
        keys.problems = ()
        assert await tls.configure({"web": [web]}) == []
        keys.fails = True
        assert await tls.configure({"web": [web]}) == []  # has been checked
        await tls.close()

    run(main())


def test_what_a_key_server_has_not_seen_or_objects_to_is_judged_again() -> None:
    """Without a new configuration: its key server comes up, or has been given the key in the meantime."""

    async def main() -> None:
        keys = LocalKeys([P256, P384], fails=True)
        async with serving(keys, [certificate(P256, ["web.test"])]) as served:
            (problem,) = await served.tls.recheck()
            assert "could not be checked" in problem
            keys.fails = False
            assert await served.tls.recheck() == []
            assert await served.tls.recheck() is None

            keys.problems = ["no key is held for it"]
            (problem,) = await served.tls.configure({"web": [certificate(P384, ["new.test"])]})
            assert problem == "certificate 'web': no key is held for it; its predecessor stays in service"
            assert await served.tls.recheck() == [problem]
            assert await thread(subject, served.port, None) == "web.test"
            keys.problems = ()
            assert await served.tls.recheck() == []
            assert await thread(subject, served.port, None) == "new.test"

            assert len(await served.tls.configure({"web": [Certificate("web", chain="?")]})) == 1
            assert await served.tls.recheck() is None  # no time heals that

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_without_a_key_server_handshakes_fail_with_an_alert_and_recover(way) -> None:
    async def main() -> None:
        async with serving(LocalKeys([P256]), [certificate(P256, ["web.test"])], way) as served:
            assert "TLSv1.3" in await thread(get, served.port)
            served.keys.fails = True
            for _ in range(3):
                with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
                    await thread(get, served.port)
            served.keys.fails = False
            assert "TLSv1.3" in await thread(get, served.port)
            assert await served.settled() == {"ok": 2, "failed_keyserver": 3}

    run(main())


def over(kind: type) -> list[object]:
    """All there are, garbage that has not been collected included."""
    return [each for each in gc.get_objects() if type(each) is kind]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("way", WAYS)
def test_connections_that_are_over_need_no_collection(way, version) -> None:
    """Workers collect seldom (worker_main), and OpenSSL holds 34 KiB for each. A stack keeps the last one it had."""

    async def main() -> None:
        async with serving(LocalKeys([P256]), [certificate(P256, ["web.test"])], way) as served:
            gc.collect()
            gc.disable()
            try:
                for _ in range(12):
                    await thread(get, served.port, "web.test", client_context(version))
                assert await served.settled() == {"ok": 12}
                deadline = asyncio.get_running_loop().time() + 20
                while max(len(over(Handshake)), len(over(TlsStream))) > 4:
                    assert asyncio.get_running_loop().time() < deadline
                    await asyncio.sleep(0.02)
            finally:
                gc.enable()

    run(main())


def waiting_stacks() -> int:
    """Greenlets that wait for the key server: started, not ended, and in no pool of idle ones."""
    gc.collect()
    objects = gc.get_objects()
    idle = sum(len(each._idle) for each in objects if isinstance(each, GreenletWaiting))
    alive = sum(isinstance(each, greenlet.greenlet) and bool(each) and each.parent is not None for each in objects)
    return alive - idle


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["client vanishes", "deadline", "server closes"])
def test_abandoned_handshakes_leave_nothing(way, end) -> None:
    async def main() -> None:
        keys = LocalKeys([P256], silent=True)
        timeout_s = 0.3 if end == "deadline" else 10.0
        before = waiting_stacks()
        async with serving(keys, [certificate(P256, ["web.test"])], way, handshake_timeout_s=timeout_s) as served:
            hello = client_hello()
            sockets = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(8)]
            for each in sockets:
                each.sendall(hello)
            while len(keys.asked) < 8:
                await asyncio.sleep(0.005)
            if way == "greenlet":
                assert waiting_stacks() == before + 8
            if end == "client vanishes":
                for each in sockets:
                    each.close()
            elif end == "server closes":
                await served.tls.close()
            expected = "failed_timeout" if end == "deadline" else "failed_closed"
            assert await served.settled() == {expected: 8}
            for answer in keys.asked:  # replies that come after all
                answer()
            await asyncio.sleep(0.02)
            assert waiting_stacks() == before
            if end != "server closes":
                keys.silent = False
                assert "TLSv1.3" in await thread(get, served.port)
            for each in sockets:
                each.close()

    run(main())


def client_hello(name: str = "web.test") -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("sent", "failure", "answer"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Failure.PLAIN_HTTP, b"HTTP/1.1 400 Bad Request", id="http"),
        pytest.param(b"\x00\xff" * 500, Failure.NOT_TLS, b"", id="garbage"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", Failure.NOT_TLS, b"", id="ssh"),
        pytest.param(client_hello()[:20], Failure.CLOSED, b"", id="half a hello"),
        pytest.param(b"", Failure.CLOSED, b"", id="nothing"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x28", Failure.NOT_TLS, b"", id="an alert first"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_handshake_is_counted_and_closed(sent, failure, answer, way) -> None:
    def talk(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            received = b""
            while part := raw.recv(65536):
                received += part
            return received

    async def main() -> None:
        async with serving(LocalKeys([P256]), [certificate(P256, ["web.test"])], way) as served:
            assert (await thread(talk, served.port)).startswith(answer)
            assert await served.settled() == {f"failed_{failure}": 1}

    run(main())


@pytest.mark.parametrize("name", [b"w\xffb.te\xe9t", b"web\0test"])
def test_names_that_are_none_fail_the_handshake_and_print_nothing(name, capfd) -> None:
    def talk(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(client_hello().replace(b"web.test", name))
            return raw.recv(100)

    async def main() -> None:
        async with serving(LocalKeys([P256]), [certificate(P256, ["web.test"])]) as served:
            assert (await thread(talk, served.port)).startswith(b"\x15\x03\x03\x00\x02\x02")  # a fatal alert
            assert await served.settled() == {"failed_other": 1}

    run(main())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_that_does_not_trust_us_is_counted(version) -> None:
    async def main() -> None:
        async with serving(LocalKeys([P256]), [certificate(P256, ["web.test"])]) as served:
            context = client_context(version, trust=certificate(P384, ["web.test"]).chain)
            with pytest.raises(ssl.SSLCertVerificationError):
                await thread(get, served.port, "web.test", context)
            assert await served.settled() == {"failed_alert": 1}

    run(main())


def test_one_byte_at_a_time() -> None:
    async def main() -> None:
        async with serving(LocalKeys([P256]), [certificate(P256, ["web.test"])]) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client_context().wrap_bio(incoming, outgoing, server_hostname="web.test")
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    for byte in outgoing.read():
                        writer.write(bytes([byte]))
                        await asyncio.sleep(0)
                    incoming.write(await reader.read(65536))
            tls.write(b"GET / HTTP/1.1\r\n\r\n")
            for byte in outgoing.read():
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            incoming.write(await reader.read(-1))
            assert tls.read(65536).startswith(b"HTTP/1.1 200")
            writer.close()

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_floods_its_handshake_is_cut(way) -> None:
    async def main() -> None:
        keys = LocalKeys([P256], silent=True)
        async with serving(keys, [certificate(P256, ["web.test"])], way) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(client_hello())
            while not keys.asked:
                await asyncio.sleep(0.005)
            writer.write(bytes(200_000))
            assert await served.settled() == {"failed_not_tls": 1}
            writer.close()
            del reader

    run(main())


def test_too_many_handshakes_are_refused_and_counted() -> None:
    async def main() -> None:
        keys = LocalKeys([P256], silent=True)
        async with serving(keys, [certificate(P256, ["web.test"])], max_handshakes=3) as served:
            clients = [asyncio.create_task(thread(get, served.port)) for _ in range(3)]
            while len(keys.asked) < 3:
                await asyncio.sleep(0.005)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await thread(get, served.port)
            keys.silent = False
            for answer in keys.asked:
                answer()
            assert len(await asyncio.gather(*clients)) == 3
            assert await served.settled() == {"ok": 3, "failed_refused": 1}

    run(main())


@pytest.mark.parametrize(
    ("minimum", "maximum", "failure"),
    [("TLSv1", "TLSv1_1", Failure.VERSION), ("TLSv1_2", "TLSv1_2", Failure.NO_OVERLAP)],
)
def test_old_clients_are_refused_with_a_reason(minimum, maximum, failure) -> None:
    async def main() -> None:
        async with serving(LocalKeys([P256]), [certificate(P256, ["web.test"])]) as served:
            out = await s_client(
                served.port,
                *(("-tls1_1",) if maximum == "TLSv1_1" else ("-tls1_2",)),
                "-cipher",
                "DHE-RSA-AES256-SHA:AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0",
            )
            assert "alert" in out
            assert await served.settled() == {f"failed_{failure}": 1}

    run(main())


def test_renegotiation_is_off() -> None:
    async def main() -> None:
        async with serving(LocalKeys([P256]), [certificate(P256, ["web.test"])]) as served:
            process = await asyncio.create_subprocess_exec(
                "openssl", "s_client", "-connect", f"127.0.0.1:{served.port}", "-tls1_2",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            out, _ = await process.communicate(b"R\n")
            assert b"RENEGOTIATING" in out
            assert b"no renegotiation" in out
            assert len(served.keys.schemes) == 1

    run(main())


def test_two_servers_in_one_process_ask_their_own_key_holders() -> None:
    async def main() -> None:
        one, two = LocalKeys([P256]), LocalKeys([P256])
        web = certificate(P256, ["web.test"])
        async with serving(one, [web]) as first, serving(two, [web], "threads") as second:
            await asyncio.gather(*(thread(get, each.port) for each in (first, second, second)))
            assert (len(one.schemes), len(two.schemes)) == (1, 2)

    run(main())
