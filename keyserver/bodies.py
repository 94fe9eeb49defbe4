"""The bodies of frames: messages to bytes and back. `protocol.md` draws every byte.

A layout is the fixed part of a body; its last fields are the lengths of the parts that follow it. A reader must consume
exactly what the frame's header says, and raises WireError, struct.error or UnicodeError for a body that contradicts
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from struct import error as StructError

from certs.report import ChainReport, Staple
from keyserver.errors import ErrorCode, WireError
from keyserver.messages import (
    KEY_ID_BYTES,
    MAGIC,
    MAX_CHAIN_BYTES,
    MAX_FRAME_BYTES,
    MAX_NAME_BYTES,
    SECRET_BYTES,
    ChainChecked,
    CheckChain,
    Failed,
    Find,
    Found,
    GetStaple,
    Goodbye,
    Hello,
    Message,
    Ping,
    Pong,
    Sign,
    Signed,
    StapleGiven,
    Tag,
    Tickets,
    TicketSecrets,
    Welcome,
)

Reader = Callable[[int, bytes, int, int], Message]  # (request id, data, start and end of the body) → message

FRAME = Struct(">IBI")  # length of all that follows the length itself, tag, request id
LENGTH_BYTES = 4
LEAST_LENGTH = FRAME.size - LENGTH_BYTES
_HELLO = Struct(">4sBB")
_WELCOME = Struct(">BI")
_SIGN = Struct(">32sHBH")  # key id, scheme, length of the SNI, length of the content
_CODE = Struct(">B")
_REPORT = Struct(">32sqHH")  # key id, expiry, number of names, number of problems
_TEXT = Struct(">H")  # length of a text
_COUNT = Struct(">H")  # number of chains
_PERIOD = Struct(">q32s")  # beginning, secret
_CHAIN = Struct(">32sI")  # key id, length of the chain
_STAPLE = Struct(">qHH")  # end of the answer, length of the answer, length of the text


def _frame(tag: int, request_id: int, body: bytes = b"") -> bytes:
    length = LEAST_LENGTH + len(body)
    if length > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {length} bytes; {MAX_FRAME_BYTES} are allowed")
    return FRAME.pack(length, tag, request_id) + body


def _ends(at: int, end: int) -> None:
    if at != end:
        raise WireError(f"a body that ends {abs(end - at)} bytes {'later' if end > at else 'earlier'} than it says")


def _write_hello(message: Hello) -> bytes:
    return _frame(Tag.HELLO, 0, _HELLO.pack(MAGIC, message.lowest, message.highest))


def _read_hello(request_id: int, data: bytes, start: int, end: int) -> Hello:
    _ends(start + _HELLO.size, end)
    magic, lowest, highest = _HELLO.unpack_from(data, start)
    if magic != MAGIC:
        raise WireError("not the key server's protocol")
    return Hello(lowest, highest)


def _write_welcome(message: Welcome) -> bytes:
    return _frame(Tag.WELCOME, 0, _WELCOME.pack(*message))


def _read_welcome(request_id: int, data: bytes, start: int, end: int) -> Welcome:
    _ends(start + _WELCOME.size, end)
    return Welcome(*_WELCOME.unpack_from(data, start))


def _write_sign(message: Sign) -> bytes:
    request_id, key_id, scheme, sni, content = message
    if len(key_id) != KEY_ID_BYTES:
        raise WireError(f"a key id of {len(key_id)} bytes; it has {KEY_ID_BYTES}")
    name = sni.encode("ascii")
    return _frame(Tag.SIGN, request_id, _SIGN.pack(key_id, scheme, len(name), len(content)) + name + content)


def _read_sign(request_id: int, data: bytes, start: int, end: int) -> Sign:
    key_id, scheme, name_bytes, content_bytes = _SIGN.unpack_from(data, start)
    name = start + _SIGN.size
    content = name + name_bytes
    if content + content_bytes != end:
        _ends(content + content_bytes, end)
    return Sign(request_id, key_id, scheme, data[name:content].decode("ascii"), data[content:end])


def _write_signed(message: Signed) -> bytes:
    return _frame(Tag.SIGNED, message[0], message[1])


def _read_signed(request_id: int, data: bytes, start: int, end: int) -> Signed:
    return Signed(request_id, data[start:end])


def _chain_of(pem: bytes) -> bytes:
    if len(pem) > MAX_CHAIN_BYTES:
        raise WireError(f"a chain of {len(pem)} bytes; {MAX_CHAIN_BYTES} are allowed")
    return pem


def _write_check_chain(message: CheckChain) -> bytes:
    return _frame(Tag.CHECK_CHAIN, message.request_id, _chain_of(message.pem.encode()))


def _read_check_chain(request_id: int, data: bytes, start: int, end: int) -> CheckChain:
    return CheckChain(request_id, _chain_of(data[start:end]).decode())


def _write_chain_checked(message: ChainChecked) -> bytes:
    report = message.report
    texts = [text.encode() for text in (*report.names, *report.problems)]
    fixed = _REPORT.pack(report.key_id, report.not_after, len(report.names), len(report.problems))
    return _frame(
        Tag.CHAIN_CHECKED, message.request_id, fixed + b"".join(_TEXT.pack(len(text)) + text for text in texts)
    )


def _read_chain_checked(request_id: int, data: bytes, start: int, end: int) -> ChainChecked:
    key_id, not_after, names, problems = _REPORT.unpack_from(data, start)
    at = start + _REPORT.size
    texts: list[str] = []
    for _ in range(names + problems):
        (size,) = _TEXT.unpack_from(data, at)
        at += _TEXT.size + size
        if at > end:
            _ends(at, end)
        texts.append(data[at - size : at].decode())
    _ends(at, end)
    return ChainChecked(request_id, ChainReport(key_id, tuple(texts[:names]), not_after, tuple(texts[names:])))


def _write_find(message: Find) -> bytes:
    name = message.name.encode("ascii")
    if not 0 < len(name) <= MAX_NAME_BYTES:
        raise WireError(f"a name of {len(name)} bytes; 1 to {MAX_NAME_BYTES} are allowed")
    return _frame(Tag.FIND, message.request_id, name)


def _read_find(request_id: int, data: bytes, start: int, end: int) -> Find:
    if not 0 < end - start <= MAX_NAME_BYTES:
        raise WireError(f"a name of {end - start} bytes; 1 to {MAX_NAME_BYTES} are allowed")
    return Find(request_id, data[start:end].decode("ascii"))


def _write_found(message: Found) -> bytes:
    parts = [_COUNT.pack(len(message.chains))]
    for key_id, chain in message.chains:
        if len(key_id) != KEY_ID_BYTES:
            raise WireError(f"a key id of {len(key_id)} bytes; it has {KEY_ID_BYTES}")
        pem = chain.encode()
        parts += [_CHAIN.pack(key_id, len(pem)), pem]
    return _frame(Tag.FOUND, message.request_id, b"".join(parts))


def _read_found(request_id: int, data: bytes, start: int, end: int) -> Found:
    (count,) = _COUNT.unpack_from(data, start)
    at = start + _COUNT.size
    chains: list[tuple[bytes, str]] = []
    for _ in range(count):
        key_id, size = _CHAIN.unpack_from(data, at)
        at += _CHAIN.size + size
        if at > end:
            _ends(at, end)
        chains.append((key_id, data[at - size : at].decode()))
    _ends(at, end)
    return Found(request_id, tuple(chains))


def _write_get_staple(message: GetStaple) -> bytes:
    return _frame(Tag.GET_STAPLE, message.request_id, _chain_of(message.pem.encode()))


def _read_get_staple(request_id: int, data: bytes, start: int, end: int) -> GetStaple:
    return GetStaple(request_id, _chain_of(data[start:end]).decode())


def _write_staple_given(message: StapleGiven) -> bytes:
    answer, ends, why = message.staple.answer, message.staple.ends, message.staple.why.encode()
    body = _STAPLE.pack(ends, len(answer), len(why)) + answer + why
    return _frame(Tag.STAPLE_GIVEN, message.request_id, body)


def _read_staple_given(request_id: int, data: bytes, start: int, end: int) -> StapleGiven:
    ends, answer_bytes, why_bytes = _STAPLE.unpack_from(data, start)
    answer = start + _STAPLE.size
    why = answer + answer_bytes
    _ends(why + why_bytes, end)
    return StapleGiven(request_id, Staple(data[answer:why], ends, data[why:end].decode()))


def _write_tickets(message: Tickets) -> bytes:
    return _frame(Tag.TICKETS, message.request_id)


def _read_tickets(request_id: int, data: bytes, start: int, end: int) -> Tickets:
    _ends(start, end)
    return Tickets(request_id)


def _write_ticket_secrets(message: TicketSecrets) -> bytes:
    if any(len(secret) != SECRET_BYTES for _, secret in message.secrets):
        raise WireError(f"a secret that does not have {SECRET_BYTES} bytes")
    return _frame(Tag.TICKET_SECRETS, message.request_id, b"".join(_PERIOD.pack(*each) for each in message.secrets))


def _read_ticket_secrets(request_id: int, data: bytes, start: int, end: int) -> TicketSecrets:
    if (end - start) % _PERIOD.size:
        raise WireError(f"secrets of {end - start} bytes; each has {_PERIOD.size}")
    return TicketSecrets(request_id, tuple(_PERIOD.unpack_from(data, at) for at in range(start, end, _PERIOD.size)))


def _write_ping(message: Ping) -> bytes:
    return _frame(Tag.PING, message.request_id)


def _read_ping(request_id: int, data: bytes, start: int, end: int) -> Ping:
    _ends(start, end)
    return Ping(request_id)


def _write_pong(message: Pong) -> bytes:
    return _frame(Tag.PONG, message.request_id)


def _read_pong(request_id: int, data: bytes, start: int, end: int) -> Pong:
    _ends(start, end)
    return Pong(request_id)


def _write_failed(message: Failed) -> bytes:
    return _frame(Tag.FAILED, message.request_id, _CODE.pack(message.code))


def _read_failed(request_id: int, data: bytes, start: int, end: int) -> Failed:
    """A code that this version does not know, or that never travels, counts as INTERNAL."""
    _ends(start + _CODE.size, end)
    (code,) = _CODE.unpack_from(data, start)
    return Failed(request_id, _WIRE_CODES.get(code, ErrorCode.INTERNAL))


def _write_goodbye(message: Goodbye) -> bytes:
    return _frame(Tag.GOODBYE, 0)


def _read_goodbye(request_id: int, data: bytes, start: int, end: int) -> Goodbye:
    _ends(start, end)
    return Goodbye()


_WIRE_CODES: Mapping[int, ErrorCode] = {code: code for code in ErrorCode if code < 0x80}
_WRITERS: Mapping[type[Message], Callable[..., bytes]] = {
    Hello: _write_hello,
    Welcome: _write_welcome,
    Sign: _write_sign,
    Signed: _write_signed,
    CheckChain: _write_check_chain,
    ChainChecked: _write_chain_checked,
    Find: _write_find,
    Found: _write_found,
    GetStaple: _write_get_staple,
    StapleGiven: _write_staple_given,
    Tickets: _write_tickets,
    TicketSecrets: _write_ticket_secrets,
    Ping: _write_ping,
    Pong: _write_pong,
    Failed: _write_failed,
    Goodbye: _write_goodbye,
}
# What each side is sent once it is open.
REQUESTS: Mapping[int, Reader] = {
    Tag.SIGN: _read_sign,
    Tag.CHECK_CHAIN: _read_check_chain,
    Tag.FIND: _read_find,
    Tag.GET_STAPLE: _read_get_staple,
    Tag.TICKETS: _read_tickets,
    Tag.PING: _read_ping,
}
REPLIES: Mapping[int, Reader] = {
    Tag.SIGNED: _read_signed,
    Tag.CHAIN_CHECKED: _read_chain_checked,
    Tag.FOUND: _read_found,
    Tag.STAPLE_GIVEN: _read_staple_given,
    Tag.TICKET_SECRETS: _read_ticket_secrets,
    Tag.PONG: _read_pong,
    Tag.FAILED: _read_failed,
    Tag.GOODBYE: _read_goodbye,
}
GREETINGS: Mapping[int, Reader] = {Tag.HELLO: _read_hello}
WELCOMES: Mapping[int, Reader] = {Tag.WELCOME: _read_welcome, Tag.FAILED: _read_failed}


def encode(message: Message) -> bytes:
    """The frame of a message. Raises WireError for one that no frame can hold."""
    try:
        return _WRITERS[type(message)](message)
    except (StructError, UnicodeError) as why:
        raise WireError(f"{type(message).__name__} does not fit its frame: {why}") from None
