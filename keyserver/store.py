"""Keys in use: what signs, and never gives the key back.

A `Signer` signs and says what it is; the private key stays inside the library's own object behind it, which no method
hands out, and which is neither printed nor pickled. A `KeyStore` maps key ids (SHA-256 of the SubjectPublicKeyInfo) to
signers of this process and to keys that are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from certs.authority import key_id
from keyserver.chains import Chains
from keyserver.crew import Crew
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.keyfile import PrivateKey, type_of
from keyserver.policy import KeyType

Operation = Callable[[bytes], bytes]

Sha2 = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

_SHA2: Mapping[int, Sha2] = {
    4: hashes.SHA256(),
    5: hashes.SHA384(),
    6: hashes.SHA512(),
}


class Signer:
    """One key: what it is, and the act of signing."""

    __slots__ = ("_operations", "key_id", "key_type")

    def __init__(self, key: PrivateKey) -> None:
        self.key_type = type_of(key)
        self.key_id = key_id(key.public_key())
        self._operations = _operations(key)

    def sign(self, scheme: int, content: bytes) -> bytes:
        """The signature of `content`, as TLS sends it. Raises KeyServerError for a scheme this type of key lacks."""
        operation = self._operations.get(scheme)
        if operation is None:
            raise KeyServerError(ErrorCode.REFUSED_SCHEME)
        return operation(content)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key_type} {self.key_id.hex()[:16]}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key stays in its process")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A key that only the workers of a crew have."""

    key_id: bytes
    key_type: KeyType
    crew: Crew


Held = Signer | Elsewhere
Names = Mapping[bytes, Collection[str]]
NONE = Chains()
NOTHING: Mapping[bytes, Any] = MappingProxyType({})


class KeyStore:
    """Key id → who signs with it: this process, or a crew's worker. Replaced as a whole, by one assignment.

    `names` are what people call the keys: those of their files, without the suffix. `chains` stand with the keys.
    """

    def __init__(self, held: Mapping[bytes, Held] = NOTHING, names: Names = NOTHING, chains: Chains = NONE) -> None:
        self._held = held
        self.names = names
        self.chains = chains

    def get(self, key_id: bytes) -> Held | None:
        return self._held.get(key_id)

    def __contains__(self, key_id: bytes) -> bool:
        return key_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def replace(self, held: Mapping[bytes, Held], names: Names = NOTHING, chains: Chains = NONE) -> tuple[int, int]:
        """Hold these from now on: (keys added, keys removed)."""
        old, self._held, self.names, self.chains = self._held, held, names, chains
        return len(held.keys() - old.keys()), len(old.keys() - held.keys())


def _operations(key: PrivateKey) -> Mapping[int, Operation]:
    """Code point (RFC 8446 section 4.2.3) → signing. The algorithm objects are made once, not for each signature."""
    match key:
        case ec.EllipticCurvePrivateKey():
            return {0x0003 | high << 8: _ecdsa(key, ec.ECDSA(sha)) for high, sha in _SHA2.items()}
        case rsa.RSAPrivateKey():
            pkcs1 = {0x0001 | high << 8: _rsa(key, padding.PKCS1v15(), sha) for high, sha in _SHA2.items()}
            pss = {0x0800 | low: _rsa(key, _pss(sha), sha) for low, sha in _SHA2.items()}
            return {**pkcs1, **pss}
        case _:
            return {0x0807: key.sign}


def _pss(sha: Sha2) -> padding.PSS:
    return padding.PSS(padding.MGF1(sha), sha.digest_size)


def _ecdsa(key: ec.EllipticCurvePrivateKey, algorithm: ec.ECDSA) -> Operation:
    sign = key.sign
    return lambda content: sign(content, algorithm)


def _rsa(key: rsa.RSAPrivateKey, scheme: padding.AsymmetricPadding, sha: hashes.HashAlgorithm) -> Operation:
    sign = key.sign
    return lambda content: sign(content, scheme, sha)
