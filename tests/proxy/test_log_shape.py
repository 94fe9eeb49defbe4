"""Lines of the access log as the administrator wants them, and as no client can forge them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import access_log
from proxy.access_log import AccessLog, Record
from proxy.actions import NO_WAY, Way
from proxy.head import read_request, read_response
from proxy.log_shape import VALUE_BYTES, Format, LogField, LogShape, quoted
from tests.proxy.processes import keep, running
from tests.proxy.support import Backend, Client, Request, free_port, model
from tests.waiting import until

COMBINED = re.compile(
    r'(\S+) - - \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "([^"]*)" (\d+) (\d+)((?: "[^"]*")*)'
)
HEAD = (
    b'GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: x "y" \xe9\r\nX-Two: 1\r\nX-Two: 2\r\n'
    b"Cookie: a=1; session=abc; b\r\nCookie: late=9\r\n\r\n"
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request:User-Agent", 'x "y" é'),
        ("request:x-two", "1, 2"),
        ("request:missing", ""),
        ("cookie:session", "abc"),
        ("cookie:late", "9"),
        ("cookie:b", ""),
        ("cookie:Session", ""),
        ("response:Server", "s"),
    ],
)
def test_values(field: str, value: str) -> None:
    request = read_request(HEAD)
    answer = read_response(b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 0\r\n\r\n", b"GET")
    assert request is not None
    assert answer is not None
    assert LogField.parse(field).value(request.block, answer.block, NO_WAY) == value
    assert LogField.parse("response:Server").value(request.block, None, NO_WAY) == ""
    way = Way("api", "shop")
    assert [LogField.parse(each).value(request.block, None, way) for each in ("rule", "service")] == ["api", "shop"]
    assert [str(LogField.parse(each)) for each in ("rule", field)] == ["rule", str(LogField.parse(field))]
    status = LogField.parse("grpc_status")
    assert [status.value(request.block, None, way, told) for told in (0, 14, None)] == ["0", "14", ""]


def test_values_are_cut() -> None:
    request = read_request(b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"v" * 999))
    assert request is not None
    assert LogField.parse("request:X").value(request.block, None, NO_WAY) == "v" * VALUE_BYTES


@pytest.mark.parametrize(
    ("own", "share", "says"),
    [
        (["User-Agent"], 1, "'User-Agent': give request:NAME, response:NAME, cookie:NAME, rule, service or grpc"),
        (["body:x"], 1, "'body:x': give"),
        (["rule:x"], 1, "'rule:x': give"),
        (["request:a b"], 1, "give request:NAME"),
        (["request:"], 1, "give request:NAME"),
        (["request:Authorization"], 1, "holds secrets"),
        (["response:Set-Cookie"], 1, "holds secrets"),
        ([f"request:x{number}" for number in range(17)], 1, "17 own fields of the access log: 16 are the most"),
        ([], 1.5, "1.5 is no share of lines; give 0 to 1"),
        ([], float("nan"), "nan is no share"),
    ],
)  # fmt: skip
def test_what_cannot_be_logged(own: list[str], share: float, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        LogShape.parse("json", own, share)


@given(st.text(st.characters(max_codepoint=255), min_size=1))
def test_nothing_ends_a_quote_or_a_line(text: str) -> None:
    shown = quoted(text)
    assert re.fullmatch(r'"[ !#-\[\]-~\\]+"', shown)
    assert '"' not in shown[1:-1]
    back = re.sub(r"\\x(..)", lambda match: chr(int(match[1], 16)), shown[1:-1])
    assert back == text


async def write(path: Path, shape: LogShape, *records: Record) -> list[str]:
    log = AccessLog(str(path), "l7-1", shape)
    for record in records:
        log.write(record)
    await log.close()
    return path.read_text().splitlines()


async def test_combined(tmp_path: Path) -> None:
    shape = LogShape.parse("combined", ["cookie:id"], 1)
    evil = Record(
        "web", "192.0.2.7", "GET", "a", "/x", 200, 10, 99, version="HTTP/1.1", fields=('r" 500 "', 'u\\\n\x7fé', ""),
    )  # fmt: skip
    first, second = await write(tmp_path / "log", shape, evil, Record("web", "", status=400, error_code="bare_lf"))
    match = COMBINED.fullmatch(first)
    assert match is not None
    assert (match[1], match[3], match[4], match[5]) == ("192.0.2.7", "GET /x HTTP/1.1", "200", "99")
    assert match[6] == r' "r\x22 500 \x22" "u\x5c\x0a\x7f\xe9" "-"'
    refused = COMBINED.fullmatch(second)
    assert refused is not None
    assert (refused[1], refused[3], refused[4], refused[6]) == ("-", "-", "400", ' "-" "-" "-"')


async def test_own_fields_in_json(tmp_path: Path) -> None:
    shape = LogShape.parse("json", ["request:X-Evil", "cookie:id"], 1)
    with_fields = Record("web", "c", "GET", fields=('","status":999,"x":"\n', "7"))
    first, second = await write(tmp_path / "log", shape, with_fields, Record("web", "c", status=400))
    assert json.loads(first)["fields"] == {"request:x-evil": '","status":999,"x":"\n', "cookie:id": "7"}
    assert "fields" not in json.loads(second)


async def test_a_share_is_written_and_every_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chances = iter([0.24, 0.26, 0.0, 0.99])
    monkeypatch.setattr(access_log.random, "random", lambda: next(chances))
    records = [Record("web", "c", path=f"/{number}", status=200) for number in range(4)]
    errors = [
        Record("web", "c", path="/e", status=404, error_code="no_rule"),
        Record("web", "c", path="/5", status=500),
    ]
    lines = await write(tmp_path / "log", LogShape(Format.JSON, (), 0.25), *records, *errors)
    assert [json.loads(line)["path"] for line in lines] == ["/0", "/2", "/e", "/5"]


async def test_the_file_is_opened_anew_when_told(tmp_path: Path) -> None:
    """Also where its inode is the same, and without a line to write."""
    path = tmp_path / "log"
    log = AccessLog(str(path), "l7-1")
    before = os.stat(log._file)
    path.rename(tmp_path / "log.1")
    log.reopen()
    await log.flush()
    assert path.exists()
    assert os.fstat(log._file).st_ino != before.st_ino
    await log.close()


async def test_a_node_writes_what_it_is_asked_for(identity: Path, tmp_path: Path) -> None:
    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nX-Served-By: me\r\nContent-Length: 0\r\n\r\n")

    port, log = free_port(), tmp_path / "access.log"
    argv = ("--access-log", str(log), "--log-format", "combined", "--log-field", "response:X-Served-By")
    async with Backend(answer).running() as backend:
        keep(identity, model(port, [backend.port]))
        async with running(identity, port, *argv) as node:

            async def ask(path: str) -> None:
                client = Client(*await asyncio.open_connection("127.0.0.1", port))
                assert (await client.ask(path, b'User-Agent: a "b"\r\n'))[0] == 200
                await client.close()

            await ask("/one")
            await until(lambda: log.exists() and log.read_text().count("\n") == 1)
            log.rename(tmp_path / "access.log.1")
            node.send_signal(signal.SIGHUP)
            await until(log.exists)
            await ask("/two")
            await until(lambda: log.read_text().count("\n") == 1)
            node.send_signal(signal.SIGUSR1)
            await ask("/three")
            await until(lambda: log.read_text().count("\n") == 2)
    match = COMBINED.fullmatch((tmp_path / "access.log.1").read_text().splitlines()[0])
    assert match is not None
    assert (match[3], match[6]) == ("GET /one HTTP/1.1", r' "-" "a \x22b\x22" "me"')
