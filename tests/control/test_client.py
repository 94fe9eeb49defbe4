"""The REST client: where it finds the API, and what it makes of bad answers."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.client import DEFAULT_API, Api, ApiError, connect, default_state


class Canned(http.server.BaseHTTPRequestHandler):
    """Answers with what the test has set, and keeps what it was asked."""

    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"{}")
    seen: list[tuple[str, str, dict[str, str], bytes]]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        type(self).seen.append((self.command, self.path, dict(self.headers), body))
        status, headers, content = self.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Canned], str]]:
    handler = type("Handler", (Canned,), {"seen": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAIFANG_API", "PAIFANG_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_a_request_has_token_version_and_body_and_asks_no_proxy(
    server: tuple[type[Canned], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, url = server
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    handler.answer = (200, {"ETag": '"7"'}, b'{"a": 1}')
    answer = Api(url + "/", "secret").request("PUT", "/v1/config", {"x": []}, query={"dry_run": "1"}, if_version=6)
    assert (answer.document, answer.version) == ({"a": 1}, 7)
    ((method, path, headers, body),) = handler.seen
    assert (method, path, json.loads(body)) == ("PUT", "/v1/config?dry_run=1", {"x": []})
    assert headers["Authorization"] == "Bearer secret"
    assert headers["If-Match"] == '"6"'


def test_a_refusal_lists_all_errors(server: tuple[type[Canned], str]) -> None:
    handler, url = server
    problem = {"detail": "2 errors", "errors": [{"text": "one"}, {"text": "two"}], "current_version": 3}
    handler.answer = (422, {}, json.dumps(problem).encode())
    with pytest.raises(ApiError, match="one\ntwo\n2 errors") as caught:
        Api(url, "t").request("GET", "/")
    assert (caught.value.status, caught.value.problem["current_version"]) == (422, 3)


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [(500, b"<html>", "answers 500"), (502, b"[]", "answers 502"), (200, b"<html>", "is the control plane running")],
)
def test_answers_that_are_none(server: tuple[type[Canned], str], status: int, content: bytes, message: str) -> None:
    handler, url = server
    handler.answer = (status, {}, content)
    with pytest.raises(ApiError, match=message):
        Api(url, "t").request("GET", "/")


def test_where_the_api_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "token").write_text("t\n")
    assert connect(None, None, tmp_path).url == DEFAULT_API
    (tmp_path / "up.json").write_text('{"api": "http://127.0.0.1:1111"}')
    assert connect(None, None, tmp_path).url == "http://127.0.0.1:1111"
    monkeypatch.setenv("PAIFANG_API", "http://127.0.0.1:2222/")
    assert connect(None, None, tmp_path).url == "http://127.0.0.1:2222"
    assert connect("http://127.0.0.1:3333", None, tmp_path).url == "http://127.0.0.1:3333"
    (tmp_path / "up.json").write_text("torn")
    assert connect(None, "x", tmp_path).url == "http://127.0.0.1:2222"


def test_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_state() == Path("/x/paifang")
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", "/home/ann")
    assert default_state() == Path("/home/ann/.local/state/paifang")
