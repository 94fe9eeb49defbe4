"""The policy: what its text means, and what is wrong with one that means nothing."""

import pytest

from keyserver import grants
from keyserver.grants import EVERY_SHAPE, GrantsError
from keyserver.policy import Shape

A, B = bytes([0xAA]) * 32, bytes([0xBB]) * 32
TEXT = f"""
[[grants]]
clients = ["l7:edge-*", "uid:33"]
keys = ["shop", "{B.hex()}"]
tls = ["1.3"]
rate = 2

[[grants]]
clients = ["l7:*"]
keys = ["shop-*"]

[[grants]]
clients = ["*"]
keys = ["shop"]
"""


@pytest.mark.parametrize(
    ("client", "key_id", "names", "answer"),
    [
        ("l7:edge-1", A, ["shop"], {Shape.TLS13}),
        ("uid:33", A, ["other", "shop"], {Shape.TLS13}),
        ("uid:33", B, ["other"], {Shape.TLS13}),
        ("uid:33", B, [], {Shape.TLS13}),
        ("l7:edge-1", A, ["shop-2"], EVERY_SHAPE),
        ("l7:other", A, ["shop"], EVERY_SHAPE),  # by the third
        ("l7:other", B, ["private"], None),
        ("uid:333", A, ["shop-2"], None),
        ("uid:33", A, ["Shop"], None),
        ("uid:33", A, [], None),
    ],
)
def test_the_first_grant_that_names_both_decides(
    client: str, key_id: bytes, names: list[str], answer: set[Shape] | None
) -> None:
    permission = grants.parse(TEXT).permission(client, key_id, names, 0)
    assert (permission.tls if permission is not None else None) == answer


def test_rates_are_for_each_client_and_key() -> None:
    policy = grants.parse(TEXT)
    for client, key_id in (("l7:edge-1", A), ("l7:edge-1", B), ("l7:edge-2", A)):
        permission = policy.permission(client, key_id, ["shop"], 0)
        assert permission is not None
        assert [permission.take(0) for _ in range(3)] == [True, True, False]
        again = policy.permission(client, key_id, ["shop"], 0.5)
        assert again is permission
        assert [permission.take(0.5) for _ in range(2)] == [True, False]
    unlimited = policy.permission("l7:other", A, ["shop"], 0)
    assert unlimited is not None
    assert all(unlimited.take(0) for _ in range(1000))


def test_names_may_come_to_stand_for_other_keys() -> None:
    policy = grants.parse(TEXT)
    assert policy.permission("uid:33", A, ["x"], 0) is None
    assert policy.permission("uid:33", A, ["shop"], 0) is None, "answers are remembered"
    policy.forget()
    assert policy.permission("uid:33", A, ["shop"], 0) is not None


def test_clients_that_are_named_at_all() -> None:
    policy = grants.parse(TEXT.rpartition("[[grants]]")[0])
    named = {client for client in ("l7:edge-9", "l7:x", "uid:33", "uid:34") if policy.names_client(client)}
    assert named == {"l7:edge-9", "l7:x", "uid:33"}


def test_certificates_that_are_revoked() -> None:
    """Whatever the grants say of their names; clients without a certificate are not concerned."""
    policy = grants.parse(
        'revoked = ["7C021EED", "0a:bc", "5"]\n[[grants]]\nclients = ["l7:a", "uid:33"]\nkeys = ["*"]'
    )
    assert policy.why_not("l7:a", 0x7C021EED) == "the policy has revoked the certificate 7C021EED of l7:a"
    assert [bool(policy.why_not("l7:a", serial)) for serial in (0xABC, 5, 0x7C021EEE)] == [True, True, False]
    assert policy.why_not("uid:33", None) == ""
    assert policy.why_not("l7:b", 1) == "no grant of the policy is for l7:b"
    assert grants.parse(f"revoked = []\n{TEXT}").revoked == frozenset()


def test_names_that_no_key_has() -> None:
    policy = grants.parse(TEXT)
    assert policy.names_no_key({A: ["x"]}) == ("shop", B.hex())
    assert policy.names_no_key({A: ["shop"], B: []}) == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no grants; with none nobody could use any key"),
        ("grants = []", "no grants"),
        ("grants = 1", "no grants"),
        ("[grants", "not TOML"),
        ("[[grant]]", "'grant' is unknown; give [[grants]]"),
        ('revoked = "7C"\n[[grants]]\nclients = ["*"]\nkeys = ["*"]', "revoked: give a list of texts"),
        (
            'revoked = ["l7-1"]\n[[grants]]\nclients = ["*"]\nkeys = ["*"]',
            "revoked: 'l7-1' is no serial number; `openssl",
        ),
        ('revoked = ["7C::02"]\n[[grants]]\nclients = ["*"]\nkeys = ["*"]', "revoked: '7C::02' is no serial number"),
        ('revoked = ["00' + "AB" * 20 + '"]\n[[grants]]\nclients = ["*"]\nkeys = ["*"]', "is no serial number"),
        ('revoked = ["7C"]', "no grants"),
        ("grants = [1]", "grants[0]: give [[grants]] with clients and keys"),
        ('[[grants]]\nclient = ["*"]', "grants[0]: 'client' is unknown; known are clients, keys, tls, rate"),
        ('[[grants]]\nkeys = ["*"]', "grants[0].clients: give a list of texts"),
        ('[[grants]]\nclients = "*"\nkeys = ["*"]', "grants[0].clients: give a list of texts"),
        ('[[grants]]\nclients = ["*"]', "grants[0].keys: give a list of texts"),
        ('[[grants]]\nclients = ["*"]\nkeys = []', "grants[0].keys: give a list of texts"),
        ('[[grants]]\nclients = ["edge"]\nkeys = ["*"]', "'edge' is no client; give l7:NAME, uid:NUMBER or *"),
        ('[[grants]]\nclients = ["*"]\nkeys = ["*"]\ntls = ["1.1"]', "'1.1' is unknown; give 1.2, 1.3 or both"),
        ('[[grants]]\nclients = ["*"]\nkeys = ["*"]\ntls = []', "grants[0].tls: give a list of texts"),
        ('[[grants]]\nclients = ["*"]\nkeys = ["*"]\nrate = 0', "grants[0].rate: give 1 or more"),
        ('[[grants]]\nclients = ["*"]\nkeys = ["*"]\nrate = true', "grants[0].rate: give 1 or more"),
        ('[[grants]]\nclients = ["*"]\nkeys = ["*"]\nrate = nan', "grants[0].rate: give 1 or more"),
        ('[[grants]]\nclients = ["*"]\nkeys = ["*"]\nrate = "9"', "grants[0].rate: give 1 or more"),
    ],
)
def test_policies_that_mean_nothing(text: str, why: str) -> None:
    with pytest.raises(GrantsError) as caught:
        grants.parse(text)
    assert why in str(caught.value)
