"""Signals end a blocking process, and are not lost where Python drops what a handler raises."""

import os
import signal
from collections.abc import Iterator

import pytest

from control.stopping import SIGNALS, Stop, Stopping


@pytest.fixture(autouse=True)
def _keep_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_what_goes_on(number: signal.Signals) -> None:
    stopping = Stopping()
    stopping.check()
    with pytest.raises(Stop):
        os.kill(os.getpid(), number)
    with pytest.raises(Stop):
        stopping.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_destructor_is_not_lost() -> None:
    stopping = Stopping()

    class Thing:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)  # Stop is raised in here, and Python drops it

    thing = Thing()
    del thing
    with pytest.raises(Stop):
        stopping.check()


def test_nothing_interrupts_the_end() -> None:
    Stopping().ignore()
    for number in SIGNALS:
        os.kill(os.getpid(), number)
