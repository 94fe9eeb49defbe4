"""Entries of redirect maps through the REST API, one by one."""

from pathlib import Path
from typing import Any

import pytest

from core.config import load, to_dict
from tests.control.api_user import User

SITE: dict[str, Any] = {
    "redirect_maps": [{"name": "m", "entries": "# moved\n/a /1\n/b /2 302"}, {"name": "empty"}],
}


@pytest.fixture
async def site(user: User) -> User:
    await user.ask("PUT", "/v1/config", SITE)
    return user


async def test_entries_are_put_and_removed(site: User) -> None:
    body = {"put": ["/c /3", "/b /4"], "remove": ["/a"]}
    answer = await site.ask("POST", "/v1/redirect_maps/m/entries", body)
    (change,) = answer["changes"]
    assert (change["op"], change["new"]["entries"]) == ("update", "# moved\n/b /4\n/c /3")
    assert (await site.ask("GET", "/v1/redirect_maps/m"))["entries"] == "# moved\n/b /4\n/c /3"
    (entry,) = (await site.ask("GET", "/v1/versions?limit=1"))["versions"]
    assert entry["comment"] == "entries of redirect_maps/m: /c /3, /b /4, without /a"
    await site.ask("POST", "/v1/redirect_maps/empty/entries", {"put": ["/x?y /z"]})
    assert (await site.ask("GET", "/v1/redirect_maps/empty"))["entries"] == "/x?y /z"


async def test_the_example_of_the_page(user: User) -> None:
    """docs/redirects.md"""
    text = (
        (Path(__file__).parents[2] / "docs" / "redirects.md").read_text().partition("```toml\n")[2].partition("```")[0]
    )
    await user.ask("PUT", "/v1/config", to_dict(load(text, path="page", format="toml")))
    body = {"put": ["/new-page /newer-page 302"], "remove": ["/about.html"]}
    await user.ask("POST", "/v1/redirect_maps/old-shop/entries", body)
    lines = (await user.ask("GET", "/v1/redirect_maps/old-shop"))["entries"].split("\n")
    assert [line.split()[0] for line in lines] == ["/index.php?id=17", "shop.example/sale", "/new-page"]


@pytest.mark.parametrize(
    ("name", "body", "status", "words"),
    [
        ("x", {"put": ["/a /b"]}, 404, "there is no redirect_maps/x"),
        ("m", {"remove": ["/a", "/z"]}, 404, "redirect_maps/m has no entry for /z"),
        ("m", {"put": ["/a"]}, 422, "give an entry such as '/old /new 302'"),
        ("m", {"put": ["/a /b\n/c /d"]}, 422, "give an entry such as '/old /new 302'"),
        ("m", {"put": ["/1 /a"]}, 422, "leads in a circle with line 4: /a → /1 → /a"),
        ("m", {"put": ["/%7e /a"]}, 422, "no request is for /%7e"),
        ("m", {"add": []}, 422, "unknown key"),
    ],
    ids=range(7),
)
async def test_what_cannot_be_changed(site: User, name: str, body: object, status: int, words: str) -> None:
    assert words in str(await site.ask("POST", f"/v1/redirect_maps/{name}/entries", body, status=status))
    assert site.plane.current.version == 1


async def test_files_are_not_for_the_api(site: User) -> None:
    for method, path in (("PUT", "/v1/redirect_maps/n"), ("PATCH", "/v1/redirect_maps/empty")):
        problem = await site.ask(method, path, {"entries_file": "/etc/map"}, status=422)
        assert "is a path on your machine, which the control plane cannot read" in str(problem)
