"""Private keys that are somewhere else: an OpenSSL 3 provider whose keys can only be *asked* to sign.

`ssl.SSLContext.load_cert_chain` is given, in place of a private key, a PEM block of our own that holds the key's id and
its public half (`reference_pem`). OpenSSL finds our decoder for it, our decoder makes a key object of our provider out
of it, and when a handshake needs a signature OpenSSL calls our `_digest_sign`, with the very bytes that are to be
signed. Those go to whoever the context variable `SIGNER` names; it returns the signature or raises.

    SSLContext.load_cert_chain ─► decoder ─► KEYMGMT load        handshake ─► SIGNATURE digest_sign ─► SIGNER

The key object is the `EVP_PKEY*` of the public key. It is kept for the life of the process, so that its address stays
its name; a process that sees n different keys keeps n of them, about 2 KiB each.

The provider refuses to export the private half (it has none), else libcrypto would "sign" with a copy that lacks it.
It has names of its own for its signature operation, so that OpenSSL comes here at once instead of trying its own.
It signs only what TLS has a SignatureScheme for (RFC 8446 §4.2.3), and never a raw digest. It cannot decrypt, hence no
RSA key exchange.
"""

from __future__ import annotations

import base64
import binascii
import ctypes as c
import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from proxy import keyless_abi as abi
from proxy.keyless_abi import (
    Decoder,
    KeylessUnavailable,
    Keymgmt,
    Op,
    ParamList,
    Signature,
    Type,
    Value,
    callback,
    dispatch,
)

__all__ = ["SIGNER", "KeylessUnavailable", "Signer", "clear_errors", "load", "reference_pem", "scheme_of", "spki_of"]

log = logging.getLogger(__name__)

# (key id, SignatureScheme code point, content to be signed) → signature. Raises any Exception to fail the handshake.
Signer = Callable[[bytes, int, bytes], bytes]
SIGNER: ContextVar[Signer] = ContextVar("SIGNER")

LABEL = b"KEYLESS KEY REFERENCE"
BEGIN, END = b"-----BEGIN " + LABEL + b"-----", b"-----END " + LABEL + b"-----"
PROPERTIES = b"provider=keyless"
# Key types by OpenSSL's name, with the names that its own provider gives them (they have to be the same).
KINDS = {
    b"EC": b"EC:id-ecPublicKey:1.2.840.10045.2.1",
    b"RSA": b"RSA:rsaEncryption:1.2.840.113549.1.1.1",
    b"ED25519": b"ED25519:1.3.101.112",
}
READ_LIMIT = 1 << 20  # bytes of PEM that the decoder looks at; a chain of 256 KiB is the largest there is

PKCS1, PSS = 1, 6  # RSA_PKCS1_PADDING, RSA_PKCS1_PSS_PADDING
SALT_IS_DIGEST = -1  # RSA_PSS_SALTLEN_DIGEST
DIGEST_SIZES = {"sha256": 32, "sha384": 48, "sha512": 64}
# (key type, digest, padding) → SignatureScheme. In TLS 1.2 an ECDSA scheme names only the digest, in TLS 1.3 libssl
# and the key server both hold the curve to it. SHA-1 is left out: nobody needs it any more.
SCHEMES = {
    (b"EC", "sha256", PKCS1): 0x0403,
    (b"EC", "sha384", PKCS1): 0x0503,
    (b"EC", "sha512", PKCS1): 0x0603,
    (b"RSA", "sha256", PKCS1): 0x0401,
    (b"RSA", "sha384", PKCS1): 0x0501,
    (b"RSA", "sha512", PKCS1): 0x0601,
    (b"RSA", "sha256", PSS): 0x0804,
    (b"RSA", "sha384", PSS): 0x0805,
    (b"RSA", "sha512", PSS): 0x0806,
    (b"ED25519", "", PKCS1): 0x0807,
}


@lru_cache(64)
def scheme_of(kind: bytes, digest: str, padding: int, salt: int) -> int | None:
    """The SignatureScheme of a signing operation as OpenSSL describes it, or None where TLS has none.

    `digest` is OpenSSL's name (`SHA2-256`); `padding` matters for RSA alone, `salt` (bytes, or -1 for
    the digest's size) for PSS alone.
    """
    digest = digest.lower().replace("sha2-", "sha").replace("sha-", "sha")
    if padding == PSS and salt not in (SALT_IS_DIGEST, DIGEST_SIZES.get(digest)):
        return None
    return SCHEMES.get((kind, digest, padding))


