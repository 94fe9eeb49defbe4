"""What may be signed, as tables; everything that is not a TLS server's handshake is refused."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import ErrorCode, KeyServerError
from keyserver.policy import Access, KeyType, Shape, TokenBucket, check, shape_of

RANDOMS = bytes(range(64))
TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"
HASH_32, HASH_48 = hashlib.sha256(b"").digest(), hashlib.sha384(b"").digest()


def ecdhe(curve: int, point: bytes) -> bytes:
    return RANDOMS + bytes([3]) + curve.to_bytes(2, "big") + bytes([len(point)]) + point


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        (TLS13 + HASH_32, Shape.TLS13),
        (TLS13 + HASH_48, Shape.TLS13),
        (ecdhe(23, b"\4" + bytes(64)), Shape.TLS12),
        (ecdhe(24, b"\4" + bytes(96)), Shape.TLS12),
        (ecdhe(25, b"\4" + bytes(132)), Shape.TLS12),
        (ecdhe(29, bytes(32)), Shape.TLS12),
        (ecdhe(30, bytes(56)), Shape.TLS12),
    ],
)
def test_the_handshakes_of_tls_servers(content: bytes, shape: Shape) -> None:
    assert shape_of(content) is shape


def jwt() -> bytes:
    header, claims = ({"alg": "ES256", "typ": "JWT"}, {"sub": "admin", "exp": 4_000_000_000, "pad": "x" * 40})
    return b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims))


def to_be_signed_certificate() -> bytes:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).tbs_certificate_bytes


# What somebody who has a TLS node would like to have signed (made anew each time, hence not parametrized by value).
FORGED = {
    "nothing": b"",
    "a digest": HASH_32,
    "a longer digest": HASH_48,
    "DigestInfo": bytes.fromhex("3031300d060960864801650304020105000420") + HASH_32,
    "JWT": jwt(),
    "certificate": to_be_signed_certificate(),
    "client CertificateVerify": b" " * 64 + b"TLS 1.3, client CertificateVerify\0" + HASH_32,
    "client CertificateVerify of TLS 1.2": b"\x01\0\0\x44\3\3" + RANDOMS + b"\0\2\x13\1\1\0" + ecdhe(29, bytes(32)),
    "delegated credential": b" " * 64 + b"TLS, server delegated credentials\0" + HASH_32,
    "exported authenticator": b" " * 64 + b"Exported Authenticator\0" + HASH_32,
    "QUIC's or DTLS's": b" " * 64 + b"DTLS 1.3, server CertificateVerify\0" + HASH_32,
    "SSH": b"\0\0\0\x20" + HASH_32 + b"\x32\0\0\0\4root\0\0\0\x0essh-connection",
    "randoms alone": RANDOMS,
}


@pytest.mark.parametrize(
    "content",
    [
        *(pytest.param(content, id=name) for name, content in FORGED.items()),
        pytest.param(b" " * 64 + b"TLS 1.4, server CertificateVerify\0" + HASH_32, id="TLS 1.4"),
        pytest.param(TLS13, id="TLS 1.3 without a hash"),
        pytest.param(TLS13 + bytes(20), id="TLS 1.3 with SHA-1"),
        pytest.param(TLS13 + bytes(64), id="TLS 1.3 with SHA-512"),
        pytest.param(TLS13 + HASH_32 + b"\0", id="TLS 1.3 and more"),
        pytest.param(TLS13[1:] + HASH_32 + b"\0", id="63 spaces"),
        pytest.param(b"\t" + TLS13[1:] + HASH_32, id="a tab"),
        pytest.param(RANDOMS + b"\3\0\x17", id="cut in the curve"),
        pytest.param(RANDOMS + b"\3\0\x17\x41", id="cut before the point"),
        pytest.param(ecdhe(23, b"\4" + bytes(64))[:-1], id="cut in the point"),
        pytest.param(ecdhe(23, b"\4" + bytes(64)) + b"\0", id="ECDHE and more"),
        pytest.param(ecdhe(23, b"\2" + bytes(32)), id="compressed point"),
        pytest.param(ecdhe(23, b"\6" + bytes(64)), id="hybrid point"),
        pytest.param(ecdhe(22, b"\4" + bytes(64)), id="secp256k1"),
        pytest.param(ecdhe(29, bytes(31)), id="short x25519"),
        pytest.param(RANDOMS + b"\1" + bytes(68), id="explicit prime curve"),
        pytest.param(RANDOMS + b"\1\0" + bytes(256) + b"\0\1\2\1\0" + bytes(256), id="DHE"),
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    assert shape_of(content) is None
    for key_type in KeyType:
        with pytest.raises(KeyServerError) as caught:
            check(key_type, 0x0403, content)
        assert caught.value.code is ErrorCode.REFUSED_SHAPE


@given(st.binary(max_size=220))
def test_arbitrary_content_has_no_shape(content: bytes) -> None:
    assert shape_of(content) is None or content[64:65] in (b"\3", b"T")


@given(st.binary(min_size=32, max_size=32), st.integers(0, 97), st.integers(0, 255))
def test_each_fixed_byte_of_tls13_counts(digest: bytes, place: int, value: int) -> None:
    content = bytearray(TLS13 + digest)
    content[place] = value
    assert (shape_of(bytes(content)) is Shape.TLS13) == (value == TLS13[place])


TLS12 = ecdhe(29, bytes(32))
ECDSA, PSS, PKCS1 = [0x0403, 0x0503, 0x0603], [0x0804, 0x0805, 0x0806], [0x0401, 0x0501, 0x0601]
# ecdsa_sha1, rsa_sha1, rsa_md5, dsa, ed448, rsa_pss_pss (needs a key of that type), brainpool, nonsense
NEVER = [0x0203, 0x0201, 0x0101, 0x0202, 0x0808, 0x0809, 0x081A, 0x0000, 0xFFFF]


@pytest.mark.parametrize(
    ("key_type", "content", "allowed"),
    [
        (KeyType.EC_P256, TLS13 + HASH_32, [0x0403]),
        (KeyType.EC_P256, TLS13 + HASH_48, [0x0403]),
        (KeyType.EC_P384, TLS13 + HASH_32, [0x0503]),
        (KeyType.RSA, TLS13 + HASH_48, PSS),
        (KeyType.ED25519, TLS13 + HASH_32, [0x0807]),
        (KeyType.EC_P256, TLS12, ECDSA),
        (KeyType.EC_P384, TLS12, ECDSA),
        (KeyType.RSA, TLS12, PSS + PKCS1),
        (KeyType.ED25519, TLS12, [0x0807]),
    ],
)
def test_schemes(key_type: KeyType, content: bytes, allowed: list[int]) -> None:
    for scheme in [*ECDSA, *PSS, *PKCS1, 0x0807, *NEVER]:
        if scheme in allowed:
            assert check(key_type, scheme, content) is shape_of(content)
        else:
            with pytest.raises(KeyServerError) as caught:
                check(key_type, scheme, content)
            assert caught.value.code is ErrorCode.REFUSED_SCHEME


def test_access() -> None:
    access = Access(frozenset({33}))
    assert access.admits_uid(33)
    assert not access.admits_uid(0)
    assert access.admits_node("l7", "a")
    assert not any(access.admits_node(role, "a") for role in ("l4", "keyserver", "control", ""))
    named = Access(frozenset(), frozenset({"a"}))
    assert named.admits_node("l7", "a")
    assert not named.admits_node("l7", "b")
    assert not named.admits_node("l4", "a")
    assert not Access(frozenset(), frozenset()).admits_node("l7", "a")


@pytest.mark.parametrize(
    ("steps", "taken"),
    [
        ([(0, 1)] * 4, "yyyn"),
        ([(0, 3), (0.4, 1), (0.5, 1), (0.9, 1), (1.0, 1)], "ynyny"),
        ([(0, 3), (100, 3), (100, 1)], "yyn"),
        ([(0, 3), (-50, 1), (0.5, 1)], "yny"),
        ([(0, 4), (0, 3)], "ny"),
    ],
)
def test_rate(steps: list[tuple[float, float]], taken: str) -> None:
    bucket = TokenBucket(rate=2, burst=3, now=0)
    assert "".join("y" if bucket.take(now, units) else "n" for now, units in steps) == taken
