"""Serve FILE on this machine in one command, without root: control plane, key server and L7 node as children.

On first use it makes a certificate authority of its own in the state directory, and from it development certificates
for the domains of the file; with [acme] in FILE, they stand in until a CA has issued others. FILE is the truth: it
replaces whatever the control plane had. `paifang reload` (SIGHUP) reads it again; where it has an error, or the node
refuses it, the old configuration stays. `paifang reload --replace` (SIGUSR2) has new processes take over without losing
a request. Ctrl-C or SIGTERM ends everything.

examples:
  paifang up site.toml
  paifang up site.toml --state ./state --workers 4 --api 127.0.0.1:0
  paifang up site.toml --alibaba 127.0.0.1:8480 --jdcloud 127.0.0.1:8481
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

from control import devcerts, up_words
from control.client import NOTE, Api, ApiError
from control.cloud import options as clouds
from control.cloud.options import Served
from control.keyfiles import KeyCheckError
from control.node import harden
from control.node.addresses import address, is_loopback
from control.node.children import ChildError
from control.node.files import write_atomic
from control.node.notify import notify
from control.node.patience import patience
from control.ports import free_port
from control.stopping import Stop, Stopping
from control.up_acme import Issuing, missing_library
from control.up_children import DRAIN_S, READY_S, Children
from control.up_reload import RELOAD, REPLACE, Outcome
from control.up_source import Source, read
from control.up_state import State, StateError
from core.config import to_dict
from core.endpoints import endpoint, version
from core.errors import ConfigErrors
from core.model import Model
from core.resolve import l7_listeners

POLL_S = 0.1
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# By IP version, ip(7) and linux/in6.h: an address that is not here yet.
FREEBIND = {4: (socket.IPPROTO_IP, 15), 6: (socket.IPPROTO_IPV6, 78)}
NEWS_EVERY_S = 2.0
KEYS_READ_S = 2.0  # the key server looks every second, should it not say that it has read its keys
RENEW_EVERY_S = 3600.0
NODE = "local"


class UpError(Exception):
    """Why it cannot serve; the text has the remedy."""


class UsageError(Exception):
    """An option, or a file, that cannot be served as this program is; the text has the remedy."""


class Up:
    """The children and the configuration of one `paifang up`."""

    def __init__(
        self,
        options: argparse.Namespace,
        state: State,
        host: str,
        api_port: int,
        check_stop: Callable[[], None],
        served: Sequence[Served] = (),
    ) -> None:
        root = state.root
        nodes_port, ready_port = free_port(), free_port()
        self.file: Path = options.file
        self.state = state
        self.api_url = f"http://{endpoint(host, api_port)}"
        self.served = served
        self.token_file = root / "control" / "token"
        self.model = Model()
        self.source = Source(Model())
        self.issuing = Issuing(root)
        self._news_at = 0.0
        self._check_stop = check_stop
        self._reload = self._replace = False
        self._outcomes = Outcome.read(root).number
        self._renew_at = time.monotonic() + RENEW_EVERY_S
        workers = ["--workers", str(options.workers)] if options.workers else []
        sock = str(root / "keys.sock")
        self.children = Children(root, _say, check_stop)
        self.children.add("keyserver", [
            "keyserver", "--keys", str(root / "keys"), "--socket", sock,
            "--audit-log", str(root / "log" / "audit.log"),
        ])  # fmt: skip
        self.children.add("control", [
            "control", "--state", str(root / "control"), "--api", endpoint(host, api_port),
            "--nodes", f"127.0.0.1:{nodes_port}", "--identity", str(root / "identities" / "control"),
            "--token-file", str(self.token_file), *clouds.argv(served),
        ])  # fmt: skip
        self.children.add("l7", [
            "proxy", "--name", NODE, "--control", f"https://127.0.0.1:{nodes_port}",
            "--identity", str(root / "identities" / "l7"), "--keyserver", f"unix:{sock}",
            "--state", str(root / "l7"), "--ready", f"127.0.0.1:{ready_port}",
            "--access-log", str(root / "log" / "access.log"), "--drain-time", str(DRAIN_S), *workers,
        ])  # fmt: skip

    # --- start and end

    def start(self, source: Source) -> None:
        """Everything up and `source` served, or UpError."""
        self.source = source
        self._check_ports(source.model)
        model = self._equip(source)
        for name in ("keyserver", "control"):
            self.children.start(name)
        for name in ("keyserver", "control"):
            self.children.wait_ready(name)
        note = {"api": self.api_url, "token_file": str(self.token_file), "pid": os.getpid()}
        write_atomic(self.state.root / NOTE, json.dumps(note).encode())
        self.children.start("l7")
        self._await(self._put(model))
        self.model = model
        self._follow_issuer()

    def follow(self) -> None:
        """Keep the children running and follow FILE until Stop."""
        while True:
            self._check_stop()
            time.sleep(POLL_S)
            self.children.keep()
            if "acme" in self.children.specs and time.monotonic() >= self._news_at:
                self._take_news()
            if self._reload:
                self._reload = False
                self._tell(*self._change_to(lambda: _read(self.file), asked=True))
            elif self._replace:
                self._replace = False
                self._tell(*self._replace_all())
            elif time.monotonic() >= self._renew_at:
                self._change_to(lambda: self.source)  # for certificates near their end; FILE is read on SIGHUP only

    def on_hangup(self, number: int, frame: FrameType | None) -> None:
        """SIGHUP: read FILE at the next turn."""
        self._reload = True

    def on_replace(self, number: int, frame: FrameType | None) -> None:
        """SIGUSR2: new processes at the next turn."""
        self._replace = True

    def _tell(self, done: bool, text: str) -> None:
        """For `paifang reload`."""
        self._outcomes += 1
        Outcome(self._outcomes, done, text).write(self.state.root)

    def _replace_all(self) -> tuple[bool, str]:
        try:
            self.children.replace_all()
        except ChildError as error:
            return False, _say(f"{error}\npaifang: the processes that are not replaced go on")
        return True, _say("all processes are replaced")

    # --- the issuer

    def _follow_issuer(self, *, again: bool = False) -> None:
        """Have the issuer that the source asks for, or none; `again`: one that waits after a failure asks at once."""
        argv = self.issuing.argv(self.source, self.api_url, self.token_file)
        spec = self.children.specs.get("acme")
        if spec is not None and (spec.argv != argv or again):
            self.children.drop("acme")
            self.issuing.forget()
        if argv and "acme" not in self.children.specs:
            self.children.add("acme", argv)
            self.children.start("acme")

    def _take_news(self) -> None:
        """What the issuer has brought about is part of what runs, and said."""
        self._news_at = time.monotonic() + NEWS_EVERY_S
        with contextlib.suppress(ApiError):  # the control plane is being started again
            self.model, told = self.issuing.news(self.api(), self.source, self.model)
            for text in told:
                _say(text)
            if self.issuing.failing and told:
                _say("`paifang reload` has the CA asked again at once")

    # --- configuration

    def _equip(self, source: Source) -> Model:
        """The model with all its chains; their keys, and those of what runs now, with the key server. IssueError."""
        root = self.state.root
        before = {path.name for path in (root / "keys").iterdir()}
        self.state.link_keys([*source.key_files, *self.source.key_files])
        led = self.issuing.lead(source)
        model = devcerts.fill(led, ca=root / "ca", keys=root / "keys", chains=root / "chains")
        model = self.issuing.got(source, model)
        keyserver = self.children.child("keyserver")
        fresh = {path.name for path in (root / "keys").iterdir()} - before
        if keyserver is not None and (fresh or source.key_files):  # a key file may have a new key
            while keyserver.said_ready():  # what it said before, when it started again perhaps, is no answer
                pass
            keyserver.signal(signal.SIGHUP)
            _wait(keyserver.said_ready, KEYS_READ_S)
        return model

    def _change_to(self, find: Callable[[], Source], *, asked: bool = False) -> tuple[bool, str]:
        """Serve another source; whatever is wrong with it is printed and leaves everything as it was.

        If somebody has `asked`, then that nothing has changed is printed as well. Whether it is served, and the words.
        """
        self._renew_at = time.monotonic() + RENEW_EVERY_S
        before = self.model
        try:
            source = find()
            self._check_ports(source.model)
            model = self._equip(source)
            if model != before:
                try:
                    self._await(self._put(model))
                except (UpError, ChildError):
                    self._put(before)  # or a node that starts again would have nothing that it can run
                    raise
            self.source = source
        except ConfigErrors as error:
            text = f"{error}\npaifang: the configuration before stays"
            print(text, file=sys.stderr, flush=True)
            return False, text
        except (UsageError, KeyCheckError, devcerts.IssueError, UpError, ChildError, ApiError, OSError) as error:
            return False, _say(f"{error}\npaifang: the configuration before stays")
        finally:
            self.state.link_keys(self.source.key_files)
        self._follow_issuer(again=asked and self.issuing.failing)
        if model == before:
            return True, _say(f"{self.file} asks for what is served already") if asked else ""
        self.model = model
        text = _say("configuration changed")
        self.print_listeners()
        return True, text

    def _check_ports(self, model: Model) -> None:
        """UpError for a port that another process listens on.

        The node itself cannot tell: its workers share their ports (SO_REUSEPORT), and so would a second node of the
        same user, each taking a part of the connections.
        """
        for host, port in endpoints(model) - endpoints(self.model):
            ip = version(host)
            with socket.socket(FAMILIES[ip]) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(*FREEBIND[ip], 1)
                try:
                    sock.bind((host, port))
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        text = f"{endpoint(host, port)} is in use by another process; `ss -ltnp` shows which"
                        raise UpError(text) from None

    def _put(self, model: Model) -> int:
        """Make `model` the control plane's configuration; its version. Raises ApiError."""
        query = {"comment": f"up {self.file}"[:500]}
        return self.api().request("PUT", "/v1/config", to_dict(model), query=query).version

    def _await(self, version: int) -> None:
        """Wait until the node runs a version. Raises UpError where it refuses or is late, ChildError where it ends."""
        with patience(f"paifang: waiting for the L7 node ({READY_S:.0f} s at most); see {self.state.root}/log/l7.log"):
            self._await_silently(version)

    def _await_silently(self, version: int) -> None:
        api, deadline = self.api(), time.monotonic() + READY_S
        while time.monotonic() < deadline:
            self._check_stop()
            child = self.children.child("l7")
            if child is not None and child.poll() is not None:
                child.wait_ready(0)  # raises, quoting its log
            document = cast(dict[str, Any], api.request("GET", "/v1/status").document)
            node = next((node for node in document["nodes"] if node["name"] == NODE), None)
            if node is not None and node["why"].startswith("refuses"):
                raise UpError(f"the L7 node {node['why']}")
            if node is not None and node["step"] == "in step" and node["version"] == version:
                for problem in node["facts"].get("problems") or ():
                    _say(f"warning: {problem}")
                return
            time.sleep(POLL_S)
        raise UpError(f"the L7 node is not ready after {READY_S:.0f} s; see {self.state.root}/log/l7.log")

    def api(self) -> Api:
        """The control plane with the administrator's token."""
        return Api(self.api_url, self.token_file.read_text().strip())

    # --- what the user is told

    def print_listeners(self) -> None:
        """Where what listens."""
        print(up_words.listeners(self.model), flush=True)

    def print_help(self) -> None:
        """How to trust, look at and end it."""
        root = self.state.root
        text = up_words.help_text(self.source, self.model, root, self.api_url, self.token_file, self.file, self.served)
        print(text, flush=True)


