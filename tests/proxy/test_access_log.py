"""The access log: valid JSON whatever a client sends, off the hot path, moved and full files."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from proxy import access_log
from proxy.access_log import AccessLog, Record, Visit, Visitor, record_of
from proxy.actions import NO_WAY, Way
from proxy.log_shape import Format, LogShape

FIELDS = {
    "time", "node", "pid", "listener", "client", "method", "host", "path", "status", "bytes_in", "bytes_out",
    "duration_ms", "rule", "service", "upstream", "upstream_ms", "request_id", "error_source", "error_code",
    "error_detail", "tls_version", "sni",
}  # fmt: skip


async def test_lines_are_json_with_every_field(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), "l7-1")
    log.write(Record("web", "192.0.2.1", "GET", 'a"b', '/x?"\\</script>', 200, 10, 20, 1.25, "10.0.0.1:80", 0.5, "id"))
    log.write(Record("web", "192.0.2.1", status=400, error_source="client", error_code="bare_lf", error_detail="why"))
    await log.close()
    first, second = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert first.keys() == second.keys() == FIELDS
    assert (first["path"], first["host"], first["status"]) == ('/x?"\\</script>', 'a"b', 200)
    assert (first["duration_ms"], first["pid"], first["node"]) == (1.25, os.getpid(), "l7-1")
    assert first["time"].endswith("Z")
    assert second["error_code"] == "bare_lf"


async def test_visits_give_the_lines_of_their_records(tmp_path: Path) -> None:
    """Byte for byte, but for the time, which is that of each one's end."""
    path = tmp_path / "log"
    log = AccessLog(str(path), 'l7"1')
    visitor = Visitor('we"b', "192.0.2.1", "TLSv1.3", "a.example")
    visits: list[Visit] = [
        (
            time.monotonic() - 5,
            visitor,
            b"GET",
            b"a:80",
            b"/x?y=z",
            200,
            10,
            20,
            0.0012345,
            "10.0.0.1:80",
            b"id1",
            Way("r", "s"),
            (),
        ),
        (time.monotonic(), visitor, b"HEAD", b"[::1]", b"/", 304, 0, 1 << 40, 61.0, "[::2]:80", b"id2", NO_WAY, ()),
        (
            time.monotonic(),
            Visitor("web", "", "", ""),
            b"GET",
            b"a",
            b"/",
            200,
            1,
            1,
            0.0,
            "10.0.0.1:80",
            b"id3",
            Way("", "s"),
            (),
        ),
    ]
    log.write_visits(visits)
    for visit in visits:
        log.write(record_of(visit))
    before = time.time()
    await log.close()
    lines = path.read_text().splitlines()
    assert [line.partition("Z")[2] for line in lines[:3]] == [line.partition("Z")[2] for line in lines[3:]]
    first, second, third = (json.loads(line) for line in lines[:3])
    assert first.keys() == FIELDS
    assert [(each["rule"], each["service"]) for each in (first, second, third)] == [("r", "s"), ("", ""), ("", "s")]
    assert (first["duration_ms"], first["upstream_ms"], second["bytes_out"]) == (1.234, 1.234, 1 << 40)
    times = [datetime.fromisoformat(each["time"]).timestamp() for each in (first, second, third)]
    assert 4.9 < times[1] - times[0] < 5.1
    assert -1 < before - times[1] < 1


@pytest.mark.parametrize("format", Format)
async def test_visits_with_own_fields(tmp_path: Path, format: Format) -> None:
    """What a client may choose in them is escaped; the time is that of the end."""
    path = tmp_path / "log"
    shape = LogShape.parse(format, ["request:X-A", "cookie:b"], 1.0)
    log = AccessLog(str(path), "l7-1", shape)
    fields = tuple(f'{number}"\n' for number in range(len(shape.wanted)))
    ended = time.monotonic() - 86_400
    visit = (ended, Visitor("web", "c", "", ""), b"GET", b"a", b"/", 200, 1, 2, 0.5, "s", b"i", NO_WAY, fields)
    log.write_visits([visit])
    yesterday = {time.strftime("%d", time.gmtime(time.time() - 86_400 - ago_s)) for ago_s in (0, 5)}
    await log.close()
    (line,) = path.read_text().splitlines()
    if format is Format.COMBINED:
        assert line.partition("[")[2][:2] in yesterday
        assert line.endswith(r' "GET / HTTP/1.1" 200 2 "0\x22\x0a" "1\x22\x0a" "2\x22\x0a" "3\x22\x0a"')
    else:
        assert json.loads(line)["time"][8:10] in yesterday
        assert json.loads(line)["fields"] == {"request:x-a": '0"\n', "cookie:b": '1"\n'}


