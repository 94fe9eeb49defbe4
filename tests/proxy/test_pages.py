"""Error pages: which one a client gets, and that nothing that it sends becomes markup."""

from __future__ import annotations

import json

import pytest

from core.model import ErrorPage, Listener, Protocol, Rule
from proxy.answering import Answering
from proxy.pages import Form, Page, Pages, Told, error_body
from tests.proxy.h2_support import h2
from tests.proxy.support import ANSWER, Backend, Client, Request, free_port, model, proxy, with_options

BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
TOLD = Told(502, "upstream", "upstream_closed", "closed (RFC 9112)", "id-1", "a")
EVIL = "<script>alert('x')</script>\"&"


def pages(*lists: list[tuple[str, str]]) -> Pages:
    """Of (status, content type), which is on the page as well."""
    return Pages(
        [[ErrorPage(s, kind, body=f"{number}:{s}:{kind}") for s, kind in each] for number, each in enumerate(lists)]
    )


@pytest.mark.parametrize(
    ("lists", "accepts", "found"),
    [
        ([[("502", "text/html")]], BROWSER, "0:502:text/html"),
        ([[("502", "text/html")]], b"*/*", "0:502:text/html"),
        ([[("502", "text/html")]], None, "0:502:text/html"),
        ([[("502", "text/html")]], b"application/json", None),
        ([[("503", "text/html"), ("4xx", "text/html")]], BROWSER, None),
        ([[("5xx", "text/html"), ("502", "text/plain")]], b"", "0:502:text/plain"),
        ([[("5xx", "text/html"), ("502", "text/plain")]], BROWSER, "0:502:text/plain"),
        ([[("502", "text/html"), ("502", "application/json")]], BROWSER, "0:502:text/html"),
        ([[("502", "text/html"), ("502", "application/json")]], b"*/*", "0:502:application/json"),
        ([[("502", "text/html"), ("502", "application/json")]], b"application/json", "0:502:application/json"),
        ([[("502", "text/html"), ("5xx", "application/json")]], b"application/json", "0:5xx:application/json"),
        ([[("5xx", "text/html")], [("502", "text/html")]], BROWSER, "0:5xx:text/html"),
        ([[("404", "text/html")], [("502", "text/html")]], BROWSER, "1:502:text/html"),
    ],
    ids=str,
)
def test_which_page(lists: list[list[tuple[str, str]]], accepts: bytes | None, found: str | None) -> None:
    page = pages(*lists).page(502, [] if accepts is None else [accepts])
    assert (page and page.filled(TOLD).decode()) == found


def test_in_place_of_servers_answers_only_what_says_so() -> None:
    made = Pages([[ErrorPage("5xx", body="ours"), ErrorPage("404", body="both", servers=True)]])
    assert made.page(503, [], of_server=True) is None
    assert made.page(503, []) is not None
    found = made.page(404, [], of_server=True)
    assert found is not None
    assert found.filled(TOLD) == b"both"


@pytest.mark.parametrize(
    ("kind", "escaped"),
    [
        ("text/html; charset=utf-8", "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;"),
        ("application/problem+xml", "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;"),
        ("application/json", EVIL.replace('"', '\\"')),
        ("text/plain", EVIL),
    ],
)
def test_what_fills_a_page_is_escaped_for_it(kind: str, escaped: str) -> None:
    page = Page(ErrorPage("502", kind, body="${host}|${status} ${reason}|${error}|${request_id}|$host ${HOST} €"))
    text = page.filled(TOLD._replace(host=EVIL)).decode()
    assert text == f"{escaped}|502 Bad Gateway|upstream_closed|id-1|$host ${{HOST}} €"


def test_without_a_page_browsers_get_a_plain_one_and_others_an_object() -> None:
    kind, text = error_body(Form(accepts=[BROWSER]), TOLD._replace(detail=EVIL))
    assert kind == b"text/html; charset=utf-8"
    assert b"<title>502 Bad Gateway</title>" in text
    assert b"id-1" in text
    assert b"<script" not in text
    for accepts in ([], [b"*/*"], [b"application/json"]):
        kind, text = error_body(Form(accepts=accepts), TOLD)
        assert kind == b"application/json"
        assert json.loads(text) == {
            "status": 502, "source": "upstream", "error": "upstream_closed", "detail": "closed (RFC 9112)",
            "request_id": "id-1",
        }  # fmt: skip
    assert b"<h1>599</h1>" in error_body(Form(accepts=[BROWSER]), TOLD._replace(status=599))[1]  # nobody's status


