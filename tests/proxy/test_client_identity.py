"""What a server is told of a client's certificate, whatever names an authority has signed."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from core.model import CertificateFields
from proxy.client_identity import MOST_BYTES, UnusableIdentity, is_ours, lines, nobody
from proxy.head import read_request
from tests.proxy.client_certs import Authority

OURS = Authority("Partners, Ltd")
NOW = datetime.now(UTC)


STYLES = {CertificateFields.RFC9440: 5, CertificateFields.SSL_CLIENT: 8, CertificateFields.OFF: 0}


def said(common: str, style: CertificateFields = CertificateFields.RFC9440) -> dict[bytes, bytes]:
    """The fields as a server reads them."""
    text = lines(OURS.issue(common).der, NOW, style)
    head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + text + b"\r\n")
    assert head is not None
    assert len(head.block.fields) == 1 + STYLES[style]
    assert all(is_ours(each.lower) for each in head.block.fields if each.lower != b"host")
    return {each.lower: each.value for each in head.block.fields}


def test_all_that_a_server_is_told() -> None:
    client = OURS.issue("alice")
    assert lines(client.der, NOW).split(b"\r\n") == [
        b"Client-Cert: :%b:" % base64.b64encode(client.der),
        b"X-Forwarded-Client-Cert-Subject: CN=alice",
        b"X-Forwarded-Client-Cert-Issuer: CN=Partners\\, Ltd",
        b"X-Forwarded-Client-Cert-Serial: %X" % client.certificate.serial_number,
        b"X-Forwarded-Client-Cert-Sha256: %b" % hashlib.sha256(client.der).hexdigest().encode(),
        b"",
    ]


def test_what_it_is_told_by_names_that_it_may_know() -> None:
    client = OURS.issue("alice")
    assert lines(client.der, NOW, CertificateFields.SSL_CLIENT).split(b"\r\n") == [
        b"X-SSL-Client-Verify: SUCCESS",
        b"X-SSL-Client-DN: CN=alice",
        b"X-SSL-Client-CN: alice",
        b"X-SSL-Client-Issuer-DN: CN=Partners\\, Ltd",
        b"X-SSL-Client-Serial: %X" % client.certificate.serial_number,
        b"X-SSL-Client-Not-After: " + client.certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ").encode(),
        b"X-SSL-Client-SHA1: " + hashlib.sha1(client.der).hexdigest().encode(),
        b"X-SSL-Client-SHA256: " + hashlib.sha256(client.der).hexdigest().encode(),
        b"",
    ]


def test_what_it_is_told_of_a_client_without_a_certificate() -> None:
    assert [nobody(style) for style in STYLES] == [b"", b"X-SSL-Client-Verify: NONE\r\n", b""]


def test_a_server_may_be_told_nothing() -> None:
    assert said("alice", CertificateFields.OFF).keys() == {b"host"}


@pytest.mark.parametrize(
    ("common", "subject"),
    [
        ("a\r\nX-Real-IP: 1.2.3.4", b"CN=a\\0D\\0AX-Real-IP: 1.2.3.4"),
        ("a\nb", b"CN=a\\0Ab"),
        ("Zoë", b"CN=Zo\\C3\\AB"),
        ("a,CN=root", b"CN=a\\,CN=root"),
        ("tab\there\x7f", b"CN=tab\\09here\\7F"),
    ],
)
def test_a_name_begins_no_line_of_its_own(common: str, subject: bytes) -> None:
    assert said(common)[b"x-forwarded-client-cert-subject"] == subject
    told = said(common, CertificateFields.SSL_CLIENT)
    assert told[b"x-ssl-client-dn"] == subject
    assert told[b"x-ssl-client-cn"].replace(b",", b"\\,") == subject.removeprefix(b"CN=")


def test_a_certificate_that_would_fill_every_head_is_not_passed_on() -> None:
    long = OURS.issue("x", names=[f"{number}.{'x' * 60}.test" for number in range(60)])
    assert len(long.der) > MOST_BYTES
    with pytest.raises(UnusableIdentity, match=f"{MOST_BYTES} are allowed"):
        lines(long.der, NOW)


def test_a_resumed_session_does_not_outlive_its_certificate() -> None:
    with pytest.raises(UnusableIdentity, match="expired"):
        lines(OURS.issue("x").der, NOW + timedelta(days=2))


def test_what_cannot_be_read_is_not_passed_on() -> None:
    with pytest.raises(UnusableIdentity, match="cannot be read"):
        lines(b"0", NOW)
    with pytest.raises(UnusableIdentity, match="cannot be read"):
        lines(b"0", NOW, CertificateFields.OFF)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (b"client-cert", True),
        (b"client-cert-chain", True),
        (b"x-forwarded-client-cert", True),
        (b"x-forwarded-client-cert-anything", True),
        (b"x-ssl-client-verify", True),
        (b"x-ssl-client", True),
        (b"x-ssl", False),
        (b"x-forwarded-client", False),
        (b"client", False),
    ],
)
def test_which_fields_say_who_the_client_is(name: bytes, ours: bool) -> None:
    assert is_ours(name) is ours
