"""The provider: what it signs, what it refuses, and that a process which uses it ends cleanly."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxy import keyless
from proxy.keyless import PKCS1, PSS, SALT_IS_DIGEST, parse_reference, reference_pem, scheme_of
from tests.proxy.tls_support import certificate, client_context, key_id, new_key, sign, spki

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("operation", "scheme"),
    [
        ((b"EC", "SHA2-256", PKCS1, SALT_IS_DIGEST), 0x0403),
        ((b"EC", "SHA256", PKCS1, SALT_IS_DIGEST), 0x0403),
        ((b"EC", "SHA2-384", PKCS1, SALT_IS_DIGEST), 0x0503),
        ((b"EC", "SHA2-512", PKCS1, SALT_IS_DIGEST), 0x0603),
        ((b"RSA", "SHA2-256", PKCS1, SALT_IS_DIGEST), 0x0401),
        ((b"RSA", "SHA2-384", PKCS1, SALT_IS_DIGEST), 0x0501),
        ((b"RSA", "SHA2-512", PKCS1, SALT_IS_DIGEST), 0x0601),
        ((b"RSA", "SHA2-256", PSS, SALT_IS_DIGEST), 0x0804),
        ((b"RSA", "SHA2-256", PSS, 32), 0x0804),
        ((b"RSA", "SHA2-384", PSS, 48), 0x0805),
        ((b"RSA", "SHA2-512", PSS, SALT_IS_DIGEST), 0x0806),
        ((b"ED25519", "", PKCS1, SALT_IS_DIGEST), 0x0807),
        ((b"RSA", "SHA2-256", PSS, 20), None),
        ((b"RSA", "SHA2-256", PSS, -2), None),  # the longest that fits
        ((b"RSA", "SHA2-256", 3, SALT_IS_DIGEST), None),  # no padding: a raw oracle
        ((b"RSA", "", PKCS1, SALT_IS_DIGEST), None),  # content that is not hashed
        ((b"RSA", "SHA1", PKCS1, SALT_IS_DIGEST), None),
        ((b"EC", "SHA1", PKCS1, SALT_IS_DIGEST), None),
        ((b"EC", "SHA2-256", PSS, SALT_IS_DIGEST), None),
        ((b"ED25519", "SHA2-256", PKCS1, SALT_IS_DIGEST), None),
        ((b"DSA", "SHA2-256", PKCS1, SALT_IS_DIGEST), None),
    ],
)
def test_only_what_tls_has_a_scheme_for_is_signed(operation, scheme) -> None:
    assert scheme_of(*operation) == scheme


def test_references_are_read_back() -> None:
    pem = reference_pem(b"i" * 32, b"k" * 91)
    assert max(map(len, pem.splitlines())) <= 64
    assert parse_reference(pem.encode()) == (b"i" * 32, b"k" * 91)
    assert parse_reference(b"leading text\n" + pem.encode() + b"trailing text") == (b"i" * 32, b"k" * 91)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        keyless.BEGIN,
        keyless.END + keyless.BEGIN,
        keyless.BEGIN + b"\n\n" + keyless.END,
        keyless.BEGIN + b"\nA\n" + keyless.END,
        keyless.BEGIN + b"\nIAAA\n" + keyless.END,  # says 32 bytes, holds 2
    ],
)
def test_what_is_no_reference_is_passed_over(pem) -> None:
    assert parse_reference(pem) is None


def load(directory: Path, chain: str, key: str) -> ssl.SSLContext:
    (directory / "chain").write_text(chain)
    (directory / "key").write_text(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "chain", directory / "key")
    return context


def handshake(context: ssl.SSLContext) -> str:
    """Both halves over memory, with whoever `SIGNER` names; the version."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context().wrap_bio(to_client, to_server, server_hostname="web.test")
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return server.version() or ""


@pytest.fixture
def _signer():
    """Sets nothing, but takes back what a test sets."""
    token = keyless.SIGNER.set(lambda *_: b"")
    yield
    keyless.SIGNER.reset(token)


@pytest.mark.usefixtures("_signer")
@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA", "ED25519"])
def test_a_reference_stands_in_for_a_key(kind, tmp_path) -> None:
    keyless.load()
    key = new_key(kind)
    asked = []

    def signer(key_id: bytes, scheme: int, content: bytes) -> bytes:
        asked.append((key_id, content[64:97]))
        return sign(key, scheme, content)

    keyless.SIGNER.set(signer)
    context = load(tmp_path, certificate(key, ["web.test"]).chain, reference_pem(key_id(key), spki(key)))
    assert handshake(context) == "TLSv1.3"
    assert asked == [(key_id(key), b"TLS 1.3, server CertificateVerify")]


