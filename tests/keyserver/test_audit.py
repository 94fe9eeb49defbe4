"""The audit log: valid JSON whatever the client sends, nothing lost silently, rotation."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.audit import AuditLog, _tail

NOW = "2026-11-20T05:27:45.624+00:00"


def test_a_line(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    log.record(NOW, "l7:l7-1", bytes(range(32)), "a.test", 0x0403, "tls13-server", "ok")
    log.record(NOW, "uid:33", bytes(32), "", 0x0201, "", "refused_scheme")
    assert (tmp_path / "audit").read_text() == ""
    log.flush()
    log.flush()
    lines = (tmp_path / "audit").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "time": NOW,
            "client": "l7:l7-1",
            "key": "0001020304050607",
            "sni": "a.test",
            "scheme": "0x0403",
            "shape": "tls13-server",
            "result": "ok",
        },
        {
            "time": NOW,
            "client": "uid:33",
            "key": "0000000000000000",
            "sni": "",
            "scheme": "0x0201",
            "shape": "",
            "result": "refused_scheme",
        },
    ]
    log.close()


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=255))
def test_any_sni_is_one_line_of_json(sni: str) -> None:
    line = '{"time":"' + NOW + _tail("uid:0", bytes(32), sni, 0, "", "ok")
    assert line.count("\n") == 1
    assert json.loads(line)["sni"] == sni


def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path)
    for name in ("old", "new"):
        log.record(NOW, name, bytes(32), "", 0, "", "ok")
        log.flush()
        if name == "old":
            path.rename(tmp_path / "audit.1")
            log.reopen()
    assert json.loads((tmp_path / "audit.1").read_text())["client"] == "old"
    assert json.loads(path.read_text())["client"] == "new"
    log.close()


def test_a_full_disk_is_an_error() -> None:
    log = AuditLog(Path("/dev/full"))
    log.record(NOW, "uid:0", bytes(32), "", 0, "", "ok")
    with pytest.raises(OSError, match="No space left"):
        log.flush()
    log.flush()  # its replies were refused: the line is gone with them
    log.close()


def test_a_short_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "audit")
    log.record(NOW, "uid:0", bytes(32), "", 0, "", "ok")
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data) - 1)
    with pytest.raises(OSError, match="only"):
        log.flush()
    log.close()


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    log = AuditLog(Path("-"))
    log.record(NOW, "uid:0", bytes(32), "", 0, "", "ok")
    log.flush()
    log.reopen()
    log.close()
    assert json.loads(capfd.readouterr().out)["result"] == "ok"
    os.fstat(1)


def test_events(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(tmp_path / "audit")
    log.event("2026-11-20T05:00:00.000+00:00", "key_added", {"key": "00", "names": ['a"b']})
    log.flush_events()
    line = '{"time":"2026-11-20T05:00:00.000+00:00","event":"key_added","key":"00","names":["a\\"b"]}\n'
    assert (tmp_path / "audit").read_text() == line
    os.close(log._descriptor)
    log.event("", "policy", {})
    log.flush_events()
    assert "the audit log cannot be written" in caplog.text
