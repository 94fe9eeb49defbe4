"""Names and passwords, and files of users."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import bcrypt
import pytest

from proxy.head import read_request
from proxy.message import RequestHead
from proxy.passwords import FILE_BYTES, Credentials, Failures, Malformed, Users, credentials, read

ALICE = bcrypt.hashpw(b"wonder", b"$2b$04$abcdefghijklmnopqrstuu")  # always the same: it is in names of tests
FILE = (
    b"# people\n\nalice:" + ALICE + b"\r\n" + "zoë:".encode() + bcrypt.hashpw("é:é".encode(), bcrypt.gensalt(4)) + b"\n"
)
USERS = read(FILE)


def basic(text: bytes, scheme: bytes = b"Basic") -> bytes:
    return b"Authorization: " + scheme + b" " + base64.b64encode(text) + b"\r\n"


def ask(lines: bytes) -> RequestHead:
    head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
    assert head is not None
    return head


@pytest.mark.parametrize(
    ("lines", "given"),
    [
        (b"", None),
        (basic(b"alice:wonder"), Credentials("alice", b"wonder")),
        (basic(b"alice:wonder", b"bASIC"), Credentials("alice", b"wonder")),
        (basic(b"alice:a:b:"), Credentials("alice", b"a:b:")),
        (basic(b"alice:"), Credentials("alice", b"")),
        (basic("zoë:x".encode()), Credentials("zoë", b"x")),
        (b"Authorization: Bearer abc\r\n", None),
        (b"Authorization: Basically YTpi\r\n", None),
        (b"Authorization: Digest username=\"a\"\r\n", None),
    ],
)  # fmt: skip
def test_what_a_client_says(lines: bytes, given: Credentials | None) -> None:
    assert credentials(ask(lines)) == given


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(basic(b"alice:wonder") * 2, id="twice"),
        pytest.param(basic(b"alice:wonder") + b"Authorization: Bearer x\r\n", id="of two kinds"),
        pytest.param(b"Authorization: Bearer x\r\n" + basic(b"alice:wonder"), id="of two kinds, the other one first"),
        pytest.param(b"Authorization: Basic\r\n", id="without anything"),
        pytest.param(b"Authorization: Basic YTpi YTpi\r\n", id="two values"),
        pytest.param(b"Authorization: Basic YTpi, Basic YTpi\r\n", id="a list"),
        pytest.param(b"Authorization: Basic Y!pi\r\n", id="not base64"),
        pytest.param(b"Authorization: Basic YTp\r\n", id="not padded"),
        pytest.param(basic(b"alice"), id="no password"),
        pytest.param(basic(b":wonder"), id="no name"),
        pytest.param(basic(b"al\r\nice:wonder"), id="a line end in the name"),
        pytest.param(basic(b"al\xffice:wonder"), id="a name that is not UTF-8"),
        pytest.param(basic(b"a" * 256 + b":b"), id="a long name"),
        pytest.param(basic(b"a:" + b"b" * 900), id="a long password"),
    ],
)
def test_what_cannot_be_understood(lines: bytes) -> None:
    with pytest.raises(Malformed):
        credentials(ask(lines))


@pytest.mark.parametrize(
    ("name", "password", "right"),
    [
        ("alice", b"wonder", True),
        ("zoë", "é:é".encode(), True),
        ("alice", b"Wonder", False),
        ("Alice", b"wonder", False),
        ("alice", b"", False),
        ("nobody", b"wonder", False),
        ("nobody", b"", False),
        ("alice", b"wonder\0x", False),
        ("alice", b"w" * 73, False),
        ("alice", ALICE, False),
    ],
)
def test_who_is_admitted(name: str, password: bytes, right: bool) -> None:
    assert USERS.admits(Credentials(name, password)) is right


def test_no_more_of_a_password_counts_than_bcrypt_looks_at() -> None:
    """It would cut longer ones without a word, and so take all that begin alike."""
    long = b"x" * 72
    users = Users({"a": bcrypt.hashpw(long, bcrypt.gensalt(4))})
    assert users.admits(Credentials("a", long))
    assert not users.admits(Credentials("a", long + b"y"))


def test_a_name_of_nobody_is_as_dear_as_the_others() -> None:
    assert USERS.hash_of("alice") == ALICE
    assert USERS.hash_of("nobody")[:7] == ALICE[:7]
    assert Users({}).hash_of("nobody").startswith(b"$2b$10$")
    assert not Users({}).admits(Credentials("nobody", b"-"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"alice:wonder", "line 1: the hash of 'alice' is not of bcrypt"),
        (b"#\nalice:{SHA}2PRZAyDhNDqRW2OUFwZQqPNdaSY=", "line 2: the hash of 'alice' is not of bcrypt"),
        (b"alice:$apr1$x$y", "not of bcrypt; write it by htpasswd -B"),
        (b"alice:" + ALICE + b"x", "not of bcrypt"),
        (b"alice:$2y$31$" + b"a" * 53, "has cost 31; give 4 to 14"),
        (b"alice:" + ALICE + b"\nalice:" + ALICE, "line 2: 'alice' is in the file already"),
        (b"alice", "not of bcrypt"),
        (b":" + ALICE, "is not NAME:HASH"),
        (b"al\xffice:" + ALICE, "is not UTF-8"),
        (b"x" * (FILE_BYTES + 1), "more than 1048576 bytes"),
    ],
)
def test_files_that_are_not_taken(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("$", r"\$")) as refused:
        read(data)
    assert b"wonder" not in str(refused.value).encode()


def test_whoever_fails_often_has_to_wait() -> None:
    failures = Failures(most=2, size=2)
    assert failures.locked_s(b"a", 0) == 0
    failures.failed(b"a", 0)
    assert failures.locked_s(b"a", 1) == 0
    failures.failed(b"a", 10)
    assert failures.locked_s(b"a", 11) == 49
    assert failures.locked_s(b"b", 11) == 0
    assert failures.locked_s(b"a", 60) == 0
    failures.failed(b"a", 61)
    assert failures.locked_s(b"a", 62) == 0  # a new window


def test_of_clients_that_fail_a_bounded_number_is_known() -> None:
    failures = Failures(most=1, size=2)
    for client in (b"a", b"b", b"c"):
        failures.failed(client, 0)
    assert [failures.locked_s(client, 1) > 0 for client in (b"a", b"b", b"c")] == [False, True, True]


def test_there_need_not_be_a_limit() -> None:
    failures = Failures(most=0)
    failures.failed(b"a", 0)
    assert failures.locked_s(b"a", 0) == 0


def test_htpasswd_writes_such_files(tmp_path: Path) -> None:
    path = tmp_path / "users"
    for options in (("htpasswd", "-B", "-C", "10", "-c"), ("htpasswd", "-B", "-C", "12")):
        name = "alice" if "-c" in options else "bob"
        subprocess.run([*options, "-i", str(path), name], input=b"wonder", check=True, capture_output=True)
    users = read(path.read_bytes())
    assert [users.hash_of(name)[4:6] for name in ("alice", "bob")] == [b"10", b"12"]
    assert users.admits(Credentials("alice", b"wonder"))
    assert not users.admits(Credentials("alice", b"wander"))
    subprocess.run(["htpasswd", "-i", str(path), "carol"], input=b"x", check=True, capture_output=True)
    with pytest.raises(ValueError, match="line 3: the hash of 'carol' is not of bcrypt"):
        read(path.read_bytes())