def endpoints(model: Model) -> set[tuple[str, int]]:
    """Where the L7 node listens for a model."""
    return {(address, each.listener.port) for each in l7_listeners(model) for address in each.addresses}


def main(options: argparse.Namespace) -> int:
    """`paifang up`; 0 after Ctrl-C or SIGTERM, 2 for what the user has to change, 1 for what failed."""
    os.environ["PYTHONSAFEPATH"] = "1"  # children import nothing from the directory that the user stands in
    harden.forbid_dumps()  # the CA's key is read here
    stopping = Stopping()
    state = up = None
    for number in (RELOAD, REPLACE):
        signal.signal(number, signal.SIG_IGN)  # until somebody can be told what came of it
    try:
        source = _read(options.file)
        state = State(options.state)
        host, port = _api_address(options.api)
        served = loopback_apis(options)
        state.make_identities()
        up = Up(options, state, host, port, stopping.check, served)
        signal.signal(RELOAD, up.on_hangup)
        signal.signal(REPLACE, up.on_replace)
        up.start(source)
        up.print_listeners()
        up.print_help()
        notify("READY=1")
        up.follow()
    except ConfigErrors as error:
        print(error, file=sys.stderr)
        return 2
    except (StateError, UsageError, devcerts.IssueError) as error:
        _say(str(error))
        return 2
    except (UpError, KeyCheckError, ChildError, ApiError, OSError) as error:
        _say(str(error))
        return 1
    except Stop:
        print("ending", flush=True)
        notify("STOPPING=1")
    finally:
        stopping.ignore()
        for number in (RELOAD, REPLACE):
            signal.signal(number, signal.SIG_IGN)
        if up is not None:
            up.children.stop()
        if state is not None:
            state.close()
    return 0