@pytest.mark.usefixtures("_signer")
@pytest.mark.parametrize("signature", [b"", b"x" * 5000, b"x" * 20])
def test_a_signature_that_is_none_fails_the_handshake(signature, tmp_path) -> None:
    keyless.load()
    key = new_key("P-256")
    keyless.SIGNER.set(lambda *_: signature)
    context = load(tmp_path, certificate(key, ["web.test"]).chain, reference_pem(key_id(key), spki(key)))
    with pytest.raises(ssl.SSLError):
        handshake(context)


def test_without_a_signer_the_handshake_fails(tmp_path) -> None:
    keyless.load()
    key = new_key("P-256")
    context = load(tmp_path, certificate(key, ["web.test"]).chain, reference_pem(key_id(key), spki(key)))
    with pytest.raises(ssl.SSLError):
        handshake(context)


def test_a_reference_to_another_key_is_refused(tmp_path) -> None:
    keyless.load()
    key, other = new_key("P-256"), new_key("P-256", 1)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        load(tmp_path, certificate(key, ["web.test"]).chain, reference_pem(key_id(other), spki(other)))


@pytest.mark.parametrize("public", [b"", b"rubbish" * 10, b"\x30\x03\x02\x01\x01"])
def test_a_reference_without_a_public_key_is_refused(public, tmp_path) -> None:
    keyless.load()
    with pytest.raises(ssl.SSLError):
        load(tmp_path, certificate(new_key("P-256"), ["web.test"]).chain, reference_pem(b"i" * 32, public))


@pytest.mark.parametrize("kind", ["P-256", "RSA"])
def test_ordinary_keys_still_work(kind, tmp_path) -> None:
    """The node's own identity is a key in a file, in the same process."""
    keyless.load()
    key = new_key(kind)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert handshake(load(tmp_path, certificate(key, ["web.test"]).chain, pem)) == "TLSv1.3"


def test_the_private_half_is_never_exported() -> None:
    keyless.load()
    provider = keyless._provider
    assert provider is not None
    key = provider._public_key(b"i" * 32, spki(new_key("P-256")))
    assert key is not None
    for selection in (0x01, 0x03, 0x87):  # private; pair; everything
        assert provider._key_export(key, selection, 0, 0) == 0


LIFE = """
import gc, os, ssl, sys
from proxy import keyless
from tests.proxy.test_keyless import handshake, load
from tests.proxy.tls_support import certificate, key_id, new_key, sign, spki
from pathlib import Path
keyless.load()
keyless.load()
key = new_key("P-256")
keyless.SIGNER.set(lambda key_id, scheme, content: sign(key, scheme, content))
directory = Path(sys.argv[1])
for turn in range(30):
    context = load(directory, certificate(key, ["web.test"]).chain, keyless.reference_pem(key_id(key), spki(key)))
    for _ in range(10):
        assert handshake(context) == "TLSv1.3"
    gc.collect()
"""
ABANDONED = """
import asyncio, socket
from tests.proxy.test_tls import client_hello
from tests.proxy.tls_support import LocalKeys, certificate, new_key, WAYS
from proxy.tls import TlsServer
async def main():
    keys = LocalKeys([new_key("P-256")], silent=True)
    tls = TlsServer(keys, waiting=WAYS[sys.argv[2]]())
    await tls.configure({"web": [certificate(new_key("P-256"), ["web.test"])]})
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: tls.protocol("web", asyncio.Protocol()), "127.0.0.1", 0)
    sockets = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(20)]
    for each in sockets:
        each.sendall(client_hello())
    while len(keys.asked) < (20 if sys.argv[2] == "greenlet" else 8):
        await asyncio.sleep(0.01)
    if sys.argv[3] == "close":
        await tls.close()
    globals()["kept"] = tls, server, sockets
    print("waiting", len(keys.asked))
asyncio.run(main())
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONASYNCIODEBUG", None)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_a_process_ends_cleanly_after_many_handshakes(tmp_path) -> None:
    for end in ("", "sys.exit(0)", "del context, keyless"):
        ended = python(f"{LIFE}\n{end}", str(tmp_path))
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("way", "close"), [("greenlet", "close"), ("greenlet", "leave"), ("threads", "close")])
def test_a_process_ends_cleanly_with_handshakes_that_wait(way, close, tmp_path) -> None:
    ended = python("import sys" + ABANDONED, str(tmp_path), way, close)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("waiting")


def test_the_support_signs_only_what_fits_the_key() -> None:
    """The tests of the provider rely on the assertions of `sign`."""
    with pytest.raises(AssertionError):
        sign(new_key("P-256"), 0x0804, b"")
    with pytest.raises(AssertionError):
        sign(new_key("RSA"), 0x0403, b"")
