"""Whose certificates are enough for a rule."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from core.model import Authentication, Certified, ClientCertificate, Rule
from proxy.auth_certificate import CertificateAuth, holder_of
from proxy.head import read_request
from tests.proxy.client_certs import Authority
from tests.proxy.support import Backend
from tests.proxy.test_https import KEY, connect, https, serving
from tests.proxy.tls_support import certificate

OURS = Authority("Partners")
ALICE = OURS.issue("alice", names=["a.test", "b.test"])
SHA256 = hashlib.sha256(ALICE.der).hexdigest()


def test_whom_a_certificate_names() -> None:
    holder = holder_of(ALICE.der)
    assert holder is not None
    assert (holder.common_names, holder.names, holder.issuer) == ({"alice"}, {"a.test", "b.test"}, "CN=Partners")
    assert (holder.sha256, holder.user) == (SHA256, "alice")
    odd = holder_of(OURS.issue("a\r\nX: Zoë").der)
    assert odd is not None
    assert odd.user == "a%0D%0AX: Zo%C3%AB"
    assert holder_of(b"0") is None


@pytest.mark.parametrize(
    ("terms", "admitted"),
    [
        (Certified(), True),
        (Certified(common_names=("bob", "alice")), True),
        (Certified(common_names=("Alice",)), False),
        (Certified(common_names=("a.test",)), False),
        (Certified(names=("b.test",)), True),
        (Certified(names=("alice",)), False),
        (Certified(names=("*.test",)), False),
        (Certified(issuers=("CN=Partners",)), True),
        (Certified(issuers=("Partners",)), False),
        (Certified(sha256=(SHA256.upper(),)), True),
        (Certified(sha256=("0" * 64,)), False),
        (Certified(common_names=("alice",), names=("c.test",)), False),
        (Certified(("alice",), ("a.test",), ("CN=Partners",), (SHA256,)), True),
    ],
    ids=range(13),
)
def test_it_has_to_have_one_of_each_list(terms: Certified, admitted: bool) -> None:
    holder = holder_of(ALICE.der)
    assert holder is not None
    assert CertificateAuth(Authentication("x", certificate=terms))._admits(holder) is admitted


async def test_a_rule_admits_some_of_those_that_the_listener_knows(tmp_path: Path) -> None:
    web = certificate(KEY, ["web.test"])
    async with Backend().running() as backend, serving(backend.port, web) as l7:
        base = https(l7.port, backend.port, web)
        options = {"ca_certificate": "partners", "client_certificate": ClientCertificate.OPTIONAL}
        each = Authentication("billing", certificate=Certified(("alice",)), user_field="X-User")
        made = replace(
            base, listeners={"web": replace(base.listeners["web"], **options)},  # type: ignore[arg-type]
            ca_certificates={"partners": OURS.admits()}, authentications={"billing": each},
            rules={"r": Rule("r", "web", "app", url="/invoices", authentication="billing")},
        )  # fmt: skip
        assert await l7.worker.apply(made) == []
        forged = b"X-User: root\r\nClient-Cert: :AAAA:\r\nX-SSL-Client-CN: alice\r\n"
        for client, status in ((ALICE, 200), (OURS.issue("bob"), 403), (None, 403)):
            connected = await connect(l7, context=client.context(tmp_path)) if client else await connect(l7)
            for _ in range(2):
                assert (await connected.ask("/invoices/1", forged))[0] == status
            assert (await connected.ask("/", forged))[0] == 200
            await connected.close()
        heads = [read_request(head) for head in backend.heads]
        users = [head.values(b"x-user") for head in heads if head is not None and head.target == b"/invoices/1"]
        assert users == [[b"alice"]] * 2
        assert {record.error_code for record in l7.records if record.status == 403} == {"forbidden"}
