"""`paifang token` and `paifang audit` against a control plane with TLS in a process of its own; whom they trust."""

import contextlib
import json
import signal
import socket
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from certs.authority import Authority
from control import cli, cli_tokens
from control.cli_audit import table
from control.cli_tokens import end_of, span
from control.client import ApiError, connect
from control.client_tls import unencrypted
from control.node.children import Child
from control.ports import free_port


@dataclass
class Control:
    child: Child
    port: int
    state: Path
    ca: Path
    log: Path

    @property
    def token(self) -> str:
        return (self.state / "token").read_text().strip()


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """On all addresses, with the identity that the cluster's CA has given it."""
    root = tmp_path_factory.mktemp("control")
    Authority.init(root / "ca").issue_node("control", "control", ["127.0.0.1"]).write(root / "id")
    port = free_port()
    argv = [sys.executable, "-m", "control", "--state", str(root / "state"), "--api", f"0.0.0.0:{port}"]
    argv += ["--identity", str(root / "id"), "--audit-stderr"]
    child = Child.start("control", argv, log=root / "log", notify_dir=root)
    try:
        child.wait_ready(60)
        yield Control(child, port, root / "state", root / "ca" / "ca.pem", root / "log")
    finally:
        code = child.terminate(20)
    assert code == 0, (root / "log").read_text()


