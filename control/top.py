"""`paifang top`: where the pictures come from and where they go. What they say is in `control.rates` and `.top_view`.

They come from the control plane, which has every node's last report, or from one node's admin socket. They go to the
screen by curses, to whoever reads standard output as text, or as JSON. Reading is done in a thread of its own: keys are
answered at once, also while a control plane does not.
"""

from __future__ import annotations

import argparse
import curses
import json
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from control import show
from control.client import ApiError, connect
from control.node.admin import AdminError, ask
from control.rates import Document, Meters, Picture
from control.top_table import Section, Sort, Style
from control.top_view import lines, sections, text

INTERVAL_S: Final = 1.0
LOOK_S: Final = 0.25  # how often a first second report is looked for
FIRST_RATES_S: Final = 4.0  # by when each node that lives has reported twice
TIMEOUT_S: Final = 2.5  # of one reading
KEY_S: Final = 0.1
ADMIN_SOCKET: Final = "admin.sock"  # in a node's state directory
WIDE: Final = 200  # of text for a pipe

KEYS: Final[Mapping[str, Sort]] = {
    "p": Sort.PACKETS, "b": Sort.BITS, "n": Sort.NEW, "s": Sort.SESSIONS, "d": Sort.DROPS, "a": Sort.NAME,
}  # fmt: skip
HINT: Final = "   Tab section, pbnsda sort, q end"

Read = Callable[[], Document]


def main(options: argparse.Namespace) -> int:
    """The subcommand. Raises ApiError where there is nothing to show at all."""
    read, sort = source(options), Sort(options.sort)
    if options.once:
        print(_printed(first(read), sort, as_json=options.json))
        return 0
    if options.json or not _has_screen():
        return _stream(read, sort, as_json=options.json)
    for number in (signal.SIGINT, signal.SIGTERM):  # the terminal has to be put in order before the end
        signal.signal(number, _end)
    return curses.wrapper(lambda screen: Screen(screen, read, sort, _styles()).run())


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def source(options: argparse.Namespace) -> Read:
    """Reads the answer to /v1/status, or makes one of a single node's status."""
    socket = options.state / ADMIN_SOCKET
    if options.api is None and socket.exists():
        return lambda: _status_of_node(socket)
    api = connect(options.api, options.token, options.state, ca=options.ca, timeout_s=TIMEOUT_S)
    return lambda: api.request("GET", "/v1/status").document  # type: ignore[return-value]


def _status_of_node(socket: Path) -> Document:
    try:
        facts: Any = ask(socket, "status", TIMEOUT_S)
    except AdminError as error:
        raise ApiError(str(error)) from None
    step = "in step" if facts["ready"] else "not ready"
    why = "a newer configuration is refused" if facts.get("refused") else ""
    role = "l7" if "traffic" in facts else "l4"
    node = {"role": role, "name": facts["name"], "step": step, "why": why, "listed": True, "facts": facts}
    return {"version": facts["configuration"], "nodes": [node]}


def first(read: Read, *, patience_s: float = FIRST_RATES_S, look_s: float = LOOK_S) -> Picture:
    """A picture with the rates of all nodes that report; after `patience_s` without those that are late."""
    meters, until = Meters(), time.monotonic() + patience_s
    while True:
        picture = meters.feed(read(), show.troubles)
        known = all(node.view.packets is not None for node in picture.nodes if node.counts) and all(
            node.traffic.total.requests is not None for node in picture.nodes if node.traffic and node.traffic.listeners
        )
        if known or time.monotonic() >= until:
            return picture
        time.sleep(look_s)


def to_json(picture: Picture) -> str:
    """One line. Servers, whose names are of two parts, are a list."""
    document = asdict(picture)
    for view in (document["together"], *(node["view"] for node in document["nodes"])):
        view["servers"] = [{"listener": of, "server": name, **flow} for (of, name), flow in view["servers"].items()]
    document["traffic"] = picture.traffic.document()
    for node, said in zip(picture.nodes, document["nodes"], strict=True):
        said["traffic"] = node.traffic.document() if node.traffic is not None else None
    return json.dumps({"time": round(time.time(), 3), **document})


def _printed(picture: Picture, sort: Sort, *, as_json: bool) -> str:
    return to_json(picture) if as_json else text(lines(picture, width=WIDE, sort=sort))


