import asyncio
import contextlib
import datetime as dt
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509

from certs.authority import Authority as CertificateAuthority
from control.node.files import write_atomic
from control.node.identity import Identity, IdentityError, peer_of
from control.node.key_request import fresh_key, request_for
from tests.control.conftest import Authority


async def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[tuple[str, str], tuple[str, str]]:
    """(whom the server saw, whom the client saw); raises what the client gets when there is no connection."""
    seen: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(peer_of(writer.get_extra_info("ssl_object")))
        writer.write(b"hello")
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=server)
    try:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            # A TLS 1.3 client may hear only now that the server has refused it.
            if await reader.read(5) != b"hello":
                raise ConnectionResetError("the server closed the connection")
            return await seen, peer_of(writer.get_extra_info("ssl_object"))
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    finally:
        listener.close()
        await listener.wait_closed()


async def test_both_sides_know_each_other(authority: Authority) -> None:
    node, control = Identity.load(authority.issue("l7", "l7-1")), Identity.load(authority.issue("control", "c"))
    assert (node.role, node.name) == ("l7", "l7-1")
    assert await _handshake(control.server_context(), node.client_context("control")) == (
        ("l7", "l7-1"),
        ("control", "c"),
    )
    assert await _handshake(control.server_context({"l7"}), node.client_context()) == (("l7", "l7-1"), ("control", "c"))


async def test_a_server_of_another_role_is_refused_in_the_handshake(authority: Authority) -> None:
    node, other = Identity.load(authority.issue("l7", "l7-1")), Identity.load(authority.issue("l7", "l7-2"))
    with pytest.raises(ssl.SSLCertVerificationError, match="l7-2 is of role l7, not control"):
        await _handshake(other.server_context(), node.client_context("control"))


