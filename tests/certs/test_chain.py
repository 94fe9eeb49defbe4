"""Chains as a table: each one thing wrong, and the words that say so."""

import base64
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from certs.authority import key_id
from certs.chain import MAX_CERTIFICATES, inspect
from certs.report import NO_KEY, ChainReport

NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAY = timedelta(days=1)
P256 = ec.SECP256R1()
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey

CA, LEAF = x509.BasicConstraints(ca=True, path_length=None), x509.BasicConstraints(ca=False, path_length=None)
NAMES = x509.SubjectAlternativeName([x509.DNSName("a.test"), x509.DNSName("*.a.test")])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(signs, False, not signs, False, False, False, False, False, False)


CA_ISSUERS, OCSP = AuthorityInformationAccessOID.CA_ISSUERS, AuthorityInformationAccessOID.OCSP


def access(method: x509.ObjectIdentifier) -> x509.AuthorityInformationAccess:
    """Where more about a certificate is to be had."""
    place = x509.UniformResourceIdentifier("http://ca.test/middle.crt")
    return x509.AuthorityInformationAccess([x509.AccessDescription(method, place)])


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make(
    subject: str,
    key: Key,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    extensions: Sequence[x509.ExtensionType],
    days: tuple[int, int] = (-1, 30),
    algorithm: hashes.SHA256 | hashes.SHA224 | hashes.SHA384 = hashes.SHA256(),  # noqa: B008
) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).serial_number(1000)
    builder = builder.not_valid_before(NOW + days[0] * DAY).not_valid_after(NOW + days[1] * DAY)
    builder = builder.public_key(key.public_key())
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, algorithm)


ROOT_KEY, MIDDLE_KEY, LEAF_KEY = (ec.generate_private_key(P256) for _ in range(3))
ROOT = make("root", ROOT_KEY, "root", ROOT_KEY, [CA], (-100, 1000))
MIDDLE = make("middle", MIDDLE_KEY, "root", ROOT_KEY, [CA], (-100, 20))
GOOD = make("leaf", LEAF_KEY, "middle", MIDDLE_KEY, [LEAF, NAMES, SERVER, usage(True)])


def pem(*chain: x509.Certificate) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain)


def leaf(*extensions: x509.ExtensionType, key: Key = LEAF_KEY, **how: object) -> x509.Certificate:
    return make("leaf", key, "middle", MIDDLE_KEY, extensions or [NAMES], **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "chain",
    [
        [GOOD],
        [GOOD, MIDDLE],
        [GOOD, MIDDLE, ROOT],
        [leaf(NAMES), MIDDLE],
        [leaf(NAMES, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]))],
        [leaf(key=ed25519.Ed25519PrivateKey.generate())],
        [leaf(key=ec.generate_private_key(ec.SECP384R1()), algorithm=hashes.SHA384())],
        [leaf(key=rsa.generate_private_key(65537, 2048))],
        [make("self", LEAF_KEY, "self", LEAF_KEY, [NAMES])],
        [make("self", LEAF_KEY, "self", LEAF_KEY, [NAMES, access(CA_ISSUERS)])],
        [leaf(NAMES, access(CA_ISSUERS)), MIDDLE],
        [leaf(NAMES, access(OCSP))],
        [GOOD, make("middle", MIDDLE_KEY, "root", ROOT_KEY, [x509.BasicConstraints(True, 0)]), ROOT],
        [make("self", LEAF_KEY, "self", LEAF_KEY, [CA, NAMES])],
    ],
)
def test_chains_that_may_be_served(chain: list[x509.Certificate]) -> None:
    report = inspect(pem(*chain), NOW)
    assert report.problems == ()
    assert report.names == ("a.test", "*.a.test")
    assert report.key_id == key_id(chain[0].public_key())  # type: ignore[arg-type]


def test_the_first_to_expire_counts() -> None:
    assert inspect(pem(GOOD), NOW).not_after == (NOW + 30 * DAY).timestamp()
    assert inspect(pem(GOOD, MIDDLE), NOW).not_after == (NOW + 20 * DAY).timestamp()


STRANGER = ec.generate_private_key(P256)


