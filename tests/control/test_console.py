"""The console's files as they are served: to whom, with which headers, kept for how long."""

import gzip
import re

import pytest
from aiohttp import ClientResponse

from control.console.files import PAGE, POLICY, files
from tests.control.api_user import User

COMPRESSED_BYTES = 70_000  # of all files; docs/console.md tells how much it is


async def fetched(user: User, path: str, method: str = "GET", **headers: str) -> tuple[ClientResponse, bytes]:
    headers = {"Accept-Encoding": "identity"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = user.client.request(method, path, headers=headers, allow_redirects=False, auto_decompress=False)
    async with request as response:
        return response, await response.read()


async def test_the_page_needs_no_token_and_is_asked_for_anew(user: User) -> None:
    response, body = await fetched(user, "/console/")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    again, empty = await fetched(user, "/console/", If_None_Match=f'W/{response.headers["ETag"]}, "other"')
    assert (again.status, empty) == (304, b"")
    assert again.headers["Content-Security-Policy"] == POLICY
    other, _ = await fetched(user, "/console/", If_None_Match='"other"')
    assert other.status == 200
    head, nothing = await fetched(user, "/console/", "HEAD")
    assert (head.status, nothing, head.headers["Content-Length"]) == (200, b"", str(len(body)))


async def test_what_the_page_names_is_there_and_kept_for_a_year(user: User) -> None:
    _, page = await fetched(user, "/console/")
    named = re.findall(r'(?:href|src)="([^"]+)"', page.decode())
    assert {name.rpartition("/")[2] for name in named} == set(files().others)
    for name in named:
        response, body = await fetched(user, f"/console/{name}", Accept_Encoding="gzip")
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert gzip.decompress(body) == (PAGE / name.rpartition("/")[2]).read_bytes()
        assert response.headers["Vary"] == "Accept-Encoding"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_modules_import_what_there_is() -> None:
    for name, file in files().others.items():
        for wanted in re.findall(r"from '([^']+)'", file.body.decode()):
            assert wanted.removeprefix("./") in files().others, f"{name} imports {wanted}"


async def test_the_policy_lets_nothing_else_in(user: User) -> None:
    response, _ = await fetched(user, "/console/")
    policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/console/0123456789abcdef/app.js", 404),
        ("GET", "/console/app.js", 404),
        ("GET", f"/console/{files().digest}/%2e%2e%2ffiles.py", 404),
        ("GET", f"/console/{files().digest}/index.html", 404),
        ("POST", "/console/", 405),
        ("DELETE", "/", 405),
        ("GET", "/consoles/", 401),
    ],
    ids=["digest", "none", "up", "index", "post", "root", "beside"],
)
async def test_what_is_not_served(user: User, method: str, path: str, status: int) -> None:
    response, _ = await fetched(user, path, method)
    assert response.status == status


@pytest.mark.parametrize("path", ["/", "/console"])
async def test_the_way_to_the_page(user: User, path: str) -> None:
    response, _ = await fetched(user, path)
    assert (response.status, response.headers["Location"]) == (302, "console/")


def test_scripts_make_no_html_of_text_and_speak_to_nobody_else() -> None:
    for name, file in files().others.items():
        text = file.body.decode()
        made = re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert not made, f"{name}: {made}"
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg|\$\{|CONTROL)", text), name


def test_it_stays_small() -> None:
    assert sum(len(each.compressed) for each in (files().index, *files().others.values())) < COMPRESSED_BYTES