def _stream(read: Read, sort: Sort, *, as_json: bool) -> int:
    """A picture each second, until the reader or the user ends it."""
    meters = Meters()
    while True:
        picture = meters.feed(read(), show.troubles)
        print(_printed(picture, sort, as_json=as_json), end="\n" if as_json else "\n\n", flush=True)
        time.sleep(INTERVAL_S)


def _has_screen() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _hung_up() -> bool:
    """Whether the terminal has gone, which curses does not tell: reading then fails at once, for ever."""
    terminal = select.poll()
    terminal.register(0, 0)  # the descriptor that curses reads
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in terminal.poll(0))


class Screen:
    """The live view. `styles`: curses' attributes; `gone` says whether the terminal is."""

    def __init__(
        self,
        screen: curses.window,
        read: Read,
        sort: Sort,
        styles: Mapping[Style, int],
        gone: Callable[[], bool] = _hung_up,
    ) -> None:
        self._screen = screen
        self._gone = gone
        self._read = read
        self._sort = sort
        self._only: Section | None = None
        self._picture: Picture | None = None
        self._notice = "waiting for the first reports"
        self._ended = threading.Event()
        self._heard: queue.SimpleQueue[Document | ApiError] = queue.SimpleQueue()
        self._styles = styles

    def run(self) -> int:
        """Until q, or until the terminal has gone."""
        self._screen.timeout(round(KEY_S * 1000))
        threading.Thread(target=self._keep_reading, daemon=True).start()
        try:
            self._follow(Meters())
        finally:
            self._ended.set()
        return 0

    def _follow(self, meters: Meters) -> None:
        self._paint()
        while True:
            key = self._screen.getch()
            if key in (ord("q"), ord("Q")) or (key == curses.ERR and self._gone()):
                return
            changed = self._press(key)
            while not self._heard.empty():
                self._take(self._heard.get(), meters)
                changed = True
            if changed:
                self._paint()

    def _keep_reading(self) -> None:
        rest_s = 0.0
        while not self._ended.wait(rest_s):
            started = time.monotonic()
            try:
                self._heard.put(self._read())
            except ApiError as error:
                self._heard.put(error)
            rest_s = max(0.0, started + INTERVAL_S - time.monotonic())

    def _take(self, heard: Document | ApiError, meters: Meters) -> None:
        if isinstance(heard, ApiError):
            self._notice = str(heard)
        else:
            self._picture, self._notice = meters.feed(heard, show.troubles), ""

    def _press(self, key: int) -> bool:
        """Says whether there is something to paint."""
        if key == ord("\t"):
            tabs = [None, *(sections(self._picture) if self._picture is not None else Section)]
            at = tabs.index(self._only) if self._only in tabs else 0
            self._only = tabs[(at + 1) % len(tabs)]
        elif 0 < key < 128 and chr(key) in KEYS:
            self._sort = KEYS[chr(key)]
        return key != curses.ERR  # a resized terminal is a key, too

    def _paint(self) -> None:
        height, width = self._screen.getmaxyx()
        picture = self._picture or Meters().feed({"version": 0, "nodes": []}, show.troubles)
        shown = lines(
            picture, width=width, height=height, sort=self._sort, only=self._only, notice=self._notice,
            clock=time.strftime("%H:%M:%S") + HINT,
        )  # fmt: skip
        self._screen.erase()
        for row, line in enumerate(shown):
            column = 0
            for part, style in line:
                # The last cell of the screen cannot be written without moving the cursor off it, which is an error.
                room = width - column - (row == height - 1)
                if room > 0:
                    self._screen.addnstr(row, column, part, room, self._styles[style])
                column += len(part)
        self._screen.refresh()


def _styles() -> dict[Style, int]:
    curses.curs_set(0)
    bad = curses.A_BOLD
    if curses.has_colors() and not os.environ.get("NO_COLOR"):
        curses.use_default_colors()
        curses.init_pair(1, curses.COLOR_RED, -1)
        bad |= curses.color_pair(1)
    return {
        Style.PLAIN: curses.A_NORMAL,
        Style.TITLE: curses.A_BOLD,
        Style.HEADER: curses.A_REVERSE,
        Style.BAD: bad,
        Style.DIM: curses.A_DIM,
    }
