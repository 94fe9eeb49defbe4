"""The certificates that prove names to an ACME CA, and the server that shows them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from control.node.tasks import Tasks
from keyserver import acme_tls
from keyserver.acme import listen
from keyserver.acme_tls import Challenges, certificate


def test_a_certificate_as_the_rfc_has_it() -> None:
    """RFC 8737 §3: one name, the identifier critical, a digest of the key authorization in an octet string."""
    chain, key = certificate("shop.test", "token.thumb")
    made = x509.load_pem_x509_certificate(chain)
    made.verify_directly_issued_by(made)
    assert load_pem_private_key(key, None).public_key() == made.public_key()
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("shop.test")]
    extension = made.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
    assert extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == b"\x04\x20" + hashlib.sha256(b"token.thumb").digest()
    assert certificate("shop.test", "token.thumb")[1] != key, "a key for each challenge"


@pytest.fixture
async def challenges() -> AsyncIterator[tuple[Challenges, int]]:
    sock, tasks, failures = listen("127.0.0.1", 0), Tasks(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    served = Challenges(most=2)
    tasks.spawn(served.serve(sock), "challenges")
    yield served, sock.getsockname()[1]
    await tasks.close()
    sock.close()
    assert not failures


def shown(port: int, name: str | None, *protocols: str, version: str = "TLSv1_3") -> tuple[list[str], str | None]:
    """The names of the certificate that a client is shown, and the protocol that was agreed on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion[version]
    context.set_alpn_protocols(protocols)
    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        context.wrap_socket(raw, server_hostname=name) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
        assert tls.recv(1) == b"", "nothing is said"
        assert der is not None
        found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return found.value.get_values_for_type(x509.DNSName), tls.selected_alpn_protocol()


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_each_name_has_its_own_certificate(challenges: tuple[Challenges, int], version: str) -> None:
    served, port = challenges
    served.prove("a.test", "1")
    served.prove("B.test", "2")
    for name in ("a.test", "b.test"):
        (names, agreed) = await asyncio.to_thread(shown, port, name, "acme-tls/1", version=version)
        assert [each.lower() for each in names] == [name]
        assert agreed == "acme-tls/1"


async def test_who_asks_for_anything_else_is_shown_nothing(challenges: tuple[Challenges, int]) -> None:
    served, port = challenges
    served.prove("a.test", "1")
    for name in ("c.test", None):
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(shown, port, name, "acme-tls/1")
    served.clear()
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(shown, port, "a.test", "acme-tls/1")


async def test_a_handful_at_a_time_and_nobody_for_long(
    challenges: tuple[Challenges, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme_tls, "HANDSHAKE_S", 0.5)
    served, port = challenges
    served.prove("a.test", "1")
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    nonsense = await asyncio.open_connection("127.0.0.1", port)
    nonsense[1].write(b"GET / HTTP/1.1\r\n\r\n")
    # whoever comes after them waits until the silent ones are cut
    assert await asyncio.to_thread(shown, port, "a.test", "acme-tls/1") == (["a.test"], "acme-tls/1")
    assert any(reader.at_eof() or reader.exception() for reader, _ in silent)
    for reader, writer in [*silent, nonsense]:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
        writer.close()
    async with asyncio.timeout(10):
        while not served._places._value:
            await asyncio.sleep(0.01)
