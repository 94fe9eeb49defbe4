"""Keys of a SoftHSM 2 token, in this process: which are found, what they sign, and what is said of the others."""

import logging
import os
import pickle
from collections.abc import Iterator

import pkcs11
import pytest

from certs.authority import Authority
from keyserver import token_keys
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.policy import KeyType
from keyserver.token_keys import Token, TokenError, TokenLostError, TokenSigner
from tests.keyserver import hsm
from tests.keyserver.conftest import TLS13
from tests.keyserver.hsm import MODULE, PIN, Hsm
from tests.keyserver.test_store import verify


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory, ca: Authority) -> Iterator[Hsm]:
    """One for the module: a process initialises the library once, with one configuration."""
    with pytest.MonkeyPatch.context() as patch:
        made = hsm.make(tmp_path_factory.mktemp("hsm"), patch)
        hsm.add_others(made, ca)
        yield made


@pytest.fixture
def signers(token: Hsm) -> Iterator[dict[str, TokenSigner]]:
    """By label."""
    with token_keys.open_token(token.token, PIN.encode()) as session:
        yield {signer.label: signer for signer in token_keys.signers(session).values()}


def test_the_keys_that_are_of_use(token: Hsm, signers: dict[str, TokenSigner]) -> None:
    assert {label: signer.key_type for label, signer in signers.items()} == {
        "shop": KeyType.EC_P256,
        "shop-384": KeyType.EC_P384,
        "shop-rsa": KeyType.RSA,
        "by-cert": KeyType.EC_P256,
    }
    assert {label: signer.key_id for label, signer in signers.items()} == {
        label: token.id_of(label) for label in signers
    }


def test_the_others_are_named(token: Hsm, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), token_keys.open_token(token.token, PIN.encode()) as session:
        found = token_keys.signers(session)
    assert sorted(record.getMessage() for record in caplog.records) == [
        "the token's key 'alone' is left out: there is neither a public key nor a certificate with its CKA_ID",
        "the token's key 'odd' is left out: its curve is not used here",
        "the token's key 'weak' is left out: RSA with 1024 bits is weak",
    ]
    assert sorted(token_keys.labels(found)) == sorted(
        (signer.key_id.hex(), signer.key_type, signer.label) for signer in found.values()
    )


@pytest.mark.parametrize(
    ("label", "schemes"),
    [
        ("shop", [0x0403, 0x0503, 0x0603]),
        ("shop-384", [0x0403, 0x0503, 0x0603]),
        ("by-cert", [0x0403]),
        ("shop-rsa", [0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806]),
    ],
)
def test_signatures_verify(token: Hsm, signers: dict[str, TokenSigner], label: str, schemes: list[int]) -> None:
    for scheme in schemes:
        for _ in range(3):
            verify(token.keys[label], scheme, signers[label].sign(scheme, TLS13), TLS13)
    for scheme in (0x0807, 0x0201, 0x0403 if "rsa" in label else 0x0804):
        with pytest.raises(KeyServerError) as caught:
            signers[label].sign(scheme, TLS13)
        assert caught.value.code is ErrorCode.REFUSED_SCHEME


def test_a_signer_says_nothing_of_its_key(signers: dict[str, TokenSigner]) -> None:
    signer = signers["shop"]
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(signer)
    assert {name for name in dir(signer) if not name.startswith("_")} == {"key_id", "key_type", "label", "sign"}


def test_a_session_that_is_lost(token: Hsm) -> None:
    session = token_keys.open_token(token.token, PIN.encode())
    signer = token_keys.signers(session)[token.id_of("shop")]
    session.close()
    with pytest.raises(TokenLostError, match="the token failed: "):
        signer.sign(0x0403, TLS13)


class Broken:
    """A session whose device does not answer."""

    def get_objects(self, attributes: object) -> list[object]:
        raise pkcs11.DeviceError


def test_keys_that_cannot_be_listed() -> None:
    with pytest.raises(TokenError, match=r"its keys cannot be listed \(DeviceError\); see the token's own log"):
        token_keys.signers(Broken())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("which", "pin", "why", "final"),
    [
        (Token(MODULE, "pft"), b"0000", r"the PIN is refused \(PinIncorrect\); mend it before you try again", True),
        (Token(MODULE, "pft"), b"\xff", r"the PIN is refused", True),
        (Token(MODULE, "other"), b"4321", r"there is no token 'other'; `pkcs11-tool --module", False),
        (Token("/none.so", "pft"), b"4321", r"the module cannot be used: .*; give the path of a PKCS #11", False),
        (Token("/etc/passwd", "pft"), b"4321", r"the module cannot be used", False),
    ],
)
def test_tokens_that_cannot_be_opened(token: Hsm, which: Token, pin: bytes, why: str, final: bool) -> None:
    with pytest.raises(TokenError, match=why) as caught:
        token_keys.open_token(which, pin)
    assert caught.value.final is final


def test_without_the_package(token: Hsm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pkcs11", None)
    with pytest.raises(TokenError, match=r"python-pkcs11 is missing; `pip install paifang\[pkcs11\]`"):
        token_keys.open_token(token.token, PIN.encode())


def test_points_with_and_without_their_wrapping() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    for curve in (ec.SECP256R1(), ec.SECP384R1()):
        raw = b"\x04" + os.urandom(2 * (curve.key_size // 8))
        assert token_keys._unwrapped(bytes([4, len(raw)]) + raw, curve) == raw
        assert token_keys._unwrapped(raw, curve) == raw
