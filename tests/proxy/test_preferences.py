"""What clients would rather have: RFC 9110's own examples, and what is written wrongly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.model import Coding
from proxy.preferences import LIST_BYTES, coding_for, likes_html

ALL = (Coding.ZSTD, Coding.BR, Coding.GZIP)
Z, B, G = Coding.ZSTD, Coding.BR, Coding.GZIP


@pytest.mark.parametrize(
    ("fields", "coding"),
    [
        ([], None),
        ([b""], None),
        ([b"gzip"], G),
        ([b"gzip, deflate, br, zstd"], Z),
        ([b"gzip", b"br"], B),
        ([b"GZip"], G),
        ([b"x-gzip"], G),
        ([b"deflate, compress"], None),
        ([b"br;q=0.9, gzip"], G),
        ([b"br ; Q=0.9 , gzip;q=0.8"], B),
        ([b"zstd;q=0, br;q=0.000, gzip"], G),
        ([b"gzip;q=0"], None),
        # RFC 9110 §12.5.3.
        ([b"compress, gzip"], G),
        ([b"*"], Z),
        ([b"compress;q=0.5, gzip;q=1.0"], G),
        ([b"gzip;q=1.0, identity; q=0.5, *;q=0"], G),
        ([b"zstd;q=0, *;q=0.3"], B),
        ([b"*;q=0"], None),
        # Whoever would rather have it plain gets it plain.
        ([b"identity, gzip;q=0.5"], None),
        ([b"identity;q=0.5, gzip;q=0.5"], G),
        # Malformed members count as not there.
        ([b"br;q=2, gzip"], G),
        ([b"br;q=, gzip"], G),
        ([b"br;q=-1, gzip"], G),
        ([b"br;q=0.1234, gzip;q=0.1"], G),
        ([b",,;q=1, gzip,"], G),
        ([b"gzip," + b"x," * LIST_BYTES], None),
        # The first word counts.
        ([b"gzip;q=0, gzip"], None),
    ],
    ids=str,
)
def test_codings(fields: list[bytes], coding: Coding | None) -> None:
    assert coding_for(fields, ALL) is coding


@pytest.mark.parametrize(("ours", "coding"), [((G, B), G), ((B, G), B), ((Z,), None), ((), None)])
def test_among_equals_ours_come_in_our_order(ours: tuple[Coding, ...], coding: Coding | None) -> None:
    assert coding_for([b"br, gzip"], ours) is coding


@pytest.mark.parametrize(
    ("fields", "html"),
    [
        ([], False),
        ([b"*/*"], False),
        ([b"text/*;q=0.1"], False),
        ([b"nonsense;q=x"], False),
        ([b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"], True),
        ([b"application/json"], None),
        ([b"application/json, */*"], False),
        ([b"application/json, text/html;q=0.9"], False),
        ([b"text/html;q=0.9, application/json;q=0.9"], True),
        ([b"text/html;q=0"], None),
        ([b"text/html;q=0, */*"], None),
        ([b"*/*;q=0"], None),
        ([b"text/html;level=1;q=0.4"], True),
        ([b"text/plain", b"text/html"], True),
    ],
    ids=str,
)
def test_html(fields: list[bytes], html: bool | None) -> None:
    assert likes_html(fields) is html


@given(st.lists(st.binary(max_size=40), max_size=3))
def test_nothing_that_clients_send_breaks_it(fields: list[bytes]) -> None:
    assert coding_for(fields, ALL) in (None, *ALL)
    assert likes_html(fields) in (True, False, None)
