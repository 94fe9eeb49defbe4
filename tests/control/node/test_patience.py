import threading
import time

import pytest

from control.node.patience import patience


def test_nothing_is_said_of_what_is_done_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()
    with patience("waiting", after_s=60):
        pass
    assert capsys.readouterr().err == ""
    assert threading.active_count() == threads


def test_a_word_after_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    said, deadline = "", time.monotonic() + 20
    with patience("waiting", after_s=0):
        while "\n" not in said and time.monotonic() < deadline:
            said += capsys.readouterr().err
    assert said == "waiting\n"


def test_errors_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="mine"), patience("waiting", after_s=60):
        raise ValueError("mine")
    assert capsys.readouterr().err == ""