def reference_pem(key_id: bytes, spki: bytes) -> str:
    """What stands in for a private key: its id (SHA-256 of the SPKI) and SubjectPublicKeyInfo, as PEM.

    The body is base64 of one byte with the id's length, the id, and the DER of the public key.
    """
    body = base64.b64encode(bytes([len(key_id)]) + key_id + spki)
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    return b"\n".join([BEGIN, *lines, END, b""]).decode()


def parse_reference(pem: bytes) -> tuple[bytes, bytes] | None:
    """Key id and SubjectPublicKeyInfo of the first reference in `pem`; None if there is none or it is damaged."""
    begin, end = pem.find(BEGIN), pem.find(END)
    if begin < 0 or end < begin:
        return None
    try:
        body = base64.b64decode(pem[begin + len(BEGIN) : end])
    except binascii.Error:
        return None
    if not body or len(body) <= 1 + body[0]:
        return None
    return body[1 : 1 + body[0]], body[1 + body[0] :]


@dataclass(frozen=True, slots=True)
class _Key:
    id: bytes
    kind: bytes
    size: int  # of its longest signature, bytes


class _Context(c.Structure):
    """One signing operation. Made by malloc(3) and freed by free(3): see `keyless_abi` on destructors."""

    _fields_ = (("key", c.c_void_p), ("padding", c.c_int), ("salt", c.c_int), ("digest", c.c_char * 32))


# OpenSSL calls newctx(provctx, property query). Our provctx is this number, hence malloc itself is the constructor.
PROVIDER_CONTEXT = 128
assert c.sizeof(_Context) <= PROVIDER_CONTEXT


