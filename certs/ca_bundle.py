"""Whether a set of authorities, and what they have revoked, can be used to verify clients: every reason why not.

Unlike a chain (`certs.chain`), a bundle has no order and no leaf: each certificate in it is an authority that is
trusted by itself, self-signed or not. Each revocation list is signed by one of them. RFC 5280 sections 4.2.1.9 and 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from certs.chain import UNREADABLE

MOST_AUTHORITIES = 100
_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class BundleReport:
    """`problems` no time heals; `for_now` are about dates. The `_crl` ones are of the revocation lists."""

    problems: tuple[str, ...] = ()
    problems_crl: tuple[str, ...] = ()
    for_now: tuple[str, ...] = ()
    for_now_crl: tuple[str, ...] = ()


def inspect_bundle(bundle: str, crl: str, now: datetime) -> BundleReport:
    """What is to be said of PEM texts at `now` (with time zone); `crl` may be empty."""
    if "PRIVATE KEY-----" in bundle:
        return BundleReport(("holds a private key, which is needed nowhere here",))
    if "PRIVATE KEY-----" in crl:
        return BundleReport((), ("holds a private key, which is needed nowhere here",))
    try:
        authorities = x509.load_pem_x509_certificates(bundle.encode())
        problems = tuple(_of_authorities(authorities))
    except UNREADABLE as error:
        return BundleReport((f"not a bundle of PEM certificates: {str(error)[:200]}",))
    try:
        lists = [x509.load_pem_x509_crl(text) for text in _CRL.findall(crl.encode())]
        problems_crl = tuple(_of_lists(lists, authorities)) if crl else ()
    except UNREADABLE as error:
        return BundleReport(problems, (f"not a PEM revocation list: {str(error)[:200]}",))
    return BundleReport(
        problems,
        problems_crl,
        tuple(
            f"{_name(each.subject)} {state}"
            for each in authorities
            if (state := _state(each.not_valid_before_utc, each.not_valid_after_utc, now))
        ),
        tuple(
            f"the list of {_name(each.issuer)} {state}"
            for each in lists
            if (state := _state(each.last_update_utc, each.next_update_utc, now))
        ),
    )


def _of_authorities(authorities: Sequence[x509.Certificate]) -> Iterator[str]:
    if len(authorities) > MOST_AUTHORITIES:
        yield f"{len(authorities)} certificates; {MOST_AUTHORITIES} are allowed"
    for each in authorities:
        try:
            constraints = each.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = None
        if constraints is None or not constraints.ca:
            yield f"{_name(each.subject)} is no authority (CA:TRUE is missing)"


def _of_lists(
    lists: Sequence[x509.CertificateRevocationList], authorities: Sequence[x509.Certificate]
) -> Iterator[str]:
    if not lists:
        yield "holds no revocation list (X509 CRL)"
    for each in lists:
        signers = [one for one in authorities if one.subject == each.issuer]
        if not signers:
            yield f"the list of {_name(each.issuer)}, who is not among the authorities"
        elif not any(_signed(each, one) for one in signers):
            yield f"the list of {_name(each.issuer)} is not signed by its key"


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, *UNREADABLE):  # a key of a type that signs nothing
        return False


def _state(since: datetime, until: datetime | None, now: datetime) -> str:
    if now < since:
        return f"is not valid before {since:%Y-%m-%d %H:%M}"
    return f"ran out on {until:%Y-%m-%d %H:%M}" if until is not None and until < now else ""


def _name(name: x509.Name) -> str:
    return ascii(name.rfc4514_string())[1:-1][:200]
