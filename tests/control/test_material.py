from datetime import timedelta

import pytest

from control.material import chain_errors, key_errors, path_errors
from core.model import CaCertificate, Certificate, ErrorPage, Listener, Maintenance, Model, Protocol, Rule
from tests.control.conftest import Authority
from tests.proxy.client_certs import Authority as ClientAuthority

KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("label", ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda text: {"certificates": [{"name": "c", "chain": text}]}, "certificates[0].chain"),
        (lambda text: {"rules": [{"deep": [{"x": "before " + text}]}]}, "rules[0].deep[0].x"),
        (lambda text: text, ""),
        (lambda text: {text: 1}, ""),
    ],
)
def test_a_private_key_is_found_anywhere_and_never_repeated(label: str, wrap: object, place: str) -> None:
    assert callable(wrap)
    (error,) = key_errors(wrap(KEY.replace("PRIVATE KEY", label)))
    assert error.object_path == place
    assert "key server" in error.suggestion
    assert "MIGH" not in str(error)


def test_public_text_is_no_key() -> None:
    chain = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n-----BEGIN PUBLIC KEY-----"
    assert key_errors({"certificates": [{"chain": chain, "n": 1, "b": None}]}) == ()


def test_files_of_pages_are_refused_with_a_hint() -> None:
    pages = (ErrorPage("404", body="x"), ErrorPage("5xx", body_file="/etc/sorry.html"))
    listener = Listener("web", "main", Protocol.HTTP, 80, error_pages=pages)
    rule = Rule("r", "web", error_pages=pages[1:], maintenance=Maintenance(body_file="/etc/closed.html"))
    errors = path_errors(Model(listeners={"web": listener}, rules={"r": rule}))
    assert [each.object_path for each in errors] == [
        "listeners.web.error_pages[1].body_file", "rules.r.error_pages[0].body_file",
        "rules.r.maintenance.body_file",
    ]  # fmt: skip
    assert all("paifang apply" in each.suggestion for each in errors)


def test_paths_are_refused_with_a_hint() -> None:
    model = Model(certificates={"c": Certificate("c", chain_file="/etc/c.pem", key_file="/etc/k.pem")})
    chain, key = path_errors(model)
    assert chain.object_path == "certificates.c.chain_file"
    assert "paifang apply" in chain.suggestion
    assert key.object_path == "certificates.c.key_file"
    assert path_errors(Model(certificates={"c": Certificate("c", domains=("a.example",))})) == ()


def test_a_chain_has_to_be_certificates(authority: Authority) -> None:
    good = (authority.issue("l7", "x") / "cert.pem").read_text()
    bad = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    model = Model(certificates={name: Certificate(name, chain=text) for name, text in {"g": good, "b": bad}.items()})
    (error,) = chain_errors(model)
    assert error.object_path == "certificates.b.chain"


def test_files_of_authorities_are_refused_with_a_hint() -> None:
    model = Model(ca_certificates={"p": CaCertificate("p", bundle_file="/etc/ca.pem", crl_file="/etc/crl.pem")})
    bundle, crl = path_errors(model)
    assert (bundle.object_path, crl.object_path) == ("ca_certificates.p.bundle_file", "ca_certificates.p.crl_file")
    assert "paifang apply" in bundle.suggestion


def test_authorities_have_to_be_some() -> None:
    ours, others = ClientAuthority(), ClientAuthority("Others")
    model = Model(
        ca_certificates={
            "good": ours.admits(ours.revoke()),
            "late": ours.admits(ours.revoke(until=timedelta(days=-1))),
            "none": CaCertificate("none", bundle="?"),
            "wrong": ours.admits(others.revoke()),
        }
    )
    assert [error.object_path for error in chain_errors(model)] == [
        "ca_certificates.none.bundle",
        "ca_certificates.wrong.crl",
    ]