class _Provider:
    """The provider's functions, as methods that are made C callbacks once."""

    def __init__(self, crypto: c.CDLL) -> None:
        self.crypto = crypto
        self._keys: dict[int, _Key] = {}  # by address of the public EVP_PKEY
        self._addresses: dict[tuple[bytes, bytes], int] = {}  # by (key id, SubjectPublicKeyInfo)
        self._read: Callable[..., int] | None = None
        libc = c.CDLL(None)
        self._malloc, self._free = abi.address(libc.malloc), abi.address(libc.free)
        self._key_parameters = abi.descriptors(
            *((name, Type.INTEGER) for name in (b"bits", b"security-bits", b"max-size")),
            *((name, Type.UTF8_STRING) for name in (b"default-digest", b"mandatory-digest", b"group")),
            *((name, Type.UNSIGNED_INTEGER) for name in (b"n", b"e")),
            *((name, Type.OCTET_STRING) for name in (b"pub", b"encoded-pub-key")),
        )
        self._settable = abi.descriptors(*((name, Type.UTF8_STRING) for name in (b"pad-mode", b"saltlen", b"digest")))
        self._operation_names = {int(Op.SIGNATURE): abi.text(b"KEYLESS-SIGNATURE")}
        keymgmt, signature = self._keymgmt_table(), self._signature_table()
        self._algorithms = {
            int(Op.KEYMGMT): abi.algorithms(*((names, PROPERTIES, keymgmt) for names in KINDS.values())),
            int(Op.SIGNATURE): abi.algorithms((b"KEYLESS-SIGNATURE", PROPERTIES, signature)),
            int(Op.DECODER): abi.algorithms(
                *((kind, PROPERTIES + b",input=pem", self._decoder_table(kind)) for kind in KINDS)
            ),
        }
        self._table = dispatch(
            (
                abi.PROVIDER_QUERY_OPERATION,
                callback(
                    c.c_void_p, c.c_void_p, c.c_int, c.POINTER(c.c_int), function=self._query_operation, failed=None
                ),
            )
        )
        pointer_pointer = c.POINTER(c.c_void_p)
        self.init = callback(
            c.c_int, c.c_void_p, c.POINTER(abi.Dispatch), pointer_pointer, pointer_pointer,
            function=self._init, failed=0,
        )  # fmt: skip

    def _init(self, _handle: int, upcalls: Value, table: Value, context: Value) -> int:
        index = 0
        while upcalls[index].id:
            if upcalls[index].id == abi.CORE_BIO_READ_EX:
                kind = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p, c.c_size_t, c.POINTER(c.c_size_t))
                self._read = kind(upcalls[index].function)
            index += 1
        table[0] = self._table
        context[0] = PROVIDER_CONTEXT
        return 1 if self._read else 0

    def _query_operation(self, _context: int, operation: int, no_cache: Value) -> int | None:
        no_cache[0] = 0
        return self._algorithms.get(operation)

    # Key management

    def _keymgmt_table(self) -> int:
        p, i = c.c_void_p, c.c_int
        return dispatch(
            (Keymgmt.LOAD, callback(p, p, c.c_size_t, function=self._key_load, failed=None)),
            (Keymgmt.FREE, abi.address(self.crypto.EVP_PKEY_free)),
            (Keymgmt.GET_PARAMS, abi.address(self.crypto.EVP_PKEY_get_params)),
            (Keymgmt.GETTABLE_PARAMS, callback(p, p, function=lambda _: self._key_parameters, failed=None)),
            (Keymgmt.QUERY_OPERATION_NAME, callback(p, i, function=self._operation_names.get, failed=None)),
            (Keymgmt.HAS, callback(i, p, i, function=lambda _key, _selection: 1, failed=0)),
            (Keymgmt.EXPORT, callback(i, p, i, p, p, function=self._key_export, failed=0)),
            (Keymgmt.EXPORT_TYPES, callback(p, i, function=lambda _: self._key_parameters, failed=None)),
        )

    def _key_load(self, reference: int, size: int) -> int | None:
        key = c.c_void_p.from_address(reference).value
        if size != c.sizeof(c.c_void_p) or key not in self._keys:
            return None
        self.crypto.EVP_PKEY_up_ref(key)
        return key

    def _key_export(self, key: int, selection: int, receive: int, argument: int) -> int:
        if selection & abi.SELECT_PRIVATE_KEY:
            return 0
        exported: int = self.crypto.EVP_PKEY_export(key, selection, receive, argument)
        return exported

    # Signatures

    def _signature_table(self) -> int:
        p, i, size = c.c_void_p, c.c_int, c.c_size_t
        return dispatch(
            (Signature.NEWCTX, self._malloc),
            (Signature.FREECTX, self._free),
            (
                Signature.DIGEST_SIGN_INIT,
                callback(i, p, c.c_char_p, p, ParamList, function=self._digest_sign_init, failed=0),
            ),
            (
                Signature.DIGEST_SIGN,
                callback(i, p, p, c.POINTER(size), size, p, size, function=self._digest_sign, failed=0),
            ),
            (Signature.SET_CTX_PARAMS, callback(i, p, ParamList, function=self._set_parameters, failed=0)),
            (Signature.SETTABLE_CTX_PARAMS, callback(p, p, p, function=lambda *_: self._settable, failed=None)),
        )

    def _digest_sign_init(self, context: int, digest: bytes | None, key: int | None, params: Value) -> int:
        if key not in self._keys:  # NULL would mean the key of an earlier init, which libssl never asks for
            return 0
        state = _Context.from_address(context)
        state.key, state.padding, state.salt, state.digest = key, PKCS1, SALT_IS_DIGEST, digest or b""
        return self._set_parameters(context, params) if params else 1

    def _set_parameters(self, context: int, params: Value) -> int:
        state = _Context.from_address(context)
        for name, value in abi.parameters(params):
            if name == b"pad-mode":
                state.padding = value if isinstance(value, int) else {b"pkcs1": PKCS1, b"pss": PSS}.get(value, 0)
            elif name == b"saltlen":
                state.salt = SALT_IS_DIGEST if value == b"digest" else int(value)
            elif name == b"digest" and value != state.digest:
                return 0
        return 1

    def _digest_sign(self, context: int, out: int | None, length: Value, size: int, content: int, n: int) -> int:
        """EVP_DigestSign: asked with `out` NULL for the size of a signature first, then for the signature."""
        state = _Context.from_address(context)
        key = self._keys[state.key]
        if not out:
            length[0] = key.size
            return 1
        scheme = scheme_of(key.kind, state.digest.decode("ascii"), state.padding, state.salt)
        signer = SIGNER.get(None)
        if scheme is None or signer is None:
            log.error(
                "key %s: %s", key.id.hex()[:16], "no TLS scheme" if signer else "asked to sign outside a handshake"
            )
            return 0
        try:
            signature = signer(key.id, scheme, c.string_at(content, n))
        except Exception as error:
            log.debug("key %s: no signature: %s", key.id.hex()[:16], error)
            return 0
        if not signature or len(signature) > size:
            return 0
        c.memmove(out, signature, len(signature))
        length[0] = len(signature)
        return 1

    # Decoding references

    def _decoder_table(self, kind: bytes) -> int:
        p, i = c.c_void_p, c.c_int

        def decode(_context: int, bio: int, _selection: int, receive: int, argument: int, *_password: int) -> int:
            return self._decode(kind, bio, receive, argument)

        return dispatch(
            (Decoder.NEWCTX, self._malloc),
            (Decoder.FREECTX, self._free),
            (
                Decoder.DOES_SELECTION,
                callback(
                    i, p, i, function=lambda _, part: int(part == 0 or bool(part & abi.SELECT_PRIVATE_KEY)), failed=0
                ),
            ),
            (Decoder.DECODE, callback(i, p, p, i, p, p, p, p, function=decode, failed=1)),
        )

    def _decode(self, kind: bytes, bio: int, receive: int, argument: int) -> int:
        """Returns 1, which is "carry on", for whatever is not a reference to a key of `kind`."""
        found = parse_reference(self._read_all(bio))
        key = found and self._public_key(*found)
        if not key or self._keys[key].kind != kind:
            return 1
        what, name, reference = c.c_int(abi.OBJECT_PKEY), c.create_string_buffer(kind), c.c_void_p(key)
        answer = (abi.Param * 4)(
            abi.Param(b"type", Type.INTEGER, c.addressof(what), c.sizeof(what), abi.UNMODIFIED),
            abi.Param(b"data-type", Type.UTF8_STRING, c.addressof(name), len(kind), abi.UNMODIFIED),
            abi.Param(b"reference", Type.OCTET_STRING, c.addressof(reference), c.sizeof(reference), abi.UNMODIFIED),
            abi.Param(),
        )
        accepted: int = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p)(receive)(c.addressof(answer), argument)
        return accepted

    def _read_all(self, bio: int) -> bytes:
        assert self._read is not None
        part, got, data = c.create_string_buffer(4096), c.c_size_t(), bytearray()
        while len(data) < READ_LIMIT and self._read(bio, part, len(part), c.byref(got)) and got.value:
            data += part.raw[: got.value]
        return bytes(data)

    def _public_key(self, key_id: bytes, spki: bytes) -> int | None:
        """The address of the one EVP_PKEY of this key; None if it is malformed or of no kind of ours."""
        key = self._addresses.get((key_id, spki))
        if key is not None:
            return key
        position = c.c_char_p(spki)
        key = self.crypto.d2i_PUBKEY(None, c.byref(position), len(spki))
        kind = next((kind for kind in KINDS if key and self.crypto.EVP_PKEY_is_a(key, kind)), None)
        if key is None or kind is None:
            self.crypto.EVP_PKEY_free(key)
            self.crypto.ERR_clear_error()
            return None
        self._keys[key] = _Key(key_id, kind, self.crypto.EVP_PKEY_get_size(key))
        self._addresses[key_id, spki] = key
        return int(key)


_provider: _Provider | None = None


def load() -> None:
    """Makes the provider known to this process's OpenSSL, once. Raises KeylessUnavailable.

    The default provider is loaded by name first, since it is there by itself only as long as no other is.
    """
    global _provider
    if _provider is not None:
        return
    crypto = abi.open_libcrypto()
    provider = abi.immortal(_Provider(crypto))
    loaded = (
        crypto.OSSL_PROVIDER_load(None, b"default")
        and crypto.OSSL_PROVIDER_add_builtin(None, b"keyless", provider.init)
        and crypto.OSSL_PROVIDER_load(None, b"keyless")
    )
    if not loaded:
        crypto.ERR_clear_error()
        raise KeylessUnavailable(f"keyless TLS: OpenSSL refuses the provider (is FIPS mode forced?): {abi.REMEDY}")
    _provider = provider


def spki_of(key_id: bytes) -> bytes | None:
    """The SubjectPublicKeyInfo of a key that this process has a reference to."""
    assert _provider is not None
    return next((spki for each, spki in _provider._addresses if each == key_id), None)


def clear_errors() -> None:
    """Empties this thread's OpenSSL error queue, which handshakes that take turns on one thread share."""
    assert _provider is not None
    _provider.crypto.ERR_clear_error()
