"""Which certificates a name gets, and which chains are refused."""

from __future__ import annotations

import os
import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from core.model import Certificate
from proxy import keyless
from proxy.tls_certificates import CertificateError, Contexts, Credential, base_context, make_context, read
from tests.proxy.tls_support import certificate, key_id, new_key


def credential(name: str, key_type: str, *names: str) -> Credential:
    return Credential(name, "", key_type, b"", "", names)


EC_A = credential("ec-a", "EC", "a.test")
RSA_A = credential("rsa-a", "RSA", "a.test", "b.test")
EC_WILD = credential("ec-wild", "EC", "*.w.test")
RSA_WILD = credential("rsa-wild", "RSA", "*.w.test", "w.test")
EC_EXACT = credential("ec-exact", "EC", "x.w.test")


@pytest.mark.parametrize(
    ("credentials", "sni", "chosen"),
    [
        ([EC_A], "a.test", ["ec-a"]),
        ([EC_A], "A.TEST.", ["ec-a"]),
        ([EC_A], "", ["ec-a"]),
        ([EC_A, RSA_A], "a.test", ["ec-a", "rsa-a"]),
        ([EC_A, RSA_A], "b.test", ["rsa-a"]),
        ([EC_A, RSA_A], "", ["ec-a", "rsa-a"]),
        ([EC_A, RSA_WILD], "", ["ec-a"]),  # no name in common with the default
        ([EC_A, EC_WILD, RSA_WILD, EC_EXACT], "y.w.test", ["ec-wild", "rsa-wild"]),
        ([EC_A, EC_WILD, RSA_WILD, EC_EXACT], "x.w.test", ["ec-exact", "rsa-wild"]),
        ([EC_A, EC_WILD, RSA_WILD, EC_EXACT], "w.test", ["rsa-wild"]),
        ([EC_A, EC_WILD], "y.x.w.test", ["ec-a"]),
        ([EC_A, EC_WILD], "*.w.test", ["ec-wild"]),
        ([EC_A, EC_WILD], ".w.test", ["ec-wild"]),
        ([EC_A, credential("second", "EC", "a.test")], "a.test", ["ec-a"]),
    ],
)
def test_a_name_gets_its_certificates(credentials, sni, chosen) -> None:
    made: dict[ssl.SSLContext, list[str]] = {}

    def make(group: tuple[Credential, ...]) -> ssl.SSLContext:
        context = base_context()
        made[context] = [each.name for each in group]
        return context

    found = Contexts(credentials, make).find(sni)
    assert found is not None
    assert made[found] == chosen


def test_without_certificates_there_is_no_context() -> None:
    assert Contexts((), make_context).find("a.test") is None


def test_many_names_are_indexed_not_searched() -> None:
    many = [credential(f"c{n}", "EC", f"h{n}.test", "shared.test") for n in range(2000)]
    one = base_context()
    groups = []
    Contexts(many, lambda group: groups.append(group) or one)
    assert len(groups) == 2002
    assert all(len(group) == 1 for group in groups)


def test_reading_a_chain() -> None:
    key = new_key("P-256")
    leaf = certificate(key, ["Web.test", "*.web.test"])
    found = read(leaf)
    assert (found.name, found.key_type, found.key_id) == ("web", "EC", key_id(key))
    assert found.names == ("web.test", "*.web.test")
    assert found.chain == leaf.chain


def test_chains_that_cannot_be_served_say_why() -> None:
    key = new_key("P-256")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    chain = certificate(key, ["web.test"]).chain
    for text, why in [
        ("", "no chain of PEM certificates"),
        ("rubbish", "no chain of PEM certificates"),
        (chain.replace("MII", "XXX", 1), "no chain of PEM certificates"),
        (chain + private, "belongs in the key server alone"),
    ]:
        with pytest.raises(CertificateError, match=why):
            read(Certificate("web", chain=text))


def test_key_types_that_tls_servers_do_not_use_are_refused() -> None:
    from tests.proxy import tls_support

    key = dsa.generate_private_key(2048)
    chain = tls_support.certificate(key, ["web.test"]).chain  # type: ignore[arg-type]
    with pytest.raises(CertificateError, match="DSAPublicKey are not served: use ECDSA or RSA"):
        read(Certificate("web", chain=chain))


def test_contexts_hold_one_certificate_of_each_type_and_leave_no_file_open() -> None:
    keyless.load()
    before = sorted(os.listdir("/proc/self/fd"))
    pair = [read(certificate(new_key(kind), ["web.test"])) for kind in ("P-256", "RSA")]
    context = make_context(pair)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    names = {cipher["name"] for cipher in context.get_ciphers()}
    assert all(name.startswith(("TLS_", "ECDHE-")) and ("GCM" in name or "CHACHA20" in name) for name in names)
    damaged = Credential("web", "-----BEGIN CERTIFICATE-----", "EC", b"", pair[0].reference, ())
    with pytest.raises(CertificateError, match="OpenSSL does not take it"):
        make_context([damaged])
    assert sorted(os.listdir("/proc/self/fd")) == before
