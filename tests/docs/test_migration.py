"""The configurations of the page on migration: each is its program's, and the same requests get the same answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.docs.machine import Machine, machine
from tests.docs.pages import Page, follow

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

# Answers with where it came from, and what it was asked.
SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        said = [sys.argv[1], self.path, self.headers["Host"], self.headers.get("X-Forwarded-For", "-")]
        body = " ".join(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
    do_HEAD = do_GET
    def log_message(self, *arguments):
        pass

print("serves", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def answers(mine: Machine, port: int) -> tuple[list[str], Counter[str]]:
    """What each kind of request gets, and how requests for / are spread."""
    asked = [
        mine.run(
            f"curl -s -o /run/body -w '%{{http_code}} %{{redirect_url}}' -H 'Host: shop.example' "
            f"'http://127.0.0.1:{port}{path}'; "
            "grep -a '^900' /run/body || true"
        ).out
        for path in ("/api/x?y=1", "/old", "/closed")
    ]
    spread = mine.run(
        f"for n in $(seq 40); do curl -s -H 'Host: shop.example' http://127.0.0.1:{port}/a; echo; done"
    ).out
    return asked, Counter(spread.splitlines())


def test_the_same_answers(tmp_path: Path) -> None:
    with machine(tmp_path) as mine, follow("migration.md") as page:
        mine.write("server.py", SERVER)
        for port in (9000, 9001):
            mine.leave_running(f"exec python3 server.py {port}", "serves")
        toml = [block.text for block in page.blocks if block.language == "toml"]
        for number, text in enumerate(toml):
            mine.write(f"{number}.toml", text + "\n")
            assert "valid" in mine.run(f"paifang check {number}.toml").out

        mine.write("nginx.conf", "pid /run/nginx.pid;\n" + taken(page, "nginx"))
        mine.run("nginx -t -c $PWD/nginx.conf")
        mine.leave_running("nginx -g 'daemon off;' -c $PWD/nginx.conf", "")
        mine.write("haproxy.cfg", taken(page, "haproxy"))
        mine.run("haproxy -c -f haproxy.cfg")
        mine.leave_running("haproxy -db -f haproxy.cfg", "")
        mine.write("keepalived.conf", taken(page, "keepalived"))
        mine.run("keepalived -t -f $PWD/keepalived.conf")

        for old, new, file in ((8001, 8002, "0.toml"), (8003, 8004, "1.toml")):
            ours = mine.leave_running(f"paifang up {file} --workers 1", "Ctrl-C ends it")
            mine.eventually(f"curl -s http://127.0.0.1:{old}/", "900")
            theirs_asked, theirs_spread = answers(mine, old)
            asked, spread = answers(mine, new)
            assert asked == theirs_asked
            assert spread == theirs_spread
            assert sorted(spread.values()) == [10, 30]
            mine.stop(ours)


def taken(page: Page, language: str) -> str:
    (block,) = [block for block in page.blocks if block.language == language]
    return page.first(block.text).text + "\n"
