"""The part of OpenSSL 3's provider interface that `proxy.keyless` uses, declared for ctypes.

A provider is a set of C tables: arrays of (function id, function) that end in a zero. OpenSSL keeps pointers into them
until the process ends, and calls them until then too. Hence the two rules of this module:

* Whatever OpenSSL may still point to is made immortal: its reference is given away, so that neither the garbage
  collector nor the interpreter's shutdown frees it.
* A callback into Python never lets an exception out, and no *destructor* is a callback: OpenSSL runs destructors at
  exit, when there is no Python left to enter. Those are functions of libc or libcrypto themselves.

Source: openssl/core.h, openssl/core_dispatch.h, provider-base(7), provider-keymgmt(7), provider-signature(7),
provider-decoder(7) of OpenSSL 3.0.
"""

from __future__ import annotations

import ctypes as c
import logging
import os
import ssl
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, TypeVar

log = logging.getLogger(__name__)

LIBCRYPTO = "libcrypto.so.3"
REMEDY = (
    "run it with a Python whose ssl module uses the system's shared OpenSSL 3 (Debian, Ubuntu: /usr/bin/python3), "
    "not one that has OpenSSL linked in"
)


class KeylessUnavailable(Exception):
    """This Python cannot serve TLS with keys held elsewhere. The text says why and what to do."""


class Op(IntEnum):
    """OSSL_OP_*: what a provider may be asked for."""

    KEYMGMT = 10
    SIGNATURE = 12
    DECODER = 21


class Keymgmt(IntEnum):
    """OSSL_FUNC_KEYMGMT_*"""

    LOAD = 8
    FREE = 10
    GET_PARAMS = 11
    GETTABLE_PARAMS = 12
    QUERY_OPERATION_NAME = 20
    HAS = 21
    EXPORT = 42
    EXPORT_TYPES = 43


class Signature(IntEnum):
    """OSSL_FUNC_SIGNATURE_*"""

    NEWCTX = 1
    DIGEST_SIGN_INIT = 8
    DIGEST_SIGN = 11
    FREECTX = 16
    SET_CTX_PARAMS = 20
    SETTABLE_CTX_PARAMS = 21


class Decoder(IntEnum):
    """OSSL_FUNC_DECODER_*"""

    NEWCTX = 1
    FREECTX = 2
    DOES_SELECTION = 10
    DECODE = 11


PROVIDER_QUERY_OPERATION = 1027
CORE_BIO_READ_EX = 42
SELECT_PRIVATE_KEY = 0x01
OBJECT_PKEY = 2


class Type(IntEnum):
    """OSSL_PARAM_*: the data type of a parameter."""

    INTEGER = 1
    UNSIGNED_INTEGER = 2
    UTF8_STRING = 4
    OCTET_STRING = 5


UNMODIFIED = c.c_size_t(-1).value


class Dispatch(c.Structure):
    _fields_ = (("id", c.c_int), ("function", c.c_void_p))


class Algorithm(c.Structure):
    _fields_ = (
        ("names", c.c_char_p),
        ("properties", c.c_char_p),
        ("implementation", c.c_void_p),
        ("description", c.c_char_p),
    )


class Param(c.Structure):
    _fields_ = (
        ("key", c.c_char_p),
        ("type", c.c_uint),
        ("data", c.c_void_p),
        ("size", c.c_size_t),
        ("return_size", c.c_size_t),
    )


ParamList = c.POINTER(Param)
Thing = TypeVar("Thing")
# What ctypes hands to a callback and takes from it: addresses, integers, byte strings, pointers.
Value = Any  # the C types decide, at run time
_immortals: list[object] = []


def immortal(thing: Thing) -> Thing:
    """Gives one reference to `thing` away for ever."""
    _immortals.append(thing)
    c.pythonapi.Py_IncRef(c.py_object(thing))
    return thing


def address(function: Value) -> int:
    """The address of a C function or of a callback."""
    return c.cast(function, c.c_void_p).value or 0


def callback(result: Value, *arguments: Value, function: Callable[..., Value], failed: Value) -> int:
    """The address of a C function that calls `function`, and returns `failed` if that raises anything at all.

    GreenletExit and KeyboardInterrupt count as failures too: OpenSSL's frames lie below and have to unwind.
    """

    def guarded(*values: Value) -> Value:
        try:
            return function(*values)
        except Exception:
            log.exception("keyless provider: %s failed", getattr(function, "__name__", function))
            return failed
        except BaseException:
            return failed

    return address(immortal(c.CFUNCTYPE(result, *arguments)(guarded)))


