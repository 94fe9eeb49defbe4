"""A request that is over, in the access log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy import past


def line(number: int, **more: object) -> str:
    return json.dumps({"request_id": f"id-{number:05}", "status": 200, **more}) + "\n"


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
def test_a_request_is_found_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(past, "BLOCK_BYTES", block)
    log = tmp_path / "access.log"
    log.write_text("".join(line(number) for number in range(50)))
    for number in (0, 1, 25, 48, 49):
        assert past.find(str(log), f"id-{number:05}") == [{"request_id": f"id-{number:05}", "status": 200}], number
    assert past.find(str(log), "id-00050") == []
    assert past.find(str(log), "id-0000") == [], "a part of an id is none"


def test_the_file_before_is_looked_into_and_no_more_than_the_limit(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    (tmp_path / "access.log.1").write_text(line(1))
    assert len(past.find(str(log), "id-00001")) == 1
    log.write_text(line(2) * 3)
    assert len(past.find(str(log), "id-00001")) == 1
    assert len(past.find(str(log), "id-00002")) == 3
    assert past.find(str(log), "id-00001", limit_bytes=10) == []


def test_lines_that_are_no_json_are_shown_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(
        b'1.2.3.4 - - [now] "GET / HTTP/1.1" 200 2 id-00001\n{"request_id": "other", "path": "/id-00001"}\n'
    )
    (found,) = past.find(str(log), "id-00001")
    assert found["line"].startswith("1.2.3.4")
    for none in ("", "-"):
        with pytest.raises(ValueError, match="--access-log"):
            past.find(none, "id-00001")
