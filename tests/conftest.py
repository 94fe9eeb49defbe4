"""Every test runs with asyncio's debug mode on, and leaves logging and the environment as they were.

Debug mode reports slow callbacks, forgotten awaits and wrong threads. A test that calls a program's `main` lets it set
up logging on the stderr of that test, which is gone by the next one, and change the environment for its children.
"""

import logging
import os
import resource
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A timing is never asserted: a loaded machine may take its time over an example.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

os.environ.setdefault("PYTHONASYNCIODEBUG", "1")
# Where the tests run in the background of a shell, it has had these ignored, which children would inherit.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def _core_files_may_be_allowed_again() -> Iterator[None]:
    """A program's `main`, called in this process, would forbid core files for good, to later tests' children too."""

    def set_limit(which: int, limits: tuple[int, int]) -> None:
        resource_set(which, (limits[0], resource.getrlimit(which)[1]) if which == resource.RLIMIT_CORE else limits)

    resource_set = resource.setrlimit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resource, "setrlimit", set_limit)
        yield


@pytest.fixture(autouse=True)
def _environment_restored() -> Iterator[None]:
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    root.setLevel(level)
