import asyncio
import ssl
from pathlib import Path

import pytest

from control.node.identity import Identity, IdentityError, peer_of
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