def dispatch(*entries: tuple[int, int]) -> int:
    """The address of an OSSL_DISPATCH table."""
    rows = [Dispatch(int(number), function) for number, function in entries]
    return c.addressof(immortal((Dispatch * (len(rows) + 1))(*rows, Dispatch(0, None))))


def algorithms(*entries: tuple[bytes, bytes, int]) -> int:
    """The address of an OSSL_ALGORITHM table of (names, properties, dispatch table)."""
    rows = [Algorithm(names, properties, table, b"") for names, properties, table in entries]
    return c.addressof(immortal((Algorithm * (len(rows) + 1))(*rows, Algorithm(None, None, None, None))))


def descriptors(*entries: tuple[bytes, Type]) -> int:
    """The address of an OSSL_PARAM table that says which parameters there are, without values."""
    rows = [Param(key, int(kind), None, 0, UNMODIFIED) for key, kind in entries]
    return c.addressof(immortal((Param * (len(rows) + 1))(*rows, Param())))


def text(value: bytes) -> int:
    """The address of an immortal C string."""
    return c.addressof(immortal(c.create_string_buffer(value)))


def parameters(first: Value) -> Iterator[tuple[bytes, int | bytes]]:
    """Name and value of every parameter of an OSSL_PARAM list, which may be NULL."""
    index = 0
    while first and first[index].key is not None:
        param = first[index]
        raw = c.string_at(param.data, param.size)
        if param.type in (Type.INTEGER, Type.UNSIGNED_INTEGER):
            yield param.key, int.from_bytes(raw, sys.byteorder, signed=param.type == Type.INTEGER)
        else:
            yield param.key, raw.split(b"\0")[0]
        index += 1


def open_libcrypto() -> c.CDLL:
    """The very libcrypto that the ssl module works with, its functions declared.

    RTLD_NOLOAD finds it only if it is in the process already. A second copy (the one inside `cryptography`, or the
    system's next to a Python with OpenSSL linked in) has providers of its own, which the ssl module would never see.

    Raises KeylessUnavailable.
    """
    if ssl.OPENSSL_VERSION_INFO < (3, 0):
        raise KeylessUnavailable(f"keyless TLS needs OpenSSL 3, this Python has {ssl.OPENSSL_VERSION}: {REMEDY}")
    try:
        crypto = c.CDLL(LIBCRYPTO, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        raise KeylessUnavailable(
            f"keyless TLS: {sys.executable} does not use a shared {LIBCRYPTO} ({ssl.OPENSSL_VERSION} is linked in): "
            f"{REMEDY}"
        ) from None
    crypto.OpenSSL_version_num.restype = c.c_ulong
    if crypto.OpenSSL_version_num() != ssl.OPENSSL_VERSION_NUMBER:
        raise KeylessUnavailable(
            f"keyless TLS: {LIBCRYPTO} is version {crypto.OpenSSL_version_num():#x} but the ssl module of "
            f"{sys.executable} uses {ssl.OPENSSL_VERSION_NUMBER:#x}: {REMEDY}"
        )
    _declare(crypto)
    return crypto


def _declare(crypto: c.CDLL) -> None:
    pointer = c.c_void_p
    crypto.d2i_PUBKEY.restype = pointer
    crypto.d2i_PUBKEY.argtypes = [pointer, pointer, c.c_long]
    crypto.EVP_PKEY_up_ref.argtypes = [pointer]
    crypto.EVP_PKEY_free.argtypes = [pointer]
    crypto.EVP_PKEY_get_size.argtypes = [pointer]
    crypto.EVP_PKEY_is_a.argtypes = [pointer, c.c_char_p]
    crypto.EVP_PKEY_export.argtypes = [pointer, c.c_int, pointer, pointer]
    crypto.ERR_clear_error.argtypes = []
    crypto.ERR_clear_error.restype = None
    crypto.OSSL_PROVIDER_add_builtin.argtypes = [pointer, c.c_char_p, pointer]
    crypto.OSSL_PROVIDER_load.argtypes = [pointer, c.c_char_p]
    crypto.OSSL_PROVIDER_load.restype = pointer