def test_a_rule_asks_its_own_pages_first() -> None:
    own, all_ = (ErrorPage("502", body="own"),), (ErrorPage("502", body="all"), ErrorPage("404", body="none"))
    listener = Answering.of_listener(Listener("web", "main", Protocol.HTTP, 80, error_pages=all_))
    assert listener is not None
    found = Answering.of(Rule("r", "web", "app", error_pages=own), listener)
    assert found is not None
    assert found.pages is not None
    got = [found.pages.page(status, []) for status in (502, 404)]
    assert [page and page.filled(TOLD) for page in got] == [b"own", b"none"]
    assert Answering.of(Rule("r", "web", "app"), listener) is listener


# -- through a worker


async def serve(request: Request) -> None:
    """Statuses as the path says; `/long` has an answer that goes on for long."""
    status = request.path.strip("/")
    if status == "long":
        request.writer.write(b"HTTP/1.1 500 X\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100)
    elif status == "cut":
        request.writer.close()
    elif status:
        fields = b'WWW-Authenticate: Basic realm="r"\r\nRetry-After: 7\r\nServer: secret/1.0\r\nSet-Cookie: a=b\r\n'
        request.writer.write(b"HTTP/1.1 %b X\r\n%bContent-Length: 5\r\n\r\nstack" % (status.encode(), fields))
    else:
        request.writer.write(ANSWER)


async def test_errors_of_ours_and_of_servers_on_one_connection() -> None:
    """A server's connection goes on where its answer was whole; the request, too, is in the log with its status."""
    listed = (
        ErrorPage("5xx", body="<p>${status} ${host} ${error} ${request_id}", servers=True),
        ErrorPage("401", "text/plain", body="who?", servers=True), ErrorPage("404", body="nowhere"),
    )  # fmt: skip
    rules = [Rule("only", "web", "app", url="/r", error_pages=(ErrorPage("502", body="rule's"),))]
    async with Backend(serve).running() as backend:
        base = with_options(model(free_port(), [backend.port], rules=rules), error_pages=listed)
        async with proxy(base) as l7:
            client = await l7.connect()
            for number in range(2):
                assert (await _get(client, "/"))[2] == b"ok"
                status, head, body = await _get(client, "/401")
                assert (status, body) == (401, b"who?")
                assert b'\r\nWWW-Authenticate: Basic realm="r"\r\n' in head
                assert (await _get(client, "/404"))[2] == b"stack"  # that one is not for servers
                status, head, body = await _get(client, "/503", b"X-Request-Id: mine\r\n")
                assert (status, body) == (503, b"<p>503 a server_error mine")
                assert b"\r\nRetry-After: 7\r\n" in head
                assert b"secret" not in head
                assert b"Set-Cookie" not in head
                assert b"\r\nCache-Control: no-store\r\n" in head
                assert l7.hub.counters["replaced_answers"] == 2 * (number + 1)
            assert backend.connections == 1
            assert (await _get(client, "/long"))[2].startswith(b"<p>500 ")
            status, head, body = await _get(client, "/cut")
            assert body.startswith(b"<p>502 a upstream_closed ")
            assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in head
            assert b"\r\nProxy-Status: " in head
            record = await l7.record(10)
            assert (record.status, record.error_code) == (502, "upstream_closed")
            assert [each.error_code for each in l7.records[:9]] == [""] * 9
            await client.close()


async def test_a_head_that_is_none_gets_a_page_too() -> None:
    async with Backend().running() as backend:
        base = with_options(
            model(free_port(), [backend.port]), error_pages=(ErrorPage("4xx", "text/plain", body="${error}"),)
        )
        async with proxy(base) as l7:
            client = await l7.connect()
            client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await client.answer() == (400, b"host_missing")
            await client.close()


async def test_browsers_get_html_without_any_page() -> None:
    async with Backend(serve).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        _, head, body = await _get(client, "/cut", b"Accept: %b\r\n" % BROWSER)
        assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in head
        assert b"<h1>502 Bad Gateway</h1>" in body
        assert json.loads((await _get(client, "/cut"))[2])["error"] == "upstream_closed"
        await client.close()


async def test_streams_of_http_2_get_pages() -> None:
    listed = (ErrorPage("5xx", body="<p>${status}", servers=True),)
    async with Backend(serve).running() as backend:
        base = with_options(model(free_port(), [backend.port]), error_pages=listed, http2_prior_knowledge=True)
        async with proxy(base) as l7, h2(l7) as client:
            for path, text in ((b"/503", b"<p>503"), (b"/", b"ok"), (b"/long", b"<p>500"), (b"/cut", b"<p>502")):
                got = await client.get((b":path", path))
                assert got.body == text
                if path != b"/":
                    assert got.fields[b"content-length"] == b"6"


async def _get(client: Client, path: str, fields: bytes = b"") -> tuple[int, bytes, bytes]:
    client.writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n".encode() + fields + b"\r\n")
    return await client.whole_answer()
