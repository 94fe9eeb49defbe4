import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.node.children import Child, ChildError

READY = "from control.node.notify import notify; notify('READY=1')\n"
SLEEP = "import time; time.sleep(60)\n"
IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


class Nursery:
    """Starts Python snippets as children and ends whatever is left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.children: list[Child] = []

    def start(self, code: str, **options: bool) -> Child:
        argv = [sys.executable, "-c", code]
        child = Child.start(
            f"c{len(self.children)}", argv, log=self.directory / "log", notify_dir=self.directory, **options
        )
        self.children.append(child)
        return child


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    for child in nursery.children:
        child.terminate(5)


def test_a_child_becomes_ready_and_ends_on_sigterm(nursery: Nursery) -> None:
    child = nursery.start(READY + SLEEP)
    child.wait_ready(20)
    assert child.poll() is None
    assert os.getsid(child.pid) == child.pid
    assert child.terminate(10) == -signal.SIGTERM
    assert list(nursery.directory.glob("*.notify")) == []


def test_a_child_that_ends_early_is_quoted(nursery: Nursery) -> None:
    child = nursery.start("import sys; print('no luck', file=sys.stderr); sys.exit(3)")
    with pytest.raises(ChildError, match=r"(?s)c0 ended with code 3.*log ends with:\n    no luck"):
        child.wait_ready(20)
    assert child.terminate(1) == 3
    with pytest.raises(ChildError, match=r"(?s)c0 ended with code 3.*no luck"):
        child.wait_ready(20)


def test_what_an_earlier_child_has_logged_is_not_quoted(nursery: Nursery) -> None:
    with pytest.raises(ChildError, match="old news"):
        nursery.start("raise SystemExit('old news')").wait_ready(20)
    with pytest.raises(ChildError, match="no luck") as caught:
        nursery.start("raise SystemExit('no luck')").wait_ready(20)
    assert "old news" not in str(caught.value)


def test_a_late_child_is_quoted(nursery: Nursery) -> None:
    child = nursery.start(SLEEP)
    with pytest.raises(ChildError, match=r"(?s)not ready after 0 s.*\(nothing\)"):
        child.wait_ready(0.1)


def test_other_notifications_are_not_readiness(nursery: Nursery) -> None:
    child = nursery.start("from control.node.notify import notify; notify('STATUS=x'); notify('READY=10')\n")
    with pytest.raises(ChildError, match="ended with code 0"):
        child.wait_ready(20)


def test_a_deaf_child_is_killed(nursery: Nursery) -> None:
    child = nursery.start(IGNORE + READY + SLEEP)
    child.wait_ready(20)
    assert child.terminate(0.1) == -signal.SIGKILL


def test_the_environment_is_added_to(tmp_path: Path) -> None:
    code = "import os; print(os.environ['A'], 'PATH' in os.environ)"
    child = Child.start("env", [sys.executable, "-c", code], log=tmp_path / "log", notify_dir=tmp_path, env={"A": "1"})
    with pytest.raises(ChildError, match="1 True"):
        child.wait_ready(20)
    child.terminate(1)


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="cannot start /nonexistent"):
        Child.start("x", ["/nonexistent"], log=tmp_path / "log", notify_dir=tmp_path)


def test_a_child_dies_with_its_parent(nursery: Nursery) -> None:
    """A parent that is killed takes the child along: the grandchild here ends though nobody signals it."""
    inner = f"{READY}{SLEEP}"
    outer = (
        "import sys, pathlib\nfrom control.node.children import Child\nfrom control.node.notify import notify\n"
        f"d = pathlib.Path({str(nursery.directory)!r}); argv = [sys.executable, '-c', {inner!r}]\n"
        "c = Child.start('inner', argv, log=d / 'l', notify_dir=d, die_with_parent=True)\n"
        "c.wait_ready(20); (d / 'pid').write_text(str(c.pid)); notify('READY=1')\n" + SLEEP
    )
    parent = nursery.start(outer)
    parent.wait_ready(30)
    pidfd = os.pidfd_open(int((nursery.directory / "pid").read_text()))
    try:
        parent.signal(signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(10_000)
    finally:
        os.close(pidfd)


@pytest.mark.root
def test_a_child_that_becomes_another_user_may_say_that_it_is_ready() -> None:
    nobody = 65534
    code = "import os, socket; s = socket.socket(1, 2); s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])"
    words = ["setpriv", f"--reuid={nobody}", "--clear-groups", "/usr/bin/python3", "-c", code]
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to others
        directory = Path(name)
        directory.chmod(0o711)
        child = Child.start("x", words, log=directory / "log", notify_dir=directory, notify_uid=nobody)
        try:
            child.wait_ready(10)
        finally:
            child.terminate(5)


def test_a_child_that_is_left_lives_on(tmp_path: Path) -> None:
    """And nothing warns of it when we end."""
    program = f"""
import sys
import tempfile
from pathlib import Path
from control.node.children import Child
here = Path({str(tmp_path)!r})
child = Child.start("c", [sys.executable, "-c", {READY + SLEEP!r}], log=here / "log", notify_dir=here)
child.wait_ready(20)
child.leave()
print(child.pid)
"""
    argv = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=40, check=True)
    assert done.stderr == ""
    os.kill(int(done.stdout), signal.SIGKILL)  # which fails if it is gone