def _read(file: Path) -> Source:
    """What FILE says, fit to be served here. Raises ConfigErrors, KeyCheckError, UsageError."""
    source = read(file)
    if source.acme is not None and (why := missing_library()):
        raise UsageError(why)
    return source


def _api_address(text: str) -> tuple[str, int]:
    """The API's address, checked to be free now. Raises UsageError."""
    try:
        host, port = address(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--api {error}; give an address such as 127.0.0.1:8470") from None
    return host, _free(f"--api {text}", host, port)


def loopback_apis(options: argparse.Namespace) -> tuple[Served, ...]:
    """The APIs of clouds that are asked for, at addresses that are free now. Raises UsageError."""
    try:
        wanted = clouds.read_apis(options)
    except ValueError as error:
        raise UsageError(str(error)) from None
    found = []
    for each in wanted:
        host, port = each.address
        port = _free(f"--{each.name} {endpoint(host, port)}", host, port)
        found.append(replace(each, address=(host, port)))
    return tuple(found)


def _free(option: str, host: str, port: int) -> int:
    """The port of a loopback address that nobody has now. Raises UsageError."""
    if not is_loopback(host):
        raise UsageError(f"{option}: is plain HTTP and has to be a loopback address such as 127.0.0.1")
    with socket.socket(FAMILIES[version(host)]) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            name = option.partition(" ")[0]
            raise UsageError(f"{option}: {error.strerror}; {name} 127.0.0.1:0 takes any free port") from None
        return int(sock.getsockname()[1])


def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def _say(text: str) -> str:
    """Tells the user, and returns the words."""
    text = f"paifang: {text}"
    print(text, file=sys.stderr, flush=True)
    return text
