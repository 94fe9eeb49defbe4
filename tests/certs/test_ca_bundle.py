"""Which authorities and revocation lists clients can be verified by, and what is said of the others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from certs.ca_bundle import MOST_AUTHORITIES, BundleReport, inspect_bundle
from tests.proxy.client_certs import DAY, Authority

OURS, OTHERS = Authority("Ours"), Authority("Others")
BELOW = Authority("Below", above=OURS)
TWIN = Authority("Ours")  # the same name, another key
NOW = datetime.now(UTC)
BROKEN = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("bundle", "crl"),
    [
        (OURS.pem, ""),
        (OURS.pem + OTHERS.pem, OTHERS.revoke(OTHERS.issue("x")) + OURS.revoke()),
        (BELOW.pem, BELOW.revoke()),
        (TWIN.pem + OURS.pem, OURS.revoke()),
        ("about ours\n" + OURS.pem, "about theirs\n" + OURS.revoke()),
    ],
)
def test_sound(bundle: str, crl: str) -> None:
    assert inspect_bundle(bundle, crl, NOW) == BundleReport()


@pytest.mark.parametrize(
    ("bundle", "why"),
    [
        ("", "not a bundle of PEM certificates"),
        ("garbage", "not a bundle of PEM certificates"),
        (BROKEN, "not a bundle of PEM certificates"),
        (OURS.pem + KEY, "holds a private key"),
        (Authority("Leaf", ca=False).pem, "CN=Leaf is no authority (CA:TRUE is missing)"),
        (Authority("b\u00e9\n", ca=False).pem, "CN=b\\xe9\\n is no authority"),
        (OURS.pem * (MOST_AUTHORITIES + 1), "101 certificates; 100 are allowed"),
    ],
)
def test_no_authorities(bundle: str, why: str) -> None:
    (problem,) = inspect_bundle(bundle, "", NOW).problems
    assert problem.startswith(why)


@pytest.mark.parametrize(
    ("crl", "why"),
    [
        ("garbage", "holds no revocation list"),
        (OURS.pem, "holds no revocation list"),
        ("-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n", "not a PEM revocation list"),
        (OURS.revoke() + KEY, "holds a private key"),
        (OTHERS.revoke(), "the list of CN=Others, who is not among the authorities"),
        (TWIN.revoke(), "the list of CN=Ours is not signed by its key"),
    ],
)
def test_no_revocation_lists(crl: str, why: str) -> None:
    report = inspect_bundle(OURS.pem, crl, NOW)
    assert report.problems == ()
    (problem,) = report.problems_crl
    assert problem.startswith(why)


@pytest.mark.parametrize(
    ("days", "bundle", "crl"),
    [(0, "", ""), (-3, "is not valid before", "is not valid before"), (2, "ran out on", "ran out on")],
)
def test_dates_are_no_fault_of_the_texts(days: int, bundle: str, crl: str) -> None:
    report = inspect_bundle(OURS.pem, OURS.revoke(until=DAY), NOW + timedelta(days=days))
    assert (report.problems, report.problems_crl) == ((), ())
    assert [text.startswith(f"CN=Ours {bundle} 20") for text in report.for_now] == [True] * bool(bundle)
    assert [text.startswith(f"the list of CN=Ours {crl} 20") for text in report.for_now_crl] == [True] * bool(crl)