async def test_a_client_of_another_role_is_refused(authority: Authority) -> None:
    node, control = Identity.load(authority.issue("keyserver", "k")), Identity.load(authority.issue("control", "c"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await _handshake(control.server_context({"l4", "l7"}), node.client_context())


async def test_a_node_of_another_cluster_is_refused(authority: Authority, foreign_authority: Authority) -> None:
    ours, theirs = Identity.load(authority.issue("control", "c")), Identity.load(foreign_authority.issue("l7", "x"))
    with pytest.raises(ssl.SSLCertVerificationError):
        await _handshake(ours.server_context(), theirs.client_context())


async def test_a_client_without_a_certificate_is_refused(authority: Authority) -> None:
    control = Identity.load(authority.issue("control", "c"))
    bare = ssl.create_default_context(cafile=str(control.directory / "ca.pem"))
    bare.check_hostname = False
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await _handshake(control.server_context(), bare)


def test_contexts_speak_tls_1_3_only(authority: Authority) -> None:
    identity = Identity.load(authority.issue("l7", "l7-1"))
    for context in (identity.client_context(), identity.server_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("file", ["ca.pem", "cert.pem", "key.pem"])
def test_a_missing_file_is_named_with_the_remedy(authority: Authority, file: str) -> None:
    directory = authority.issue("l7", "l7-1")
    (directory / file).unlink()
    with pytest.raises(IdentityError, match=rf"{file}: No such file.*paifang certs issue"):
        Identity.load(directory)


def test_a_key_that_everybody_may_read_is_refused(authority: Authority) -> None:
    directory = authority.issue("l7", "l7-1")
    (directory / "key.pem").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        Identity.load(directory)


def test_a_foreign_key_does_not_fit(authority: Authority) -> None:
    one, two = authority.issue("l7", "l7-1"), authority.issue("l7", "l7-2")
    (one / "key.pem").write_bytes((two / "key.pem").read_bytes())
    with pytest.raises(IdentityError, match="do not fit"):
        Identity.load(one)


def test_garbage_is_not_a_certificate(authority: Authority) -> None:
    directory = authority.issue("l7", "l7-1")
    (directory / "cert.pem").write_text("garbage")
    with pytest.raises(IdentityError, match="not a certificate"):
        Identity.load(directory)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["https://example.com"],
        ["paifang://node/admin/x"],
        ["paifang://node/l7/x/y"],
        ["paifang://node/l7/x", "paifang://node/control/x"],
    ],
)
def test_a_certificate_has_to_name_one_node(authority: Authority, uris: list[str]) -> None:
    with pytest.raises(IdentityError, match="does not name one node"):
        Identity.load(authority.issue("l7", "x", uris))


def test_a_directory_path_is_kept(authority: Authority) -> None:
    directory = authority.issue("l4", "l4-1")
    assert Identity.load(Path(str(directory))).directory == directory


@pytest.fixture
def ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.init(tmp_path / "own-ca")


def _joined(
    ca: CertificateAuthority, directory: Path, generation: int, life_s: float = 3600, name: str = "l7-1"
) -> Path:
    """An identity as `paifang join` leaves it."""
    directory.mkdir(exist_ok=True)
    key = fresh_key()
    certificate = ca.certify_node(
        request_for(key).encode(), "l7", "l7-1", generation, dt.timedelta(seconds=life_s), dt.datetime.now(dt.UTC)
    )
    write_atomic(directory / "ca.pem", ca.ca_pem)
    write_atomic(directory / "key.pem", key)
    write_atomic(directory / "cert.pem", certificate)
    return directory


def _renewal(ca: CertificateAuthority, name: str = "l7-1") -> tuple[bytes, bytes]:
    key = fresh_key()
    return ca.certify_node(
        request_for(key).encode(), "l7", name, 1, dt.timedelta(hours=9), dt.datetime.now(dt.UTC)
    ), key


def _control(ca: CertificateAuthority, tmp_path: Path) -> Identity:
    ca.issue_node("control", "c").write(tmp_path / "c")
    return Identity.load(tmp_path / "c")


def _serial(identity: Identity) -> int:
    return x509.load_pem_x509_certificate((identity.directory / "cert.pem").read_bytes()).serial_number


async def test_a_renewed_identity_is_shown_by_contexts_made_before(ca: CertificateAuthority, tmp_path: Path) -> None:
    identity, control = Identity.load(_joined(ca, tmp_path / "n", 1)), _control(ca, tmp_path)
    other = Identity.load(tmp_path / "n")  # as in a worker process
    client, server, others = identity.client_context("control"), control.server_context({"l7"}), other.client_context()
    before = identity.ends
    identity.replace(*_renewal(ca))
    assert identity.ends > before
    assert other.refresh()
    assert not other.refresh()
    seen: list[str] = []

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert")["serialNumber"])
        writer.close()

    for context in (client, others):
        async with await asyncio.start_server(connected, "127.0.0.1", 0, ssl=server) as listening:
            port = listening.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            await reader.read()
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert [int(each, 16) for each in seen] == [_serial(identity)] * 2


@pytest.mark.parametrize("written", ["key", "key and certificate"])
def test_a_renewal_that_is_cut_short_leaves_an_identity(ca: CertificateAuthority, tmp_path: Path, written: str) -> None:
    directory = _joined(ca, tmp_path / "n", 1)
    before = _serial(Identity.load(directory))
    certificate, key = _renewal(ca)
    write_atomic(directory / "next-key.pem", key)
    if written != "key":
        write_atomic(directory / "cert.pem", certificate)
    identity = Identity.load(directory)
    assert (_serial(identity) == before) is (written == "key")
    assert (directory / "key.pem").stat().st_mode & 0o777 == 0o600
    identity.replace(*_renewal(ca))
    Identity.load(directory)
    assert not (directory / "next-key.pem").exists()


def test_another_nodes_certificate_is_no_renewal(ca: CertificateAuthority, tmp_path: Path) -> None:
    identity = Identity.load(_joined(ca, tmp_path / "n", 1))
    before = (tmp_path / "n" / "cert.pem").read_bytes()
    with pytest.raises(IdentityError, match="another node's"):
        identity.replace(*_renewal(ca, "l7-2"))
    assert (tmp_path / "n" / "cert.pem").read_bytes() == before


async def test_older_generations_are_refused_in_the_handshake(ca: CertificateAuthority, tmp_path: Path) -> None:
    control = _control(ca, tmp_path)
    server = control.server_context({"l7"})
    old, new = Identity.load(_joined(ca, tmp_path / "o", 1)), Identity.load(_joined(ca, tmp_path / "n", 2))
    assert (old.generation, new.generation, control.generation) == (1, 2, 0)
    await _handshake(server, old.client_context())
    control.refuse({"l7/l7-1": 2, "l7/other": 9})
    await _handshake(server, new.client_context())
    with pytest.raises((OSError, ssl.SSLError)):
        await _handshake(server, old.client_context())
    assert "has been revoked" in control.why_not("l7", "l7-1", 1)
    assert Identity.load(tmp_path / "c").least == {"l7/l7-1": 2, "l7/other": 9}, "kept for the next start"
    new.refuse({"control/c": 1})
    with pytest.raises(ssl.SSLCertVerificationError, match="has been revoked"):
        await _handshake(server, new.client_context("control"))


async def test_strangers_come_in_only_while_they_may(ca: CertificateAuthority, tmp_path: Path) -> None:
    control, may = _control(ca, tmp_path), [True]
    server = control.server_context({"l7"}, lambda: may[0])
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hi")
        writer.close()

    async def hello() -> bytes:
        async with await asyncio.start_server(connected, "127.0.0.1", 0, ssl=server) as listening:
            port = listening.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=stranger)
            try:
                return await reader.read()
            finally:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    assert await hello() == b"hi"
    may[0] = False
    with contextlib.suppress(OSError):
        assert await hello() == b""
    _joined(ca, tmp_path / "l4", 1)
    await _handshake(server, Identity.load(tmp_path / "l4").client_context())


def test_two_thirds_of_the_life_are_counted_from_when_it_was_made(ca: CertificateAuthority, tmp_path: Path) -> None:
    """Certificates are dated back by minutes, for clocks that are behind: lives of seconds are renewed in time too."""
    before = time.time()
    identity = Identity.load(_joined(ca, tmp_path / "n", 1, life_s=30))
    assert 18 < identity.renew_at - before < 22
