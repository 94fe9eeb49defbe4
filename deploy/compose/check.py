"""`make compose-test`: the stack of compose.yaml, really built and run, under traffic, while a container of each kind
is killed. Root. It uses the Docker engine that is there, or one of its own (engine.py), and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.compose import engine

HERE = Path(__file__).resolve().parent
VIP, HTTP, HTTPS, TCP, UDP = "10.90.0.100", "http://10.90.0.100/", "https://shop.example/", "5000", "5300"
UP_S, BUILD_S, WATCH_S = 900, 1800, 15.0
SETTLED_S = 8.0  # after a death, requests may fail for so long
BUILD_CA = "/etc/ssl/certs/ca-certificates.crt"


class CheckError(Exception):
    """Something was not as it has to be."""


class Stack:
    """The containers of one project."""

    def __init__(self, environment: dict[str, str], project: str) -> None:
        self._environment = {**environment, "PAIFANG_BUILD_CA": os.environ.get("PAIFANG_BUILD_CA", BUILD_CA)}
        self._words = ["docker", "compose", "-p", project, "-f", str(HERE / "compose.yaml")]

    def __call__(self, *words: str, timeout_s: float = 120.0) -> str:
        """What `docker compose …` prints. Raises CheckError."""
        done = subprocess.run([*self._words, *words], env=self._environment, capture_output=True, text=True,
                              timeout=timeout_s, check=False)  # fmt: skip
        if done.returncode:
            raise CheckError(f"docker compose {' '.join(words)}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        return done.stdout

    def client(self, *words: str, timeout_s: float = 120.0) -> dict[str, object]:
        """What a program of the client's container prints as JSON."""
        return dict(json.loads(self("exec", "-T", "client", "python3", "-m", *words, timeout_s=timeout_s)))

    def kill(self, service: str) -> None:
        """SIGKILL to a container's first process, as when memory runs out; the engine starts the container again."""
        container = self("ps", "-q", service).strip()
        asked = ["docker", "inspect", "-f", "{{.State.Pid}}", container]
        told = subprocess.run(asked, env=self._environment, capture_output=True, text=True, check=True)
        os.kill(int(told.stdout), signal.SIGKILL)

    def status(self) -> list[dict[str, object]]:
        """The nodes as the control plane sees them."""
        words = "PAIFANG_TOKEN=$(cat /state/token) paifang status --json || true"
        return list(json.loads(self("exec", "-T", "control", "sh", "-c", words))["nodes"])


class Watch:
    """Requests that go on in the background for `WATCH_S`."""

    def __init__(self, stack: Stack, *words: str) -> None:
        self._result: dict[str, object] | Exception = CheckError("it has not ended")
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(stack, words))
        self._thread.start()
        self.event_s = 0.0

    def _run(self, stack: Stack, words: tuple[str, ...]) -> None:
        try:
            self._result = stack.client(*words)
        except Exception as error:
            self._result = error

    def event(self) -> None:
        """What is watched for happens now."""
        self.event_s = time.monotonic() - self._begun

    def result(self) -> dict[str, object]:
        self._thread.join()
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def requests(stack: Stack, happening: Callable[[], None], lost_is: float, *words: str) -> str:
    """Requests by HTTP and HTTPS while something happens; none may fail later than `lost_is` seconds after it."""
    load = ("deploy.compose.load", "--seconds", str(WATCH_S))
    watches = [Watch(stack, *load, HTTP), Watch(stack, *load, HTTPS, "--ca", "/site/ca.pem")]
    time.sleep(3)
    happening()
    for watch in watches:
        watch.event()
    told = []
    for watch, name in zip(watches, ("HTTP", "HTTPS"), strict=True):
        result = watch.result()
        failed = result["failed"]
        assert isinstance(failed, list)
        late = [each for each in failed if each[0] > watch.event_s + lost_is]
        if late or not result["answered"]:
            raise CheckError(f"{name}: {result['answered']} answered, {len(failed)} failed, too late: {late[:5]}")
        told.append(f"{name} {result['answered']} answered, {len(failed)} failed")
    return "; ".join(told)


