import logging
import re
from collections.abc import Iterator

import pytest

from control.node import logs


@pytest.fixture(autouse=True)
def _restore_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_record_is_one_line_with_time_level_process_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("l7")
    logging.getLogger("proxy.conn").warning("peer said %s", "a\nb\r\nc")
    err = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING l7 proxy\.conn: peer said a\\nb\\r\\nc\n", err)


def test_a_traceback_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("l7")
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("x").exception("failed")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "ValueError: bad" in err


def test_the_level_decides(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("l7", "ERROR")
    logging.getLogger("x").warning("no")
    logging.getLogger("x").error("yes")
    assert "no" not in (err := capsys.readouterr().err)
    assert "yes" in err


@pytest.mark.parametrize(
    ("inherited", "given", "level"),
    [(None, None, "INFO"), ("DEBUG", None, "DEBUG"), ("DEBUG", "ERROR", "ERROR"), ("loud", None, "INFO")],
)
def test_children_log_as_much_as_their_parent(
    inherited: str | None, given: str | None, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(logs.VARIABLE, raising=False)
    if inherited is not None:
        monkeypatch.setenv(logs.VARIABLE, "other")  # so that it is put back
        logs.for_children(inherited)
    logs.setup("l7", given)
    assert logging.getLevelName(logging.getLogger().level) == level
