"""Which Pythons are refused and how; how callbacks fail; how parameters are read."""

from __future__ import annotations

import ctypes as c
import ssl
import sys

import pytest

from proxy import keyless_abi as abi


def test_the_library_found_is_the_one_that_ssl_uses() -> None:
    assert abi.open_libcrypto().OpenSSL_version_num() == ssl.OPENSSL_VERSION_NUMBER


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ((abi, "LIBCRYPTO", "libcrypto-not-loaded.so.3"), "does not use a shared libcrypto-not-loaded.so.3"),
        ((ssl, "OPENSSL_VERSION_NUMBER", 0x30500070), "but the ssl module"),
        ((ssl, "OPENSSL_VERSION_INFO", (1, 1, 1, 23, 15)), "needs OpenSSL 3"),
    ],
)
def test_other_pythons_are_told_what_to_do(patch, says, monkeypatch) -> None:
    monkeypatch.setattr(*patch)
    with pytest.raises(abi.KeylessUnavailable) as error:
        abi.open_libcrypto()
    assert says in str(error.value)
    assert "/usr/bin/python3" in str(error.value)
    assert "\n" not in str(error.value)


def test_callbacks_let_no_exception_out(caplog) -> None:
    for wrong in (ValueError("wrong"), KeyboardInterrupt(), SystemExit(3)):

        def fails(number: int, wrong: BaseException = wrong) -> int:
            raise wrong

        function = c.CFUNCTYPE(c.c_int, c.c_int)(abi.callback(c.c_int, c.c_int, function=fails, failed=7))
        assert function(1) == 7
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_parameters_of_all_types_are_read() -> None:
    word, signed, text = c.c_uint(7), c.c_int(-1), c.create_string_buffer(b"SHA2-256")
    given = (abi.Param * 4)(
        abi.Param(b"unsigned", abi.Type.UNSIGNED_INTEGER, c.addressof(word), 4, 0),
        abi.Param(b"signed", abi.Type.INTEGER, c.addressof(signed), 4, 0),
        abi.Param(b"text", abi.Type.UTF8_STRING, c.addressof(text), 8, 0),
        abi.Param(),
    )
    assert dict(abi.parameters(given)) == {b"unsigned": 7, b"signed": -1, b"text": b"SHA2-256"}
    assert list(abi.parameters(None)) == []


def test_immortals_have_a_reference_too_many() -> None:
    thing = ["a thing"]
    before = sys.getrefcount(thing)
    assert abi.immortal(thing) is thing
    assert sys.getrefcount(thing) == before + 2