async def test_visits_that_are_too_many_are_lost_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AccessLog(str(tmp_path / "log"), "n")
    monkeypatch.setattr(access_log, "BACKLOG_BYTES", 0)
    visits = [(0.0, Visitor("web", "", "", ""), b"GET", b"a", b"/", 200, 1, 1, 0.0, "", b"id", NO_WAY, ())] * 3
    log.write_visits(visits[:1])
    log.write_visits(visits)
    assert log.lost == 3
    await log.close()


async def test_a_moved_file_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(str(path), "n")
    log.write(Record("one", "c"))
    await log.flush()
    path.rename(tmp_path / "log.1")
    log.write(Record("two", "c"))
    await log.close()
    assert '"two"' in path.read_text()
    assert '"one"' in (tmp_path / "log.1").read_text()


async def test_it_flushes_when_it_has_grown(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(str(path), "n")
    task = asyncio.create_task(log.run())
    while path.stat().st_size == 0:
        for _ in range(100):
            log.write(Record("web", "c", path="/" + "x" * 1000))
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await log.close()
    assert all(json.loads(line) for line in path.read_text().splitlines())


async def test_a_disk_that_does_not_keep_up_costs_lines_and_not_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "BACKLOG_BYTES", 10_000)
    log = AccessLog(str(tmp_path / "log"), "n")
    for _ in range(100):
        log.write(Record("web", "c", path="/" + "x" * 1000))
    assert log.lost == 100 - 8
    await log.flush()
    log.write(Record("web", "c"))
    await log.close()
    assert len((tmp_path / "log").read_text().splitlines()) == 9


async def test_a_full_disk_is_counted() -> None:
    log = AccessLog("/dev/full", "n")
    log.write(Record("web", "c"))
    await log.flush()
    assert log.lost == 1
    log.write(Record("web", "c"))
    await log.close()
    assert log.lost == 2


async def test_a_pipe_that_takes_little_at_a_time_gets_every_line(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
    log = AccessLog(str(path), "n")
    os.set_blocking(reading, True)
    for number in range(3000):
        log.write(Record("web", "c", path=f"/{number}"))
    taken: list[str] = []

    def take() -> None:
        with os.fdopen(reading, encoding="ascii") as file:
            taken.extend(json.loads(line)["path"] for line in file)

    taking = asyncio.create_task(asyncio.to_thread(take))
    await log.close()
    await taking
    assert taken == [f"/{number}" for number in range(3000)]


@pytest.mark.parametrize(
    ("user", "word"), [("alice", "alice"), ("", "-"), ('a "b" c\r\nd', "a__b__c__d"), ("Zo%C3%AB", "Zo%C3%AB")]
)
async def test_the_user_stands_where_it_is_looked_for(tmp_path: Path, user: str, word: str) -> None:
    """In lines of JSON only where there is one; no user can end a word of `combined`."""
    record = Record("web", "192.0.2.1", "GET", "a", "/", 200, user=user)
    plain, combined = (
        AccessLog(str(tmp_path / shape), "l7-1", LogShape.parse(shape, [], 1)) for shape in ("json", "combined")
    )
    for log in (plain, combined):
        log.write(record)
        await log.close()
    line = json.loads((tmp_path / "json").read_text())
    assert line.get("user", "") == user
    assert line.keys() - {"user"} == FIELDS
    assert (tmp_path / "combined").read_text().split(" ")[:4][2] == word
