"""What the inventory says of chains, and when it warns."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certs.authority import key_id
from certs.inventory import Urgency, document, entries, read, reported, urgency_of, warnings
from core.model import Certificate, Instance, Listener, Model, Protocol
from tests.certs.test_chain import LEAF_KEY, MIDDLE, NAMES, NOW, access, leaf, pem
from tests.certs.test_chain import OCSP as BY_OCSP

DAY = timedelta(days=1)


def model(**chains: str) -> Model:
    """Each certificate is used by a listener of its name, but those whose name begins with `spare`."""
    certificates = {name: Certificate(name, chain=chain) for name, chain in chains.items()}
    listeners = {
        name: Listener(name, "i", Protocol.HTTPS, 443, certificates=(name,))
        for name in chains
        if not name.startswith("spare")
    }
    return Model(certificates=certificates, instances={"i": Instance("i")}, listeners=listeners)


def test_what_stands_in_a_chain() -> None:
    chain = read(pem(leaf(NAMES, access(BY_OCSP)), MIDDLE))
    assert chain is not None
    assert chain.names == ("a.test", "*.a.test")
    assert (chain.issuer, chain.serial_number, chain.key_type) == ("CN=middle", "3e8", "ECDSA P-256")
    assert chain.key_id == key_id(LEAF_KEY.public_key()).hex()
    assert (chain.responder, chain.must_staple) == ("http://ca.test/middle.crt", False)
    assert (chain.begins, chain.ends) == (NOW - DAY, NOW + 20 * DAY), "the first of the chain to expire"
    assert [each.subject for each in chain.links] == ["CN=leaf", "CN=middle"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "ECDSA P-384"),
        (ec.generate_private_key(ec.SECP521R1()), "ECDSA secp521r1"),
        (rsa.generate_private_key(65537, 2048), "RSA 2048"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
    ],
)
def test_key_types(key: object, name: str) -> None:
    chain = read(pem(leaf(key=key)))  # type: ignore[arg-type]
    assert chain is not None
    assert chain.key_type == name


@pytest.mark.parametrize("text", ["", "hello", pem(MIDDLE)[:100]], ids=["empty", "a word", "cut short"])
def test_what_is_no_chain(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("life_days", "left_hours", "urgency"),
    [
        (90, 24 * 30, Urgency.FINE),  # when ACME clients renew
        (90, 24 * 21, Urgency.FINE),
        (90, 24 * 21 - 1, Urgency.SOON),
        (90, 24 * 7, Urgency.SOON),
        (90, 24 * 7 - 1, Urgency.URGENT),
        (90, 0.01, Urgency.URGENT),
        (90, 0, Urgency.EXPIRED),
        (90, -1, Urgency.EXPIRED),
        (825, 24 * 21, Urgency.FINE),
        (825, 24 * 20, Urgency.SOON),
        (6, 48, Urgency.FINE),  # lives for six days: a third
        (6, 35, Urgency.SOON),
        (6, 14, Urgency.URGENT),
    ],
)
def test_how_urgent_it_is(life_days: float, left_hours: float, urgency: Urgency) -> None:
    ends = NOW + timedelta(hours=left_hours)
    assert urgency_of(ends - timedelta(days=life_days), ends, NOW) is urgency


def test_the_first_to_end_comes_first_and_what_cannot_be_read_last() -> None:
    found = entries(
        model(none="", late=pem(leaf(days=(-60, 80))), soon=pem(leaf(days=(-60, 9))), gone=pem(leaf(days=(-60, -1)))),
        NOW,
    )
    assert [(each.name, each.urgency) for each in found] == [
        ("gone", Urgency.EXPIRED),
        ("soon", Urgency.SOON),
        ("late", Urgency.FINE),
        ("none", Urgency.FINE),
    ]
    assert found[0].warning == "certificate 'gone' expired on 2026-11-19 00:00 UTC"
    assert found[1].warning == "certificate 'soon' expires in 9 days, on 2026-11-29 00:00 UTC"
    assert found[2].warning == found[3].warning == ""


def test_only_what_is_used_is_warned_of() -> None:
    soon = pem(leaf(days=(-60, 1)))
    assert warnings(model(soon=soon, spare=soon), NOW) == {
        "soon": "certificate 'soon' expires in 24 hours, on 2026-11-21 00:00 UTC"
    }


def test_as_json() -> None:
    (entry,) = entries(model(web=pem(leaf(days=(-60, 1)))), NOW)
    found = document(entry, ("bad",))
    assert found["names"] == ("a.test", "*.a.test")
    assert (found["begins"], found["ends"]) == ("2026-09-21T00:00:00Z", "2026-11-21T00:00:00Z")
    assert (found["used_by"], found["urgency"], found["problems"]) == (["web"], "urgent", ["bad"])
    (nothing,) = entries(model(web=""), NOW)
    assert document(nothing) == {"name": "web", "used_by": ["web"], "urgency": "fine", "warning": ""}


def test_what_nodes_report() -> None:
    facts = [
        {"problems": ["certificate 'a': no key", "certificate 'b': late\nline", "listener 'x': no certificate"]},
        {"problems": ["certificate 'a': no key", "certificate 'a': stale"]},
        {"problems": "certificate 'a': not a list"},
        {},
    ]
    assert reported(facts) == {"a": ("no key", "stale"), "b": ("late\nline",)}
