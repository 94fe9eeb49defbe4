"""The fast lane for streams of HTTP/2: fields to the text that a request of HTTP/1.1 has, heads of answers to blocks.

The lane (lane.py) knows messages by their text. So a request's fields are written as such a text, which the lane then
reads, judges and remembers as it does those of HTTP/1.1: there is no second policy. What the text cannot say is seen to
here: pseudo-fields as they should be, names in lower case, and no value that would end its line. Whatever is not
plainly right is None, for the common way to look at (h2_message.py).
"""

from __future__ import annotations

import re
from typing import Final

from proxy.hpack import Pair
from proxy.http2 import head_block
from proxy.memory import Memory

_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^`|~-]{1,128}")  # a token in lower case; without _, which is dropped
# What concerns one connection, or says what the stream says already.
_CONNECTION: Final = frozenset(
    (
        b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"proxy-connection", b"te", b"trailer",
        b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))
_CHUNK_END: Final = b"\r\n0\r\n\r\n"
NAMES: Final = 4096

_names: Final[dict[bytes, bool]] = {}  # which of them may pass
_blocks: Final = Memory[bytes](limit=4096, size_bytes=4096)


def request_text(fields: list[Pair], scheme: bytes) -> bytes | None:
    """The text of a request without a body; None where it is anything but plain."""
    if len(fields) < 4:
        return None
    pseudo = dict(fields[:4])
    if pseudo.keys() != _PSEUDO or pseudo[b":scheme"] != scheme:
        return None
    parts = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (pseudo[b":method"], pseudo[b":path"], pseudo[b":authority"])]
    names, crumbs = _names, None
    for name, value in fields[4:]:
        good = names.get(name)
        if not good:
            if good is None:
                good = _learn(name)
            if not good:
                return None
        if name == b"cookie":
            if crumbs is not None:  # RFC 9113 §8.2.3
                crumbs.append(value)
                continue
            crumbs = [value]
            parts.append(b"")  # its place
            place = len(parts) - 1
            continue
        parts.append(b"%b: %b\r\n" % (name, value))
    if crumbs is not None:
        parts[place] = b"cookie: %b\r\n" % b"; ".join(crumbs)
    parts.append(b"\r\n")
    text = b"".join(parts)
    lines = len(parts) + 1
    if text.count(b"\n") != lines or text.count(b"\r") != lines or b"\0" in text:
        return None  # a value that ends its line
    if b":  " in text or b": \t" in text or b" \r\n" in text or b"\t\r\n" in text:
        return None  # perhaps one with white space around it, or none
    return text


def _learn(name: bytes) -> bool:
    good = name not in _CONNECTION and _NAME.fullmatch(name) is not None
    if len(_names) >= NAMES:
        _names.clear()
    _names[name] = good
    return good


def answer_block(head: bytes) -> bytes:
    """The block of an answer's head, whose text the lane has made, and whose connection goes on."""
    block = _blocks.get(head)
    if block is None:
        status, _, lines = head.partition(b"\r\n")
        kept = [line for line in lines.split(b"\r\n") if not line.lower().startswith(b"transfer-encoding:")]
        block = head_block(int(status[9:12]), b"\r\n".join(kept))
        _blocks.put(head, block)
    return block


def answer_payload(body: bytes, *, chunked: bool) -> bytes:
    """Of an answer's body as the lane passes it on, in one chunk or in none."""
    if not chunked:
        return body
    return body[body.index(b"\r\n") + 2 : -len(_CHUNK_END)] if len(body) > len(_CHUNK_END) else b""