def steps(stack: Stack) -> Iterator[tuple[str, Callable[[], str]]]:
    """What is done, in order, with its title; each returns what was seen."""
    yield "TCP, UDP, HTTP and HTTPS through the VIP", lambda: traffic(stack)
    yield "a server is killed", lambda: requests(stack, lambda: stack.kill("be-2"), SETTLED_S)
    yield "an L7 node is killed", lambda: requests(stack, lambda: stack.kill("l7-1"), SETTLED_S)
    yield "an L7 node is replaced", lambda: requests(stack, lambda: replace(stack, "l7-2"), 0.0)
    yield "the key server is killed", lambda: requests(stack, lambda: stack.kill("keyserver"), SETTLED_S)
    yield "the control plane is killed", lambda: requests(stack, lambda: stack.kill("control"), 0.0)
    yield "the L4 node with the VIP is killed under a transfer", lambda: holder_dies(stack)
    yield "every node runs the configuration again", lambda: in_step(stack)


def traffic(stack: Stack) -> str:
    stream = stack.client("deploy.lab.client", "tcp", f"{VIP}:{TCP}", "--bytes", "5000000")
    upload = stack.client("deploy.lab.client", "upload", f"{VIP}:{TCP}", "--bytes", "5000000")
    echo = stack.client("deploy.lab.client", "udp", f"{VIP}:{UDP}")
    if not (stream["correct"] and upload["correct"] and echo["echo"]):
        raise CheckError(f"{stream} {upload} {echo}")
    return f"5 MB each way, an echo; {requests(stack, lambda: None, 0.0)}"


def replace(stack: Stack, service: str) -> None:
    """As an upgrade would: the old container drains, a new one takes its place."""
    stack("up", "-d", "--no-deps", "--force-recreate", service)


def holder_dies(stack: Stack) -> str:
    """A transfer that would take ten seconds goes on by the other node."""
    holder = next(name for name in ("l4-1", "l4-2") if VIP in stack("exec", "-T", name, "ip", "-br", "address"))
    transfer = Watch(stack, "deploy.lab.client", "tcp", f"{VIP}:{TCP}", "--bytes", "5000000", "--rate", "500000")
    time.sleep(4)
    stack("kill", holder)  # the whole container, with its network: a machine that dies
    told = transfer.result()
    stack("up", "-d", "--no-deps", holder)
    if not told["correct"]:
        raise CheckError(f"the transfer broke when {holder} died: {told}")
    return f"{holder} died, 5 MB arrived, the longest pause was {told['longest_pause_s']:.2f} s"


def in_step(stack: Stack) -> str:
    deadline = time.monotonic() + UP_S
    while True:
        nodes = stack.status()
        if len(nodes) == 4 and all(node["step"] == "in step" for node in nodes):
            return ", ".join(str(node["name"]) for node in nodes)
        if time.monotonic() > deadline:
            raise CheckError(f"{nodes}")
        time.sleep(1)


@contextlib.contextmanager
def found_engine(directory: Path) -> Iterator[dict[str, str]]:
    if engine.present():
        yield dict(os.environ)
    else:
        with engine.private(directory) as environment:
            yield environment


def check(environment: dict[str, str], project: str, keep: bool) -> None:
    stack, begun = Stack(environment, project), time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)

    say("the images are built")
    stack("build", timeout_s=BUILD_S)
    try:
        say("the containers start")
        stack("up", "-d", "--wait", "--wait-timeout", str(UP_S), timeout_s=UP_S + 60)
        for title, do in steps(stack):
            say(title)
            say(f"    {do()}")
    except CheckError:
        print(stack("logs", "--no-color", "--tail", "20"), file=sys.stderr)
        raise
    finally:
        if not keep:
            stack("down", "--volumes", "--timeout", "30", timeout_s=UP_S)
    say("everything above was checked")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.compose.check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--project", default="paifang-test", help="of docker compose (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the containers running, where an engine was there")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("compose-test: root is needed, to kill processes of containers", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="paifang-engine-") as root, found_engine(Path(root)) as environment:
            check(environment, options.project, options.keep)
    except (CheckError, engine.EngineError) as error:
        print(f"compose-test: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
