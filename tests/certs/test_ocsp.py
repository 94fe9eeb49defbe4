"""Answers as a table: each one thing wrong, and the words that say so."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as x509_ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from certs.ocsp import Answer, OcspError, RevokedError, Subject, judge, renewal, request, responder, subject
from tests.responder import HOUR, Responder

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.now(UTC).replace(microsecond=0)


def about(of: Responder) -> tuple[Subject, x509.Certificate]:
    leaf = of.leaf(KEY)
    found = subject(of.chain(leaf))
    assert found is not None
    return found, leaf


@pytest.mark.parametrize(
    "of",
    [
        Responder(),
        Responder(key=rsa.generate_private_key(65537, 2048)),
        Responder(ends=None, begins=NOW - HOUR / 2),
    ],
    ids=["ECDSA", "RSA", "no end"],
)
def test_good_answers(of: Responder) -> None:
    found, leaf = about(of)
    der = of.answer(leaf)
    ends = of.ends or of.begins + HOUR
    assert judge(der, found, NOW) == Answer(der, of.begins, ends)


def test_a_delegate_may_sign() -> None:
    of = Responder()
    of.name_delegate()
    found, leaf = about(of)
    assert judge(of.answer(leaf), found, NOW).ends == of.ends


def delegated(*usages: x509.ObjectIdentifier, until: timedelta = HOUR) -> Responder:
    of = Responder()
    of.name_delegate(*usages, until=until)
    return of


def usurped() -> Responder:
    """Another CA's delegate."""
    of = Responder()
    of.delegate = delegated().delegate
    return of


def stranger() -> Responder:
    of = delegated()
    of.shows_delegate = False
    return of


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (lambda: Responder(ends=NOW), "was good until"),
        (lambda: Responder(ends=NOW - HOUR / 2), "was good until"),
        (lambda: Responder(ends=None, begins=NOW - HOUR), "was good until"),
        (lambda: Responder(begins=NOW + HOUR, ends=NOW + 2 * HOUR), "yet to come"),
        (lambda: Responder(status=x509_ocsp.OCSPCertStatus.REVOKED), "was revoked on .*: replace it"),
        (lambda: Responder(status=x509_ocsp.OCSPCertStatus.UNKNOWN), "does not know the certificate"),
        (lambda: Responder(mistaken=True), "about another certificate"),
        (lambda: delegated(ExtendedKeyUsageOID.SERVER_AUTH), "whom the issuer has not named"),
        (lambda: delegated(until=-HOUR), "own certificate is not valid now"),
        (usurped, "whom the issuer has not named"),
        (stranger, "neither by the issuer"),
    ],
)
def test_answers_that_may_not_be_stapled(of: Callable[[], Responder], why: str) -> None:
    made = of()
    found, leaf = about(made)
    with pytest.raises(OcspError, match=why) as caught:
        judge(made.answer(leaf), found, NOW)
    assert isinstance(caught.value, RevokedError) is ("revoked" in why)


def test_an_answer_of_another_ca_about_the_same_number() -> None:
    ours, theirs = Responder(), Responder()
    found, _ = about(ours)
    with pytest.raises(OcspError, match="about another certificate"):
        judge(theirs.answer(found.leaf), found, NOW)


@pytest.mark.parametrize("status", [each for each in x509_ocsp.OCSPResponseStatus if each.value])
def test_responders_that_will_not_answer(status: x509_ocsp.OCSPResponseStatus) -> None:
    found, _ = about(Responder())
    der = x509_ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
    with pytest.raises(OcspError, match=status.name.lower().replace("_", " ")):
        judge(der, found, NOW)


def test_the_request_names_the_certificate() -> None:
    found, leaf = about(Responder())
    assert x509_ocsp.load_der_ocsp_request(request(found)).serial_number == leaf.serial_number


def test_whom_to_ask() -> None:
    of = Responder(url="http://ocsp.test/here")
    leaf = of.leaf(KEY)
    assert responder(leaf) == "http://ocsp.test/here"
    assert responder(of.certificate) == ""
    assert responder(Responder(url="https://ocsp.test/").leaf(KEY)) == ""
    assert subject(of.certificate.public_bytes(Encoding.PEM).decode()) is None
    with pytest.raises(OcspError, match="issuer's certificate is not in the chain"):
        subject(leaf.public_bytes(Encoding.PEM).decode())


def test_renewal_is_after_half_of_its_life() -> None:
    assert renewal(Answer(b"", NOW, NOW + 4 * HOUR)) == NOW + 2 * HOUR


OF = Responder()
FOUND, LEAF = about(OF)
GOOD = OF.answer(LEAF)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_is_refused(place: int, value: int) -> None:
    der = bytearray(GOOD)
    der[place % len(der)] = value
    if bytes(der) != GOOD:
        with pytest.raises(OcspError):
            judge(bytes(der), FOUND, NOW)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(OcspError, match=re.compile("cannot be read|responder says")):
        judge(data, FOUND, NOW)