@pytest.mark.parametrize(
    ("chain", "problems"),
    [
        ([MIDDLE, GOOD], ["the leaf is certificate 2: it has to come first"]),
        ([ROOT, MIDDLE, GOOD], ["the leaf is certificate 3"]),
        ([GOOD, ROOT], [r"certificate 1 is signed by CN=middle, not by certificate 2 \(CN=root\)"]),
        ([GOOD, MIDDLE, GOOD], [r"certificate 3 \(CN=leaf\) is no CA"]),
        ([GOOD, GOOD], [r"certificate 2 \(CN=leaf\) is no CA"]),
        (
            [GOOD, make("middle", STRANGER, "root", ROOT_KEY, [CA])],
            [r"certificate 1 is signed by CN=middle, not by certificate 2 \(CN=middle\)"],
        ),
        (
            [leaf(NAMES, access(CA_ISSUERS))],
            ["of its issuer, CN=middle, is missing: append it; it is to be had from http://ca.test/middle.crt"],
        ),
        (
            [GOOD, make("middle", MIDDLE_KEY, "root", ROOT_KEY, [CA, usage(True)])],
            [r"certificate 2 \(CN=middle\) may not sign certificates"],
        ),
        (
            [GOOD, MIDDLE, make("root", ROOT_KEY, "root", ROOT_KEY, [x509.BasicConstraints(True, 0)])],
            [r"certificate 3 \(CN=root\) allows 0 CAs below it, and there are 1"],
        ),
        ([leaf(days=(1, 30))], [r"certificate 1 \(CN=leaf\) is not valid before 2026-11-21 00:00 UTC"]),
        ([leaf(days=(-30, -1))], [r"certificate 1 \(CN=leaf\) expired on 2026-11-19 00:00 UTC"]),
        ([leaf(days=(-30, -1)), make("middle", MIDDLE_KEY, "root", ROOT_KEY, [CA], (-9, -2))], ["11-19", "2026-11-18"]),
        ([leaf(LEAF)], ["names no host"]),
        ([leaf(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("paifang://x")]))], ["names no host"]),
        ([leaf(NAMES, CLIENT)], ["not meant for servers"]),
        ([leaf(NAMES, usage(False))], ["may not sign handshakes"]),
        ([leaf(key=rsa.generate_private_key(65537, 1024))], ["has an RSA key of 1024 bits; 2048 are the least"]),
        ([leaf(key=ec.generate_private_key(ec.SECP256K1()))], ["has a key on curve secp256k1"]),
        ([leaf(key=dsa.generate_private_key(1024))], ["has a key that is neither ECDSA, RSA nor Ed25519"]),
        ([leaf(algorithm=hashes.SHA224())], ["is signed with SHA224, which is weak"]),
    ],
)
def test_chains_that_may_not_be_served(chain: list[x509.Certificate], problems: list[str]) -> None:
    found = inspect(pem(*chain), NOW).problems
    assert len(found) == len(problems), found
    for text, expected in zip(found, problems, strict=True):
        assert re.search(expected, text), found


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_signatures_of_old_are_weak(digest: str, tmp_path: Path) -> None:
    """`cryptography` would not make them."""
    signer = rsa.generate_private_key(65537, 2048)
    key, request, out = (str(tmp_path / each) for each in ("ca.key", "leaf.csr", "leaf.pem"))
    Path(key).write_bytes(signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ca.pem").write_text(pem(make("middle", signer, "middle", signer, [CA])))
    new = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=old", "-out", request]
    signing = ["x509", "-req", "-in", request, "-CA", str(tmp_path / "ca.pem"), "-CAkey", key, f"-{digest}"]
    (tmp_path / "names").write_text("subjectAltName=DNS:a.test\n")
    for arguments in (new, [*signing, "-extfile", str(tmp_path / "names"), "-set_serial", "7", "-out", out]):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    found = inspect(Path(out).read_text(), datetime.now(UTC)).problems
    assert found == (f"certificate 1 (CN=old) is signed with {digest.upper()}, which is weak",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a chain of PEM certificates"),
        ("hello", "not a chain of PEM certificates"),
        (pem(GOOD)[:200], "not a chain of PEM certificates"),
        (pem(GOOD).replace("MII", "AAA", 1), "not a chain of PEM certificates"),
        (pem(*[ROOT] * (MAX_CERTIFICATES + 1)), "11 certificates; 10 are allowed"),
        (
            pem(GOOD) + LEAF_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            "holds a private key",
        ),
    ],
)
def test_what_is_no_chain(text: str, why: str) -> None:
    report = inspect(text, NOW)
    assert report == ChainReport(NO_KEY, (), 0, report.problems)
    assert why in report.problems[0]


def test_the_key_has_to_be_held() -> None:
    wanted = key_id(LEAF_KEY.public_key())
    assert inspect(pem(GOOD), NOW, lambda key: key == wanted).problems == ()
    (problem,) = inspect(pem(GOOD), NOW, lambda key: False).problems
    assert problem == f"the key server holds no private key for it (key id {wanted.hex()})"


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_arbitrary_text_is_reported(text: str) -> None:
    assert inspect(text, NOW).problems


@pytest.mark.filterwarnings("ignore")  # the library warns of odd serial numbers and the like
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_is_reported_or_harmless(place: int, value: int) -> None:
    der = bytearray(GOOD.public_bytes(Encoding.DER))
    der[place % len(der)] = value
    body = base64.encodebytes(bytes(der)).decode()
    report = inspect(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n{pem(MIDDLE)}", NOW)
    assert report.problems or bytes(der) == GOOD.public_bytes(Encoding.DER)
