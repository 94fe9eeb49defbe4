"""Keys of a PKCS #11 token (OASIS PKCS #11 2.40): signers whose private keys are in a device, or in SoftHSM.

A private key is of use if its public half is known, which the certificate needs anyhow: RSA keys carry it, for ECDSA
the public-key object or a certificate with the same CKA_ID has it. ECDSA is asked for a digest, because CKM_ECDSA is
what every device has; RSA is given the content. Which contents and schemes are signed is decided before (policy.py): a
token itself would sign anything.

`python-pkcs11` is imported here only, by a worker that is told to open a token; the extra `pkcs11` installs it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from certs.authority import key_id
from keyserver.keyfile import MIN_RSA_BITS
from keyserver.policy import KeyType
from keyserver.store import Signer

if TYPE_CHECKING:
    import pkcs11

log = logging.getLogger(__name__)

PUBLIC_EXPONENT = b"\x01\x00\x01"
_SHA2 = {4: "sha256", 5: "sha384", 6: "sha512"}
_CURVES: Mapping[bytes, tuple[ec.EllipticCurve, KeyType]] = {
    bytes.fromhex("06082a8648ce3d030107"): (ec.SECP256R1(), KeyType.EC_P256),
    bytes.fromhex("06052b81040022"): (ec.SECP384R1(), KeyType.EC_P384),
}

Operation = Callable[[bytes], bytes]
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class TokenError(Exception):
    """The token cannot be used. `final`: trying again with the same PIN would do harm."""

    def __init__(self, why: str, remedy: str, *, final: bool = False) -> None:
        super().__init__(f"{why}; {remedy}")
        self.why = why
        self.remedy = remedy
        self.final = final


class TokenLostError(Exception):
    """The token failed in the middle of its work: the session has to be made anew."""


@dataclass(frozen=True, slots=True)
class Token:
    """Which token of which module (a shared library)."""

    module: str
    label: str


class TokenSigner(Signer):
    """One key of a token. `sign` raises TokenLostError besides."""

    __slots__ = ("label",)

    def __init__(self, key: pkcs11.PrivateKey, public: PublicKey, key_type: KeyType) -> None:
        self.key_type = key_type
        self.key_id = key_id(public)
        self.label = key.label or ""
        self._operations = _ecdsa(key) if isinstance(public, ec.EllipticCurvePublicKey) else _rsa(key)


def open_token(token: Token, pin: bytes) -> pkcs11.Session:
    """Log in, read-only. Raises TokenError."""
    try:
        import pkcs11
    except ImportError:
        remedy = "`pip install paifang[pkcs11]` installs it"
        raise TokenError("the Python package python-pkcs11 is missing", remedy) from None
    pins = (pkcs11.PinIncorrect, pkcs11.PinLocked, pkcs11.PinExpired, pkcs11.PinInvalid, pkcs11.PinLenRange)
    try:
        return pkcs11.lib(token.module).get_token(token_label=token.label).open(user_pin=pin.decode())
    except pkcs11.NoSuchToken:
        remedy = f"`pkcs11-tool --module {token.module} --list-token-slots` lists them"
        raise TokenError(f"there is no token {token.label!r}", remedy) from None
    except (*pins, UnicodeDecodeError) as error:
        why = f"the PIN is refused ({type(error).__name__})"
        raise TokenError(why, "mend it before you try again: tokens lock themselves", final=True) from None
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        why = str(error) or type(error).__name__
        raise TokenError(f"the module cannot be used: {why}", "give the path of a PKCS #11 library") from None


def signers(session: pkcs11.Session) -> dict[bytes, TokenSigner]:
    """All keys of a session that are of use here; the others are named in the log. Raises TokenError."""
    import pkcs11

    found: dict[bytes, TokenSigner] = {}
    try:
        publics = _public_points(session)
        private = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY, pkcs11.Attribute.SIGN: True}
        for key in cast("list[pkcs11.PrivateKey]", list(session.get_objects(private))):
            try:
                signer = TokenSigner(key, *_public_half(key, publics))
            except ValueError as error:
                log.warning("the token's key %r is left out: %s", key.label or key.id, error)
            else:
                found[signer.key_id] = signer
    except pkcs11.PKCS11Error as error:
        raise TokenError(f"its keys cannot be listed ({type(error).__name__})", "see the token's own log") from None
    return found


def _public_points(session: pkcs11.Session) -> dict[bytes, bytes | x509.Certificate]:
    """CKA_ID → what says the public key of an ECDSA key: a CKA_EC_POINT, or a certificate."""
    import pkcs11

    points: dict[bytes, bytes | x509.Certificate] = {}
    for entry in list(session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.CERTIFICATE})):
        try:
            points[entry[pkcs11.Attribute.ID]] = x509.load_der_x509_certificate(entry[pkcs11.Attribute.VALUE])
        except (ValueError, pkcs11.AttributeTypeInvalid):
            continue  # no X.509 certificate
    public = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY, pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.EC}
    for entry in list(session.get_objects(public)):
        points[entry[pkcs11.Attribute.ID]] = entry[pkcs11.Attribute.EC_POINT]
    return points


def _public_half(key: pkcs11.PrivateKey, points: Mapping[bytes, bytes | x509.Certificate]) -> tuple[PublicKey, KeyType]:
    """Raises ValueError for a key that is not used here."""
    import pkcs11

    if key.key_type is pkcs11.KeyType.RSA:
        modulus = int.from_bytes(key[pkcs11.Attribute.MODULUS], "big")
        if modulus.bit_length() < MIN_RSA_BITS:
            raise ValueError(f"RSA with {modulus.bit_length()} bits is weak")
        try:
            exponent = key[pkcs11.Attribute.PUBLIC_EXPONENT]
        except pkcs11.AttributeTypeInvalid:  # it is optional for a private key
            exponent = PUBLIC_EXPONENT
        return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), modulus).public_key(), KeyType.RSA
    if key.key_type is not pkcs11.KeyType.EC:
        raise ValueError(f"keys of type {key.key_type.name} are not used here")
    curve = _CURVES.get(key[pkcs11.Attribute.EC_PARAMS])
    if curve is None:
        raise ValueError("its curve is not used here")
    point = points.get(key.id)
    if point is None:
        raise ValueError("there is neither a public key nor a certificate with its CKA_ID")
    if isinstance(point, x509.Certificate):
        public = point.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != curve[0].name:
            raise ValueError("the certificate with its CKA_ID is for another key")
        return public, curve[1]
    return ec.EllipticCurvePublicKey.from_encoded_point(curve[0], _unwrapped(point, curve[0])), curve[1]


def _unwrapped(point: bytes, curve: ec.EllipticCurve) -> bytes:
    """CKA_EC_POINT is a point in an OCTET STRING; some devices leave that out."""
    raw_bytes = 1 + 2 * (curve.key_size // 8)
    return point[-raw_bytes:] if len(point) == raw_bytes + 2 else point


def _ecdsa(key: pkcs11.PrivateKey) -> dict[int, Operation]:
    from pkcs11 import Mechanism

    def operation(name: str) -> Operation:
        def sign(content: bytes) -> bytes:
            raw = _signature(key, hashlib.new(name, content).digest(), mechanism=Mechanism.ECDSA)
            half = len(raw) // 2
            return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

        return sign

    return {0x0003 | high << 8: operation(name) for high, name in _SHA2.items()}


def _rsa(key: pkcs11.PrivateKey) -> dict[int, Operation]:
    from pkcs11 import MGF, Mechanism

    def operation(mechanism: Mechanism, parameter: tuple[Mechanism, MGF, int] | None) -> Operation:
        return lambda content: _signature(key, content, mechanism=mechanism, mechanism_param=parameter)

    operations: dict[int, Operation] = {}
    for number, name in _SHA2.items():
        sha = name.upper()
        parameter = (Mechanism[sha], MGF[sha], hashlib.new(name).digest_size)
        operations[0x0001 | number << 8] = operation(Mechanism[f"{sha}_RSA_PKCS"], None)
        operations[0x0800 | number] = operation(Mechanism[f"{sha}_RSA_PKCS_PSS"], parameter)
    return operations


def _signature(key: Any, data: bytes, **options: Any) -> bytes:
    from pkcs11 import PKCS11Error

    try:
        return bytes(key.sign(data, **options))
    except PKCS11Error as error:
        raise TokenLostError(f"the token failed: {type(error).__name__}") from error


def labels(found: Mapping[bytes, TokenSigner]) -> Iterator[tuple[str, str, str]]:
    """(id in hexadecimal, type, label) of each."""
    return ((key.hex(), signer.key_type, signer.label) for key, signer in found.items())
