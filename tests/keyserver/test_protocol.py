"""The codec against its document, both ways, cut anywhere, and under arbitrary bytes."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.report import NO_KEY, ChainReport, Staple
from keyserver import protocol
from keyserver.chains import MAX_FOUND, MAX_FOUND_BYTES
from keyserver.errors import ErrorCode, WireError
from keyserver.protocol import (
    Broken,
    ChainChecked,
    CheckChain,
    Event,
    Failed,
    Find,
    Found,
    GetStaple,
    Goodbye,
    Hello,
    Malformed,
    Message,
    Ping,
    Pong,
    Sign,
    Signed,
    StapleGiven,
    State,
    Tag,
    Tickets,
    TicketSecrets,
    Unknown,
    Welcome,
    client_side,
    encode,
    server_side,
)

KEY_ID = bytes(range(32))
REPORT = ChainReport(KEY_ID, ("a.test", "*.ü.test"), 1_900_000_000, ("expired", ""))
STAPLE = Staple(b"\x30\3\n\1\0", 1_900_000_000, "är")
HELLO, WELCOME = Hello(), Welcome(1, 1024)

REQUESTS: list[Message] = [
    Sign(7, KEY_ID, 0x0403, "a.test", b"\1\2\3"),
    Sign(0xFFFF_FFFF, KEY_ID, 0xFFFF, "", b""),
    Sign(1, KEY_ID, 0x0804, "x" * 255, b"y" * 0xFFFF),
    CheckChain(2, ""),
    CheckChain(3, "-----BEGIN CERTIFICATE-----\n"),
    CheckChain(3, "x" * protocol.MAX_CHAIN_BYTES),
    GetStaple(2, ""),
    GetStaple(3, "x" * protocol.MAX_CHAIN_BYTES),
    Ping(4),
    Tickets(5),
    Find(5, "a.test"),
    Find(6, "x" * protocol.MAX_NAME_BYTES),
]
REPLIES: list[Message] = [
    Signed(7, b"\x30\2\0\0"),
    Signed(8, b""),
    ChainChecked(9, REPORT),
    ChainChecked(10, ChainReport(NO_KEY, (), 0, ())),
    ChainChecked(11, ChainReport(KEY_ID, (), -1, ("x" * 0xFFFF,) * 7)),
    TicketSecrets(11, ((-1, NO_KEY), (7200, KEY_ID))),
    TicketSecrets(11, ()),
    Found(11, ()),
    Found(11, ((KEY_ID, "-----BEGIN"), (NO_KEY, ""), (KEY_ID, "ü"))),
    StapleGiven(9, STAPLE),
    StapleGiven(10, Staple(b"", 0, "")),
    StapleGiven(11, Staple(b"y" * 0xFFFF, -1, "x" * 0xFFFF)),
    Pong(12),
    Goodbye(),
    *(Failed(13, code) for code in ErrorCode if code < 0x80),
]


def opened_server() -> protocol.Connection:
    connection = server_side(1024)
    connection.receive_data(encode(HELLO))
    assert connection.events() == [HELLO]
    assert connection.data_to_send() == encode(WELCOME)
    return connection


def opened_client() -> protocol.Connection:
    connection = client_side()
    assert connection.data_to_send() == encode(HELLO)
    connection.receive_data(encode(WELCOME))
    assert connection.events() == [WELCOME]
    return connection


def raw(tag: int, body: bytes = b"", request_id: int = 5) -> bytes:
    return (5 + len(body)).to_bytes(4, "big") + bytes([tag]) + request_id.to_bytes(4, "big") + body


@pytest.mark.parametrize("message", REQUESTS, ids=lambda m: type(m).__name__)
def test_a_request_comes_out_as_it_went_in(message: Message) -> None:
    client, server = opened_client(), opened_server()
    client.send(message)
    server.receive_data(client.data_to_send())
    assert server.events() == [message]
    assert client.data_to_send() == b""


@pytest.mark.parametrize("message", REPLIES, ids=lambda m: type(m).__name__)
def test_a_reply_comes_out_as_it_went_in(message: Message) -> None:
    client, server = opened_client(), opened_server()
    server.send(message)
    client.receive_data(server.data_to_send())
    assert client.events() == [message]


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (Sign(1, b"short", 0x0403, "", b""), "key id"),
        (Sign(1, KEY_ID, 0x0403, "é.test", b""), "Sign"),
        (Sign(1, KEY_ID, 0x0403, "x" * 256, b""), "Sign"),
        (Sign(1, KEY_ID, 0x10000, "", b""), "Sign"),
        (Sign(1, KEY_ID, 0x0403, "", bytes(0x10000)), "Sign"),
        (Sign(1 << 32, KEY_ID, 0x0403, "", b""), "Sign"),
        (CheckChain(1, "x" * (protocol.MAX_CHAIN_BYTES + 1)), "262145 bytes"),
        (GetStaple(1, "x" * (protocol.MAX_CHAIN_BYTES + 1)), "262145 bytes"),
        (StapleGiven(1, Staple(bytes(0x10000), 0, "")), "StapleGiven"),
        (Signed(1, bytes(protocol.MAX_FRAME_BYTES)), "524293 bytes"),
        (TicketSecrets(1, ((0, b"short"),)), "32 bytes"),
        (TicketSecrets(1, ((1 << 63, KEY_ID),)), "TicketSecrets"),
        (Find(1, ""), "a name of 0 bytes"),
        (Find(1, "x" * 254), "a name of 254 bytes"),
        (Find(1, "é.test"), "Find"),
        (Found(1, ((b"short", ""),)), "key id"),
        (Found(1, ((KEY_ID, "x" * protocol.MAX_FRAME_BYTES),)), "bytes"),
        (ChainChecked(1, ChainReport(KEY_ID, ("x" * 0x10000,), 0, ())), "ChainChecked"),
        (ChainChecked(1, ChainReport(KEY_ID, ("x" * 0xFFFF,) * 8, 0, ())), "bytes"),
    ],
)
def test_what_no_frame_can_hold_is_refused_by_its_sender(message: Message, what: str) -> None:
    with pytest.raises(WireError, match=what):
        encode(message)


SIGN_BODY = encode(REQUESTS[0])[9:]


@pytest.mark.parametrize(
    ("tag", "body"),
    [
        (Tag.SIGN, b""),
        (Tag.SIGN, SIGN_BODY[:-1]),
        (Tag.SIGN, SIGN_BODY + b"\0"),
        (Tag.SIGN, SIGN_BODY[:36]),
        (Tag.SIGN, SIGN_BODY[:34] + b"\xff" + SIGN_BODY[35:]),
        (Tag.SIGN, SIGN_BODY[:37] + b"\xff" + SIGN_BODY[38:]),
        (Tag.PING, b"\0"),
        (Tag.CHECK_CHAIN, b"\xff"),
        (Tag.TICKETS, b"\0"),
        (Tag.FIND, b""),
        (Tag.FIND, b"x" * 254),
        (Tag.FIND, b"\xff"),
        (Tag.CHECK_CHAIN, b"x" * (protocol.MAX_CHAIN_BYTES + 1)),
    ],
)
@pytest.mark.parametrize("trailing", [b"", encode(Ping(6))], ids=["alone", "followed"])
def test_a_body_that_contradicts_itself_costs_its_request_only(tag: int, body: bytes, trailing: bytes) -> None:
    server = opened_server()
    server.receive_data(raw(tag, body) + trailing)
    first, *rest = server.events()
    assert isinstance(first, Malformed)
    assert first.request_id == 5
    assert rest == ([Ping(6)] if trailing else [])
    server.receive_data(encode(Ping(7)))
    assert server.events() == [Ping(7)]


FOUND_BODY = encode(Found(1, ((KEY_ID, "chain"),)))[9:]
REPORT_BODY = encode(ChainChecked(1, REPORT))[9:]
STAPLE_BODY = encode(StapleGiven(1, STAPLE))[9:]


@pytest.mark.parametrize(
    ("tag", "body"),
    [
        (Tag.CHAIN_CHECKED, REPORT_BODY[:-1]),
        (Tag.CHAIN_CHECKED, REPORT_BODY + b"\0"),
        (Tag.CHAIN_CHECKED, REPORT_BODY[:41]),
        (Tag.CHAIN_CHECKED, REPORT_BODY[:44] + b"\xff\xff" + REPORT_BODY[46:]),
        (Tag.CHAIN_CHECKED, REPORT_BODY[:46] + b"\xff" + REPORT_BODY[47:]),
        (Tag.TICKET_SECRETS, bytes(39)),
        (Tag.TICKET_SECRETS, bytes(41)),
        (Tag.FOUND, b""),
        (Tag.FOUND, FOUND_BODY[:-1]),
        (Tag.FOUND, FOUND_BODY + b"\0"),
        (Tag.FOUND, FOUND_BODY[:20]),
        (Tag.FOUND, b"\0\2" + FOUND_BODY[2:]),
        (Tag.FOUND, FOUND_BODY[:34] + b"\xff" + FOUND_BODY[35:]),
        (Tag.FOUND, FOUND_BODY[:-1] + b"\xff"),
        (Tag.STAPLE_GIVEN, STAPLE_BODY[:-1]),
        (Tag.STAPLE_GIVEN, STAPLE_BODY + b"\0"),
        (Tag.STAPLE_GIVEN, STAPLE_BODY[:11]),
        (Tag.STAPLE_GIVEN, STAPLE_BODY[:-1] + b"\xff"),
        (Tag.PONG, b"\0"),
        (Tag.FAILED, b""),
        (Tag.FAILED, b"\1\1"),
        (Tag.GOODBYE, b"\0"),
    ],
)
@pytest.mark.parametrize("trailing", [b"", encode(Pong(6))], ids=["alone", "followed"])
def test_the_client_notices_replies_that_contradict_themselves(tag: int, body: bytes, trailing: bytes) -> None:
    client = opened_client()
    client.receive_data(raw(tag, body) + trailing)
    first, *rest = client.events()
    assert isinstance(first, Malformed)
    assert rest == ([Pong(6)] if trailing else [])


@pytest.mark.parametrize("length", [0, 4, protocol.MAX_FRAME_BYTES + 1, 0xFFFF_FFFF])
def test_an_impossible_length_ends_the_connection(length: int) -> None:
    server = opened_server()
    server.receive_data(encode(Ping(1)) + length.to_bytes(4, "big") + bytes(5) + encode(Ping(2)))
    ping, broken = server.events()
    assert ping == Ping(1)
    assert isinstance(broken, Broken)
    assert server.state is State.CLOSED
    server.receive_data(encode(Ping(3)))
    assert server.events() == []


@pytest.mark.parametrize("tag", [0x00, 0x08, 0x7F, Tag.HELLO, Tag.WELCOME, Tag.SIGNED, Tag.FAILED, 0x80])
def test_an_unknown_tag_is_skipped_by_the_server(tag: int) -> None:
    server = opened_server()
    server.receive_data(raw(tag, b"whatever") + encode(Ping(6)))
    assert server.events() == [Unknown(5, tag), Ping(6)]


def test_an_unknown_tag_is_skipped_by_the_client() -> None:
    client = opened_client()
    client.receive_data(raw(0x90, b"whatever") + encode(Pong(6)))
    assert client.events() == [Unknown(5, 0x90), Pong(6)]


@pytest.mark.parametrize("code", [0x00, 0x0B, 0x7F, 0x80, 0x83, 0xFF])
def test_a_code_that_does_not_travel_counts_as_internal(code: int) -> None:
    client = opened_client()
    client.receive_data(raw(Tag.FAILED, bytes([code])))
    assert client.events() == [Failed(5, ErrorCode.INTERNAL)]


@pytest.mark.parametrize(
    ("lowest", "highest", "chosen"),
    [(1, 1, 1), (0, 1, 1), (1, 255, 1), (0, 255, 1), (2, 3, None), (0, 0, None), (2, 1, None)],
)
def test_versions(lowest: int, highest: int, chosen: int | None) -> None:
    server = server_side(3)
    server.receive_data(encode(Hello(lowest, highest)))
    events = server.events()
    if chosen is None:
        assert isinstance(events[-1], Broken)
        assert events[-1].code is ErrorCode.UNSUPPORTED_VERSION
        assert server.data_to_send() == b""
    else:
        assert events == [Hello(lowest, highest)]
        assert server.data_to_send() == encode(Welcome(chosen, 3))


@pytest.mark.parametrize(
    "first",
    [
        encode(Ping(1)),
        encode(REQUESTS[0]),
        raw(Tag.HELLO, b"PFKX\1\1"),
        raw(Tag.HELLO, b"PFKS\1"),
        raw(Tag.HELLO, b"PFKS\1\1\1"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_greeting_ends_the_connection(first: bytes) -> None:
    server = server_side(1)
    server.receive_data(first)
    (event,) = server.events()
    assert isinstance(event, Broken)
    assert event.code is ErrorCode.MALFORMED
    assert server.state is State.CLOSED


@pytest.mark.parametrize("version", [0, 2, 255])
def test_the_client_refuses_a_version_that_it_did_not_offer(version: int) -> None:
    client = client_side()
    client.receive_data(encode(Welcome(version, 1)))
    assert isinstance(client.events()[-1], Broken)


def test_the_client_learns_why_it_was_refused() -> None:
    client = client_side()
    client.receive_data(encode(Failed(0, ErrorCode.REFUSED_CLIENT)))
    failed, broken = client.events()
    assert failed == Failed(0, ErrorCode.REFUSED_CLIENT)
    assert isinstance(broken, Broken)
    assert broken.code is ErrorCode.REFUSED_CLIENT


def chunked(connection: protocol.Connection, data: bytes, cuts: list[int]) -> list[Event]:
    events: list[Event] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        connection.receive_data(data[start:end])
        events += connection.events()
    return events


SHORT = [m for m in REQUESTS if len(encode(m)) < 1000]


@given(st.lists(st.sampled_from(SHORT), max_size=6), st.lists(st.integers(0, 2000), max_size=12))
def test_cutting_the_bytes_elsewhere_changes_nothing(messages: list[Message], cuts: list[int]) -> None:
    data = b"".join(map(encode, [HELLO, *messages]))
    assert chunked(server_side(1), data, cuts) == [HELLO, *messages]


@pytest.mark.parametrize("message", [*SHORT, *REPLIES], ids=lambda m: type(m).__name__)
def test_byte_by_byte(message: Message) -> None:
    to_server = message in SHORT
    connection = opened_server() if to_server else opened_client()
    data = encode(message)[:5000]
    for byte in data:
        assert connection.events() == []
        connection.receive_data(bytes([byte]))
    assert connection.events() == ([message] if len(data) == len(encode(message)) else [])


@given(st.binary(max_size=300), st.booleans(), st.lists(st.integers(0, 400), max_size=5))
def test_arbitrary_bytes_only_make_events(data: bytes, server: bool, cuts: list[int]) -> None:
    whole, cut = (opened_server(), opened_server()) if server else (opened_client(), opened_client())
    assert chunked(whole, data, []) == chunked(cut, data, cuts)


@given(st.sampled_from([*SHORT, *REPLIES[:4]]), st.integers(4, 200), st.integers(0, 255))
def test_one_changed_byte_only_makes_events(message: Message, place: int, value: int) -> None:
    data = bytearray(encode(message) + encode(Ping(1)))
    data[place % len(data)] = value
    for connection in (opened_server(), opened_client()):
        connection.receive_data(bytes(data))
        connection.events()


def test_input_is_kept_in_linear_time_and_within_one_frame() -> None:
    server = opened_server()
    frame = encode(REQUESTS[5])
    server.receive_data(frame[:100])  # from here on the frame's length is known
    assert len(server._chunks) == 1
    for count, start in enumerate(range(100, len(frame) - 1, 1000), 2):
        server.receive_data(frame[start : min(start + 1000, len(frame) - 1)])
        assert len(server._chunks) == count, "not joined before it is whole"
        assert server._buffered < len(frame)
    server.receive_data(frame[-1:])
    assert server.events() == [REQUESTS[5]]
    assert server._chunks == []


# --- protocol.md ---

DOCUMENT = (Path(protocol.__file__).parent / "protocol.md").read_text()


def test_the_document_names_every_tag_and_code() -> None:
    tags = re.findall(r"^\| (0x\w\w) \| (\w+) \| (?:client|server)", DOCUMENT, re.M)
    assert {(int(value, 16), name) for value, name in tags} == {(tag.value, tag.name) for tag in Tag}
    codes = re.findall(r"^\| (0x\w\w) \| (\w+) \| (?:yes|no)", DOCUMENT, re.M)
    assert {(int(value, 16), name) for value, name in codes} == {(c.value, c.name) for c in ErrorCode if c < 0x80}


def test_the_document_says_who_sends_what() -> None:
    senders = dict(re.findall(r"^\| 0x\w\w \| (\w+) \| (client|server) ", DOCUMENT, re.M))
    for connection, sender in ((server_side(1), "client"), (client_side(), "server")):
        read = {tag for readers in connection._readers.values() for tag in readers}
        assert {Tag(tag).name for tag in read} == {name for name, by in senders.items() if by == sender}


def test_secrets_are_not_shown() -> None:
    assert repr(TicketSecrets(7, ((0, b"secret" * 5 + b"!!"),))) == "TicketSecrets(7, …)"


def test_the_document_states_the_limits() -> None:
    assert f"It is 5 to {protocol.MAX_FRAME_BYTES:,};" in DOCUMENT
    assert f"at most {protocol.MAX_CHAIN_BYTES:,} bytes" in DOCUMENT
    assert f"1 to {protocol.MAX_NAME_BYTES} bytes of ASCII" in DOCUMENT
    assert f"At most {MAX_FOUND}, and {MAX_FOUND_BYTES:,} bytes of chains" in DOCUMENT
    assert f"version {protocol.HIGHEST_VERSION}\n" in DOCUMENT


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("HELLO", HELLO),
        ("WELCOME", WELCOME),
        ("SIGN", Sign(1, KEY_ID, 1, "", b"")),
        ("STAPLE_GIVEN", StapleGiven(1, Staple(b"", 0, ""))),
        ("CHAIN_CHECKED", ChainChecked(1, ChainReport(NO_KEY, (), 0, ()))),
        ("FOUND", Found(1, ())),
        ("TICKET_SECRETS", TicketSecrets(1, ((0, NO_KEY),))),
    ],
)
def test_the_rulers_end_where_the_fixed_fields_do(name: str, empty: Message) -> None:
    (ruler,) = re.findall(rf"^{name}[^`]*?\s+(0 [\d ]*)$", DOCUMENT, re.M)
    assert len(encode(empty)) == 9 + int(ruler.split()[-1])


EXAMPLES: dict[str, Message] = {
    "HELLO": HELLO,
    "WELCOME": WELCOME,
    "SIGN": Sign(7, KEY_ID, 0x0403, "a.test", b"\1\2\3"),
    "SIGNED": Signed(7, b"\x30\2\0\0"),
    "FAILED": Failed(7, ErrorCode.REFUSED_SHAPE),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_documents_examples(name: str) -> None:
    (line,) = re.findall(rf"^{name} +((?:[0-9a-f]{{2,}} *)+)$", DOCUMENT, re.M)
    assert bytes.fromhex(line.replace(" ", "")) == encode(EXAMPLES[name])
