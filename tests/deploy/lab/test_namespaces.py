import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from deploy.lab import namespaces
from deploy.lab.errors import LabError
from deploy.lab.topology import Script

NAME = f"pftns{os.getpid()}"
pytestmark = pytest.mark.root


@pytest.fixture
def netns() -> Iterator[str]:
    namespaces.create([NAME])
    try:
        yield NAME
    finally:
        namespaces.end([NAME], grace_s=0)
        namespaces.remove([NAME])


def test_made_and_removed(netns: str) -> None:
    assert namespaces.path_of(netns).exists()
    namespaces.remove([netns, netns + "x"])
    assert not namespaces.path_of(netns).exists()


def test_making_it_twice_is_an_error(netns: str) -> None:
    with pytest.raises(LabError, match=NAME):
        namespaces.create([netns])


def test_scripts_run_and_failures_are_quoted(netns: str) -> None:
    namespaces.run_scripts([Script(netns, ("link set lo up", "addr add 10.9.9.9/32 dev lo"), ("true",))])
    assert "10.9.9.9" in subprocess.check_output(["ip", "-n", netns, "addr"], text=True)
    with pytest.raises(LabError, match="nowhere"):
        namespaces.run_scripts([Script(netns, ("link set nowhere up",), ())])


def test_a_socket_made_inside_stays_there_and_we_come_back(netns: str) -> None:
    namespaces.run_scripts([Script(netns, ("link set lo up", "addr add 10.9.9.9/32 dev lo"), ())])
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with namespaces.inside(netns):
        inside = socket.socket()
        inside.bind(("10.9.9.9", 0))
    inside.close()
    assert os.stat("/proc/thread-self/ns/net").st_ino == before
    with socket.socket() as outside, pytest.raises(OSError, match="assign"):
        outside.bind(("10.9.9.9", 0))


def test_inhabitants_are_found_and_ended(netns: str) -> None:
    assert namespaces.inhabitants([netns]) == {}
    polite = subprocess.Popen([*namespaces.enter(netns), "sleep", "60"])
    deaf = subprocess.Popen([*namespaces.enter(netns), "sh", "-c", "trap '' TERM; echo; while :; do sleep 0.1; done"],
                            stdout=subprocess.PIPE)  # fmt: skip
    assert deaf.stdout is not None
    deaf.stdout.readline()
    while len(namespaces.inhabitants([netns])) < 2:
        pass
    assert namespaces.inhabitants([netns]).keys() >= {polite.pid, deaf.pid}
    assert namespaces.end([netns], grace_s=0.3) >= 1
    assert polite.wait(10) == -15
    assert deaf.wait(10) == -9
    deaf.stdout.close()
    assert namespaces.end([netns], grace_s=0.3) == 0


def test_whoever_is_killed_has_no_time_to_say_goodbye(netns: str) -> None:
    script = "trap 'echo bye' TERM; echo; while :; do sleep 0.1; done"
    deaf = subprocess.Popen([*namespaces.enter(netns), "sh", "-c", script], stdout=subprocess.PIPE)
    assert deaf.stdout
    with deaf.stdout as said:
        said.readline()
        killer = threading.Thread(target=namespaces.kill, args=([netns],))
        killer.start()
        assert deaf.wait(10) == -signal.SIGKILL
        killer.join()
        assert said.read() == b""
    assert namespaces.inhabitants([netns]) == {}
