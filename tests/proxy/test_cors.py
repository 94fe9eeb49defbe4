"""Which scripts may ask and read."""

from __future__ import annotations

import pytest

from core import model
from proxy.cors import OURS, Cors, is_preflight
from proxy.head import read_request
from proxy.message import RequestHead

APP = "https://app.example"
CORS = model.Cors((APP, "https://*.apps.example:8443", "http://[2001:db8::1]"), ("GET", "PUT"), ("X-A", "content-type"))


def ask(*lines: str, method: str = "GET") -> RequestHead:
    text = "\r\n".join([f"{method} / HTTP/1.1", "Host: api.example", *lines, "", ""])
    head = read_request(text.encode("latin-1"))
    assert head is not None
    return head


def preflight(*lines: str, origin: str = APP, method: str = "PUT") -> RequestHead:
    return ask(f"Origin: {origin}", f"Access-Control-Request-Method: {method}", *lines, method="OPTIONS")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (APP, True),
        ("https://a.apps.example:8443", True),
        ("https://a.b-c.apps.example:8443", True),
        ("http://[2001:db8::1]", True),
        ("http://app.example", False),
        ("https://app.example:443", False),
        ("https://APP.example", False),
        ("https://app.example.evil.example", False),
        ("https://evilapp.example", False),
        ("https://apps.example:8443", False),
        ("https://.apps.example:8443", False),
        ("https://a.apps.example", False),
        ("https://a.apps.example:84431", False),
        ("https://evil.example/a.apps.example:8443", False),
        ("https://evil.example?.apps.example:8443", False),
        ("https://user@a.apps.example:8443", False),
        ("https://a..-.apps.example:8443x", False),
        ("null", False),
        ("*", False),
        ("", False),
    ],
)
def test_which_origins_may_read(origin: str, allowed: bool) -> None:
    assert Cors(CORS).allows(ask(f"Origin: {origin}")) == (origin.encode() if allowed else b"")


def test_whoever_gives_no_origin_or_two_may_not() -> None:
    assert Cors(CORS).allows(ask()) == b""
    assert Cors(CORS).allows(ask(f"Origin: {APP}", f"Origin: {APP}")) == b""


@pytest.mark.parametrize(
    ("lines", "method", "expected"),
    [
        (("Origin: a", "Access-Control-Request-Method: GET"), "OPTIONS", True),
        (("Origin: a",), "OPTIONS", False),
        (("Access-Control-Request-Method: GET",), "OPTIONS", False),
        (("Origin: a", "Access-Control-Request-Method: GET"), "GET", False),
    ],
)
def test_what_is_a_preflight(lines: tuple[str, ...], method: str, expected: bool) -> None:
    assert is_preflight(ask(*lines, method=method)) is expected


def test_a_preflight_is_told_what_it_may() -> None:
    asked = preflight("Access-Control-Request-Headers: X-a, content-type,x-A")
    assert Cors(CORS).preflight(asked) == (
        b"Access-Control-Allow-Origin: https://app.example\r\n"
        b"Access-Control-Allow-Methods: GET, PUT\r\nAccess-Control-Max-Age: 600\r\n"
        b"Access-Control-Allow-Headers: x-a, content-type\r\n"
        b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
    )


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        pytest.param(preflight(), True, id="a method that is listed"),
        pytest.param(preflight(method="POST"), True, id="one that browsers never ask for"),
        pytest.param(preflight(method="DELETE"), False, id="another method"),
        pytest.param(preflight(method="put"), False, id="a method in another case, which is another one"),
        pytest.param(preflight("Access-Control-Request-Method: GET"), False, id="two methods"),
        pytest.param(preflight("Access-Control-Request-Headers: X-A"), True, id="a field in another case"),
        pytest.param(preflight("Access-Control-Request-Headers: X-A, X-B"), False, id="another field"),
        pytest.param(preflight("Access-Control-Request-Headers: X-A", "Access-Control-Request-Headers: X-B"), False,
                     id="another field in a second line"),
        pytest.param(preflight("Access-Control-Request-Headers: ,"), True, id="no field"),
        pytest.param(preflight(origin="https://evil.example"), False, id="another origin"),
    ],
)  # fmt: skip
def test_what_a_preflight_may_ask(asked: RequestHead, allowed: bool) -> None:
    assert (Cors(CORS).preflight(asked) is not None) is allowed


def test_any_field_may_be_asked_for() -> None:
    granted = Cors(model.Cors((APP,), headers=("*",))).preflight(
        preflight("Access-Control-Request-Headers: X-Z", method="GET")
    )
    assert granted is not None
    assert b"Access-Control-Allow-Headers: x-z\r\n" in granted  # with credentials a * would be a name


@pytest.mark.parametrize(
    ("cors", "origin", "lines"),
    [
        pytest.param(model.Cors((APP,)), APP, [b"Access-Control-Allow-Origin: https://app.example", b"Vary: Origin"],
                     id="allowed"),
        pytest.param(model.Cors((APP,)), "https://evil.example", [b"Vary: Origin"], id="not allowed"),
        pytest.param(model.Cors((APP,)), "", [b"Vary: Origin"], id="of no page"),
        pytest.param(model.Cors(("*",)), "https://any.example", [b"Access-Control-Allow-Origin: *"], id="any"),
        pytest.param(model.Cors(("*",)), "", [], id="any, of no page"),
        pytest.param(
            model.Cors((APP,), credentials=True, exposed_headers=("X-Count", "ETag")), APP,
            [b"Access-Control-Allow-Origin: https://app.example", b"Access-Control-Allow-Credentials: true",
             b"Access-Control-Expose-Headers: X-Count, ETag", b"Vary: Origin"], id="with all",
        ),
    ],
)  # fmt: skip
def test_what_an_answer_says(cors: model.Cors, origin: str, lines: list[bytes]) -> None:
    asked = ask(f"Origin: {origin}") if origin else ask()
    assert Cors(cors).lines(asked).split(b"\r\n")[:-1] == lines


def test_credentials_are_never_granted_to_everybody() -> None:
    """The check across attributes refuses it; were it not there, nothing would say `*` beside credentials."""
    lines = Cors(model.Cors(("*",), credentials=True)).lines(ask(f"Origin: {APP}"))
    assert b"Origin: *" not in lines


@pytest.mark.parametrize(
    ("vary", "added"),
    [("", True), ("Accept", True), ("Accept, origin", False), ("*", False), ("Origins", True)],
)
def test_caches_are_told_once(vary: str, added: bool) -> None:
    answer = ask(*([f"Vary: {vary}"] if vary else []))
    assert (b"Vary: Origin\r\n" in Cors(CORS).lines(ask(), answer)) is added


def test_what_servers_say_of_it_is_taken_out() -> None:
    assert sorted(OURS) == sorted([
        b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers",
        b"access-control-allow-methods", b"access-control-allow-headers", b"access-control-max-age",
    ])  # fmt: skip
