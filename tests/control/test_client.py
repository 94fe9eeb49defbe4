"""The REST client: where it finds the API, and what it makes of bad answers."""

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from control import client
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


def test_a_stream_is_read_event_by_event(server: tuple[type[Canned], str]) -> None:
    """A comment is no event, nor is what breaks off before its empty line."""
    handler, url = server
    stream = (
        b'id: 7\nevent: reset\ndata: {"a": "x: y"}\n\n: still here\n\nevent: node\ndata: {}\n\nevent: node\ndata: {'
    )
    handler.answer = (200, {"Content-Type": "text/event-stream"}, stream)
    found = list(Api(url, "secret").events("/v1/watch", {"only": ["node", "server"], "after": "6"}, 20))
    assert found == [("reset", "7", {"a": "x: y"}), ("node", "", {})]
    ((_, path, headers, _),) = handler.seen
    assert (path, headers["Authorization"]) == ("/v1/watch?only=node&only=server&after=6", "Bearer secret")


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (503, b'{"detail": "32 are watching already"}', "32 are watching already"),
        (401, b'{"detail": "x"}', "does not know the token"),
        (200, b"event: node\ndata: {\n\n", "is the control plane running"),
    ],
)
def test_a_stream_that_is_none(server: tuple[type[Canned], str], status: int, body: bytes, why: str) -> None:
    handler, url = server
    handler.answer = (status, {}, body)
    with pytest.raises(ApiError, match=why) as caught:
        list(Api(url, "secret").events("/v1/watch", {}, 20))
    assert caught.value.status in (status, 0)


def test_a_refusal_lists_all_errors(server: tuple[type[Canned], str]) -> None:
    handler, url = server
    problem = {"detail": "2 errors", "errors": [{"text": "one"}, {"text": "two"}], "current_version": 3}
    handler.answer = (422, {}, json.dumps(problem).encode())
    with pytest.raises(ApiError, match="one\ntwo\n2 errors") as caught:
        Api(url, "t").request("GET", "/")
    assert (caught.value.status, caught.value.problem["current_version"]) == (422, 3)


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (500, b"<html>", "answers 500 .*, as no control plane does; is this its REST API?"),
        (502, b"[]", "answers 502"),
        (200, b"<html>", "is the control plane running"),
        (401, b'{"detail": "give a token"}', "does not know the token that was given"),
    ],
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


@pytest.mark.parametrize("token", ["two words", "schlüssel", "a\nb"])
def test_a_token_that_no_header_can_carry_is_not_printed(token: str, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="the token of --token is not one word of ASCII") as caught:
        connect(None, token, tmp_path)
    assert token not in str(caught.value)
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(ApiError, match=r"control/token; give its own by --token or .* is not one word of ASCII"):
        connect(None, None, tmp_path)


def test_a_control_plane_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ApiError, match=f"{url}: no answer within 0.1 s; is the control plane running"):
            Api(url, "t", timeout_s=0.1).request("GET", "/")


def test_who_waits_is_told_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(client, "patience", lambda text: said.append(text) or contextlib.nullcontext())
    with pytest.raises(ApiError, match="Connection refused"):
        Api("http://127.0.0.1:1", "t").request("GET", "/")
    assert said == ["paifang: waiting for http://127.0.0.1:1 (30 s at most)"]


def test_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_state() == Path("/x/paifang")
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", "/home/ann")
    assert default_state() == Path("/home/ann/.local/state/paifang")
