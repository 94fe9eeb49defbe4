"""The `SSL_CTX*` inside an `ssl.SSLContext`, for what libssl can do and Python's module does not offer.

CPython keeps it right behind the object's header (`PySSLContext` in Modules/_ssl.c). Nothing promises that, so it is
proved once, before anything is changed by such a pointer: options that are toggled by one API have to show in the
other. Where they do not, `NativeUnavailable` says so, and its caller goes without.
"""

from __future__ import annotations

import ctypes as c
import os
import ssl
from functools import cache

LIBSSL = "libssl.so.3"


class NativeUnavailable(Exception):
    """This Python's contexts cannot be reached; the text says why."""


@cache
def libssl() -> c.CDLL:
    """The very libssl that the ssl module works with. Raises NativeUnavailable."""
    try:
        library = c.CDLL(LIBSSL, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        raise NativeUnavailable(f"{ssl.OPENSSL_VERSION} is linked in, there is no shared {LIBSSL}") from None
    pointer = c.c_void_p
    library.SSL_CTX_get_options.argtypes = [pointer]
    library.SSL_CTX_get_options.restype = c.c_uint64
    library.SSL_CTX_ctrl.argtypes = [pointer, c.c_int, c.c_long, pointer]
    library.SSL_CTX_ctrl.restype = c.c_long
    library.SSL_CTX_callback_ctrl.argtypes = [pointer, c.c_int, pointer]
    library.SSL_CTX_callback_ctrl.restype = c.c_long
    library.SSL_ctrl.argtypes = [pointer, c.c_int, c.c_long, pointer]
    library.SSL_ctrl.restype = c.c_long
    library.SSL_load_client_CA_file.argtypes = [c.c_char_p]
    library.SSL_load_client_CA_file.restype = pointer
    library.SSL_CTX_set_client_CA_list.argtypes = [pointer, pointer]
    library.SSL_CTX_set_client_CA_list.restype = None
    library.SSL_get_certificate.argtypes = [pointer]
    library.SSL_get_certificate.restype = pointer
    return library


def ssl_ctx(context: ssl.SSLContext) -> int:
    """The address of its SSL_CTX, good as long as `context` lives. Raises NativeUnavailable."""
    _prove()
    return _behind_header(context)


def _behind_header(context: ssl.SSLContext) -> int:
    return c.c_void_p.from_address(id(context) + object.__basicsize__).value or 0


@cache
def _prove() -> None:
    library, context = libssl(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    address = _behind_header(context)
    for option in (ssl.OP_NO_TICKET, ssl.OP_CIPHER_SERVER_PREFERENCE):
        for wanted in (True, False):
            context.options = context.options | option if wanted else context.options & ~option
            if not address or bool(library.SSL_CTX_get_options(address) & option) is not wanted:
                raise NativeUnavailable("contexts of this Python are laid out differently")
