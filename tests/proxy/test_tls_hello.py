"""Which connections are an ACME CA's: real ClientHellos, whole, cut, and changed."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tls_hello import RECORD_LIMIT, Look, look, server_name


def hello(*protocols: str, name: str | None = "web.test", version: str = "TLSv1_3") -> bytes:
    """A ClientHello of OpenSSL's, in its record."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion[version]
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


ACME = hello("acme-tls/1")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_ca_is_told_when_its_hello_is_whole(version: str) -> None:
    sent = hello("acme-tls/1", version=version)
    assert {look(sent[:size]) for size in range(len(sent))} == {Look.MORE}
    assert look(sent) is look(sent + b"early") is Look.ACME
    assert server_name(sent) == "web.test"


@pytest.mark.parametrize(
    "sent",
    [
        hello(),
        hello("http/1.1"),
        hello("acme-tls/1", "http/1.1"),
        hello("http/1.1", "acme-tls/1"),
        hello("xacme-tls/1"),
        hello("acme-tls/1.1"),
        hello(name="acme-tls.test"),
        ACME[:9] + b"acme-tls/1" * 40,
        b"GET /acme-tls/1 HTTP/1.1\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x16\x02" + ACME[2:],
        ACME[:5] + b"\x02" + ACME[6:],
    ],
    ids=["no protocol", "http", "first", "second", "longer", "longer still", "name", "nonsense", "plain http", "alert",
         "SSL 2", "a server's hello"],
)  # fmt: skip
def test_others_are_told_at_the_latest_with_their_hello(sent: bytes) -> None:
    assert look(sent + bytes(max(0, len(ACME) - len(sent)))) is Look.OTHER


@pytest.mark.parametrize("sent", [b"G", b"\x00", b"\x15", b"\x16G", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff"])
def test_what_begins_like_no_hello_is_not_waited_for(sent: bytes) -> None:
    assert look(sent) is Look.OTHER


def test_a_hello_in_two_records_is_openssls() -> None:
    half = (len(ACME) - 5) // 2
    head, first, second = ACME[:3], ACME[5 : 5 + half], ACME[5 + half :]
    assert look(b"".join(head + len(part).to_bytes(2) + part for part in (first, second))) is Look.OTHER


@given(st.binary(max_size=80), st.integers(0, len(ACME)), st.integers(0, 80))
def test_changed_anywhere_it_is_one_of_the_three(inserted: bytes, at: int, removed: int) -> None:
    sent = ACME[:at] + inserted + ACME[at + removed :]
    assert isinstance(look(sent), Look)
    assert isinstance(server_name(sent), str)


@given(st.binary(min_size=5, max_size=9))
def test_it_is_never_waited_for_more_than_a_record(begins: bytes) -> None:
    for head in (begins, b"\x16\x03\x01" + begins[3:]):
        assert look(head + bytes(RECORD_LIMIT)) is not Look.MORE


def test_names_that_cannot_be_read() -> None:
    assert server_name(hello("acme-tls/1", name=None)) == ""
    assert server_name(b"") == server_name(ACME[:40]) == ""
