"""A site for the console: `paifang up` before two HTTP servers of our own, and a headless Chromium at its console."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from control.ports import free_port

DEADLINE_S = 40.0
CHROMIUM = "/usr/bin/chromium"
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
HOSTILE = "<img src=x onerror=alert(1)>"


class Backend(ThreadingHTTPServer):
    """Answers every request with its name."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def close(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` gives as soon as it gives anything."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


class Site:
    """`paifang up` with a listener `web`, a backend service `shop` and a group `shop` of two servers."""

    def __init__(self, directory: Path) -> None:
        self.backends = [Backend("first"), Backend("second")]
        self.port = free_port()
        self.spare = free_port()
        servers = "".join(
            f'\n[[server_groups.servers]]\naddress = "127.0.0.1"\nport = {each.port}\nzone = "{zone}"\n'
            for each, zone in zip(self.backends, "ab", strict=True)
        )
        (directory / "site.toml").write_text(f"""
[[server_groups]]
name = "shop"
description = "{HOSTILE}"
tags = {{ team = "{HOSTILE}" }}
{servers}
[[backend_services]]
name = "shop"
protocol = "http"
server_group = "shop"
scheduler = "rr"
[[instances]]
name = "shop"
[[listeners]]
name = "web"
instance = "shop"
protocol = "http"
port = {self.port}
backend_service = "shop"
""")
        self.state, self.output = directory / "state", directory / "output"
        argv = [sys.executable, "-m", "control.cli", "up", str(directory / "site.toml"), "--state", str(self.state)]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*argv, "--workers", "1", "--api", "127.0.0.1:0"], stdout=output, stderr=output
            )
        try:
            self.api = str(json.loads(eventually(self._note, "it starts"))["api"])
            self.token = eventually(self._token, "it has a token")
            eventually(lambda: self.fetch() in ("first", "second"), "the first request")
        except BaseException:
            self.close()
            raise

    def _note(self) -> str:
        assert self.process.poll() is None, self.output.read_text()
        found = self.state / "up.json"
        return found.read_text() if found.exists() else ""

    def _token(self) -> str:
        found = self.state / "control" / "token"
        return found.read_text().strip() if found.exists() else ""

    def ask(self, method: str, path: str, body: object = None, token: str = "") -> Any:
        """The API's answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/v1/{path}", data=data, method=method)
        request.add_header("Authorization", f"Bearer {token or self.token}")
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
            return json.loads(response.read() or b"null")

    def fetch(self, port: int = 0, path: str = "/") -> str:
        """What a client gets of the listener, "" if nothing."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self.port}{path}", timeout=10) as response:
                return str(response.read().decode())
        except (urllib.error.URLError, OSError):
            return ""

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for each in self.backends:
            each.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """What a page says to the browser's console, which is to be nothing: errors, violations of the policy."""

    def __init__(self, page: Page) -> None:
        self.told: list[str] = []
        self.expected: tuple[str, ...] = ()
        self.page = page
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.told.append(f"{error} {error.stack}"))
        page.on("dialog", lambda dialog: self.told.append(f"a dialog: {dialog.message}") or dialog.dismiss())  # type: ignore[func-returns-value]

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.told.append(f"{message.text} {message.location}")

    def unexpected(self) -> list[str]:
        return [each for each in self.told if not any(word in each for word in self.expected)]


def sign_in(page: Page, site: Site, token: str = "", at: str = "") -> None:
    page.goto(f"{site.api}/console/{at}")
    page.get_by_label("API token").fill(token or site.token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for()