class Paifang:
    """Runs the command in this process and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str], admin: str) -> None:
        self.capsys, self.admin = capsys, admin
        self.out = self.err = ""

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        found = cli.main([*map(str, arguments)])
        self.out, self.err = self.capsys.readouterr()
        assert found == code, self.out + self.err
        return self.out


@pytest.fixture
def paifang(control: Control, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Paifang:
    monkeypatch.setenv("PAIFANG_API", f"https://127.0.0.1:{control.port}")
    monkeypatch.setenv("PAIFANG_TOKEN", control.token)
    monkeypatch.setenv("PAIFANG_CA", str(control.ca))
    return Paifang(capsys, control.token)


# --- tokens


def test_the_life_of_a_token(paifang: Paifang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = paifang("token", "create", "life", "--role", "operate", "--expires", "90d").strip()
    assert first.startswith("pft_")
    assert "'life' of role operate, until 20" in paifang.err
    assert first not in paifang.err, "what goes to stderr may be logged"
    out = paifang("token", "list")
    assert "life" in out
    assert first not in out
    monkeypatch.setenv("PAIFANG_TOKEN", first)
    own = json.loads(paifang("token", "show", "--json"))
    assert (own["name"], own["role"], own["creator"]) == ("life", "operate", "admin")
    assert abs(own["expires"] - time.time() - 90 * 86400) < 600
    paifang("token", "list", code=1)
    assert "the token 'life' has the role operate; this needs admin" in paifang.err
    second = paifang("token", "rotate").strip()
    paifang("get", code=1)
    assert "does not know the token of $PAIFANG_TOKEN: the token is not known: it is revoked" in paifang.err
    paifang("get", "--token", second)
    monkeypatch.delenv("PAIFANG_TOKEN")
    file = tmp_path / "token"
    words = ("--token", paifang.admin)
    assert paifang("token", "rotate", "life", "--grace", "1h", "--out", file, *words) == ""
    assert "the secret before goes on until" in paifang.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for secret in (second, file.read_text().strip()):
        paifang("get", "--token", secret)
    assert "revoked: token" in paifang("token", "revoke", "life", *words)
    paifang("get", "--token", second, code=1)


def test_a_token_is_found_by_its_name_or_id(paifang: Paifang) -> None:
    paifang("token", "create", "named", "--role", "read", "--json")
    made = json.loads(paifang.out)
    assert made["secret"].startswith(f"pft_{made['id']}_")
    assert json.loads(paifang("token", "show", made["id"], "--json"))["name"] == "named"
    paifang("token", "revoke", "nemed", code=1)
    assert "there is no token 'nemed'; did you mean named?" in paifang.err
    paifang("token", "create", "named", "--role", "read", code=1)
    assert "there is a token 'named' already; give another name" in paifang.err
    assert json.loads(paifang("token", "revoke", made["id"], "--json"))["tokens"][0]["name"] == "named"
    paifang("token", "revoke", "admin", code=1)
    assert "'admin' is the last token that may make others; make another one first" in paifang.err


def test_those_that_ended_are_told_from_the_one_that_has_not() -> None:
    token = {"id": "a", "name": "ci", "role": "read", "created": 0, "creator": "x", "used": None, "used_from": ""}
    tokens: list[Any] = [{**token, "expires": 10}, {**token, "id": "b", "expires": None}]

    class Known:
        def request(self, *_: object) -> Any:
            return type("Answer", (), {"document": {"tokens": tokens}})

    assert cli_tokens._id(Known(), "ci") == "b"  # type: ignore[arg-type]
    tokens.append({**token, "id": "c", "expires": None})
    with pytest.raises(ApiError, match="there are several tokens 'ci'; give an ID: b, c"):
        cli_tokens._id(Known(), "ci")  # type: ignore[arg-type]
    assert "(over)" in cli_tokens.tokens_table(tokens, 11.0).splitlines()[1]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 90 * 86400), ("12h", 43200), ("30m", 1800), ("45s", 45), ("2w", 1209600), ("0", 0)]
)
def test_times_on_the_command_line(text: str, seconds: int) -> None:
    assert span(text) == seconds
    assert end_of("2027-01-31") == time.mktime((2027, 1, 31, 0, 0, 0, 0, 0, -1))


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1y", "soon", "٣d", "2027-13-01"])
def test_what_is_no_time(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["token", "create", "x", "--role", "read", f"--expires={text}"])
    assert "give a time such as 90d or 12h, or a day as 2027-01-31" in capsys.readouterr().err


# --- the audit log


def test_the_log_is_listed_and_verified(paifang: Paifang, control: Control) -> None:
    paifang("token", "create", "audited", "--role", "read", "--json")
    made = json.loads(paifang.out)
    paifang("get", "--token", made["secret"])
    paifang("token", "list", "--token", made["secret"], code=1)
    out = paifang("audit", "--who", "audited")
    assert "GET /v1/tokens" in out
    assert "refused (403)" in out
    (line,) = paifang("audit", "--object", f"tokens/{made['id']}", "--json").splitlines()
    entry = json.loads(line)
    assert (entry["who"], entry["method"], entry["status"]) == ("admin", "POST", 201)
    assert len(paifang("audit", "--json", "--limit", "2").splitlines()) == 2
    assert paifang("audit", "--since", "2999-01-01") == "no entries\n"
    noted = paifang("audit", "verify").splitlines()[-1]
    assert noted.split(":")[1] in control.log.read_text(), "the lines on stderr have the same hashes"
    lines = [json.loads(each)["audit"] for each in control.log.read_text().splitlines() if each.startswith('{"audit"')]
    assert entry in lines
    assert made["secret"] not in control.log.read_text()
    paifang("token", "revoke", "audited")
    assert "are as they were written" in paifang("audit", "verify", "--noted", noted)
    assert json.loads(paifang("audit", "verify", "--json"))["valid"] is True
    paifang("audit", "verify", "--noted", noted[:-1] + ("0" if noted[-1] != "0" else "1"), code=1)
    assert f"entry {noted.split(':')[0]} is another than was noted" in paifang.err


def test_a_storage_that_was_tampered_with_is_found(paifang: Paifang, control: Control) -> None:
    paifang("token", "create", "tampered", "--role", "read", "--json")
    with contextlib.closing(sqlite3.connect(control.state / "control.db", timeout=20)) as db, db:
        query = "SELECT key, value FROM records WHERE space = 'audit' AND key <> 'head' ORDER BY key"
        key, value = db.execute(query).fetchall()[-1]
        db.execute(
            "UPDATE records SET value = ? WHERE space = 'audit' AND key = ?", (value.replace(b"201", b"401"), key)
        )
    assert json.loads(paifang("audit", "verify", "--json", code=1))["valid"] is False
    assert f"tampered with: entry {int(key)} was changed: it does not have its hash" in paifang.err
    with contextlib.closing(sqlite3.connect(control.state / "control.db", timeout=20)) as db, db:
        db.execute("UPDATE records SET value = ? WHERE space = 'audit' AND key = ?", (value, key))
    paifang("audit", "verify")


def test_more_than_one_page_is_verified(paifang: Paifang, monkeypatch: pytest.MonkeyPatch) -> None:
    from control import cli_audit

    for number in range(3):
        paifang("token", "create", f"page{number}", "--role", "read", "--json")
    monkeypatch.setattr(cli_audit, "PAGE", 2)
    assert "are as they were written" in paifang("audit", "verify")
    assert len(paifang("audit", "--json", "--limit", "3").splitlines()) == 3


def test_an_entry_as_a_line() -> None:
    entry = {
        "number": 7, "at": 0.0, "who": "ci", "from": "192.0.2.1", "method": "PUT", "path": "/v1/config", "status": 200,
        "result": "done", "comment": "more room", "version_before": 1, "version": 2, "objects": ["listeners/web"],
    }  # fmt: skip
    assert table([entry]).splitlines()[1].endswith("version 2; more room; listeners/web")


# --- TLS


def test_whom_it_trusts(paifang: Paifang, control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAIFANG_CA")
    paifang("get", code=1)
    assert "is of a CA that is not known here" in paifang.err
    assert "give the cluster's ca.pem by --ca or $PAIFANG_CA" in paifang.err
    paifang("get", "--ca", control.ca)
    Authority.init(tmp_path / "other")
    paifang("get", "--ca", tmp_path / "other" / "ca.pem", code=1)
    assert "is of a CA that is not known here" in paifang.err
    paifang("get", "--ca", control.ca, "--api", f"https://127.0.0.2:{control.port}", code=1)
    assert "its certificate is not for 127.0.0.2" in paifang.err
    paifang("get", "--ca", tmp_path / "none", code=1)
    assert f"--ca {tmp_path / 'none'}: No such file or directory; give the ca.pem of the cluster" in paifang.err
    (tmp_path / "text").write_text("text")
    monkeypatch.setenv("PAIFANG_CA", str(tmp_path / "text"))
    paifang("get", code=1)
    assert f"$PAIFANG_CA {tmp_path / 'text'}: no certificate in PEM" in paifang.err


def test_plain_http_to_a_port_with_tls(paifang: Paifang, control: Control) -> None:
    paifang("get", "--api", f"http://127.0.0.1:{control.port}", code=1)
    assert f"it speaks TLS: give https://127.0.0.1:{control.port}" in paifang.err


def test_plain_http_to_what_hangs_up(paifang: Paifang) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            for _ in range(2):
                server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        paifang("get", "--api", f"http://127.0.0.1:{port}", code=1)
        thread.join(20)
    assert "is the control plane running?" in paifang.err


@pytest.mark.parametrize("url", ["http://10.0.0.5:8470", "http://lb.example", "http://[2001:db8::1]:8470"])
def test_a_token_is_not_sent_in_the_clear(url: str, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="the token would go over the network for all to read; give https://"):
        connect(url, "t", tmp_path)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8470", "https://lb.example"])
def test_where_it_may_be_sent(url: str) -> None:
    assert unencrypted(url) == ""


def test_a_typing_error_is_told_before_anything_is_sent(paifang: Paifang) -> None:
    wrong = paifang.admin[:-1] + ("a" if paifang.admin[-1] != "a" else "b")
    paifang("get", "--api", "http://127.0.0.1:1", "--token", wrong, code=1)
    assert "the token of --token has a typing error: its checksum is not right" in paifang.err
    paifang("get", "--api", "http://127.0.0.1:1", "--token", wrong[:40], code=1)
    assert "is cut off" in paifang.err


def test_a_redirect_is_not_followed_with_the_token(paifang: Paifang) -> None:
    """To another port, which nobody may ask for the token."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        target = other.getsockname()[1]

        def redirect() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{target}/\r\nContent-Length: 0\r\n\r\n"
                connection.sendall(head.encode())

        thread = threading.Thread(target=redirect)
        thread.start()
        paifang("get", "--api", f"http://127.0.0.1:{server.getsockname()[1]}", code=1)
        thread.join(20)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert "answers 302 Found, as no control plane does" in paifang.err


def test_a_hangup_has_the_certificate_read_again(control: Control) -> None:
    control.child.signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while "the users' API has the certificate of" not in control.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
