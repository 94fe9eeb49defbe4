"""The console in a real browser: clicks and keys that change what real clients get.

Every test fails where the page tells the browser's console of an error or of a violation of its policy, and where a
dialog of a script comes up: configurations of this site have names such as `<img onerror>` in them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from playwright.sync_api import Browser, Page, Route, expect

from tests.e2e.console_pictures import more, write
from tests.e2e.console_site import DEADLINE_S, HOSTILE, Site, Watched, chromium, eventually, sign_in

pytestmark = pytest.mark.timeout(300)
PICTURE_BYTES = 150_000
DOCS = Path(__file__).parent.parent.parent / "docs" / "pictures"
VIEWS = (
    "", "charts", "events", "talkers", "objects/instances", "objects/listeners", "objects/listeners/web",
    "objects/listeners/+",
    "objects/backend_services/shop", "objects/server_groups/shop", "nodes", "certificates", "history", "history/1",
    "audit", "metering", "tokens", "changes",
)  # fmt: skip
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("console"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Playwright's greenlets have an event loop of their own, which pytest-asyncio's fixtures are not to meet.
    with chromium() as made:
        yield made


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(DEADLINE_S * 1000)
    expect.set_options(timeout=DEADLINE_S * 1000)
    page = context.new_page()
    watched = Watched(page)
    yield watched
    assert watched.unexpected() == []
    assert page.locator("main img, dialog img").count() == 0, "a name became an element"
    context.close()


@pytest.fixture
def page(watched: Watched, site: Site) -> Page:
    site.ask("POST", "rollback", {"version": 1})
    sign_in(watched.page, site)
    return watched.page


def apply(page: Page, comment: str = "") -> None:
    dialog = page.get_by_role("dialog")
    if comment:
        dialog.get_by_label("Comment").last.fill(comment)
    dialog.get_by_role("button", name="Apply", exact=True).click()
    dialog.wait_for(state="detached")


def test_signing_in_and_out(watched: Watched, site: Site) -> None:
    page, watched.expected = watched.page, ("401 (Unauthorized)",)
    page.goto(f"{site.api}/")
    page.get_by_label("API token").fill("pft_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("token")
    made = site.ask("POST", "tokens", {"name": "short", "role": "read", "expires": 0})
    sign_in(page, site, made["secret"], "#/objects/listeners")
    expect(page.get_by_role("heading", level=1)).to_have_text("Listeners")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Listeners")
    assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
    site.ask("DELETE", f"tokens/{made['id']}")
    page.get_by_role("link", name="Metering").click()
    expect(page.get_by_label("API token")).to_be_visible()
    expect(page.locator("#wrong")).to_contain_text("token")
    sign_in(page, site)
    page.get_by_role("button", name="Sign out").click()
    assert page.evaluate("sessionStorage.length") == 0
    page.reload()
    expect(page.get_by_label("API token")).to_be_visible()


def test_a_listener_moves_to_another_port(page: Page, watched: Watched, site: Site) -> None:
    watched.expected = ("422 (Unprocessable Entity)",)
    page.get_by_role("navigation").get_by_role("link", name="Listeners").click()
    page.get_by_role("row", name="web").get_by_role("link", name="web", exact=True).click()
    port = page.get_by_label("Port", exact=False).first
    expect(port).to_have_value(str(site.port))
    port.fill("70000")
    page.get_by_role("button", name="Review").click()
    field = page.locator('[data-path="port"]')
    expect(field.locator(".fault")).to_have_text("70000 is out of range; give a whole number from 1 to 65535")
    expect(port).to_be_focused()
    assert port.get_attribute("aria-invalid") == "true"
    port.fill(str(site.spare))
    page.get_by_role("button", name="Review").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".difference")).to_have_count(1)
    expect(dialog.locator(".difference")).to_contain_text(str(site.port))
    expect(dialog.locator("ins")).to_contain_text(str(site.spare))
    assert site.fetch(site.spare) == "", "nothing is applied before it is asked for"
    apply(page, f"moved {HOSTILE}")
    assert eventually(lambda: site.fetch(site.spare), "the new port answers") in ("first", "second")
    eventually(lambda: not site.fetch(), "the old port is closed")
    expect(page.get_by_label("Port", exact=False).first).to_have_value(str(site.spare))


def test_a_fault_across_objects_stands_at_its_field(page: Page, watched: Watched, site: Site) -> None:
    watched.expected = ("422 (Unprocessable Entity)",)
    page.goto(f"{site.api}/console/#/objects/listeners/web")
    page.get_by_label("Acl", exact=False).first.select_option("white")
    page.get_by_role("button", name="Review").click()
    expect(page.locator(".fault:visible, .faults:visible").first).to_contain_text("access")
    assert site.ask("GET", "listeners/web").get("acl") is None


def test_draining_a_server_and_rolling_back(page: Page, site: Site) -> None:
    first = f"127.0.0.1:{site.backends[0].port}"
    before = site.ask("GET", "healthz")["version"]
    page.goto(f"{site.api}/console/#/objects/server_groups/shop")
    page.get_by_role("button", name=f"Drain {first}").click()
    expect(page.get_by_role("dialog").locator(".difference")).to_contain_text("weight")
    apply(page)
    eventually(lambda: {site.fetch() for _ in range(6)} == {"second"}, "all requests go to the second")
    expect(page.get_by_role("button", name=f"Have {first} serve again")).to_be_visible()
    page.goto(f"{site.api}/console/#/history/{before}")
    page.get_by_role("button", name="Roll back to it").click()
    expect(page.get_by_role("dialog").locator(".difference")).to_contain_text("weight")
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    eventually(lambda: {site.fetch() for _ in range(6)} == {"first", "second"}, "both serve again")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Version {before + 2}")


def test_weights_by_slider(page: Page, site: Site) -> None:
    page.goto(f"{site.api}/console/#/objects/server_groups/shop")
    slider = page.get_by_label(f"Weight of 127.0.0.1:{site.backends[1].port}, slider")
    slider.focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Review weights").click()
    apply(page)
    eventually(lambda: {site.fetch() for _ in range(6)} == {"first"}, "all requests go to the first")


def test_several_objects_at_once(page: Page, site: Site) -> None:
    """A group, a service that names it, a rule that names that: none of them is there before all are."""
    page.goto(f"{site.api}/console/#/objects/server_groups/+")
    page.locator("input[name=name]").fill("only")
    page.locator('[data-path="servers"]').get_by_role("button", name="Add").click()
    page.get_by_label("Address of 1").fill("127.0.0.1")
    page.get_by_label("Port of 1").fill(str(site.backends[1].port))
    page.get_by_role("button", name="Add to the change set").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Change set")
    page.goto(f"{site.api}/console/#/objects/backend_services/+")
    page.locator("input[name=name]").fill("only")
    page.locator("[name=protocol]").select_option("http")
    page.locator("[name=server_group]").select_option("only")
    page.get_by_role("button", name="Add to the change set").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Change set")
    page.goto(f"{site.api}/console/#/objects/rules/+")
    page.locator("input[name=name]").fill("only")
    page.locator("[name=listener]").select_option("web")
    page.locator("[name=backend_service]").select_option("only")
    page.locator("[name=url]").fill("/only")
    page.get_by_role("button", name="Add to the change set").click()
    expect(page.locator(".diff > li.create")).to_have_count(3)
    version = site.ask("GET", "healthz")["version"]
    page.get_by_role("button", name="Review and apply").click()
    apply(page)
    assert site.ask("GET", "healthz")["version"] == version + 1
    eventually(lambda: {site.fetch(path="/only") for _ in range(6)} == {"second"}, "the rule leads to the second")
    page.goto(f"{site.api}/console/#/objects/server_groups/only")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("backend service only")


def test_a_copy_and_its_deletion(page: Page, site: Site) -> None:
    page.goto(f"{site.api}/console/#/objects/server_groups/shop")
    page.get_by_role("link", name="Copy").click()
    page.locator("input[name=name]").fill("copy")
    page.get_by_role("button", name="Review").click()
    apply(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Server group copy")
    made = site.ask("GET", "server_groups/copy")
    assert made == site.ask("GET", "server_groups/shop") | {"name": "copy"}
    assert made["description"] == HOSTILE
    page.get_by_role("button", name="Delete").click()
    apply(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Server groups")
    expect(page.get_by_role("link", name="copy", exact=True)).to_have_count(0)


def test_two_people_at_once(page: Page, watched: Watched, site: Site) -> None:
    watched.expected = ("412 (Precondition Failed)",)
    page.goto(f"{site.api}/console/#/objects/backend_services/shop")
    page.locator("[name=scheduler]").select_option("lc")
    site.ask("PATCH", "backend_services/shop", {"description": f"others {HOSTILE}"})
    expect(page.locator(".notice").last).to_contain_text("has changed this in version")
    page.get_by_role("button", name="Review").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("What others have changed meanwhile")
    expect(dialog).to_contain_text(f"others {HOSTILE}")
    dialog.get_by_role("button", name="Put my fields into theirs").click()
    apply(page)
    found = site.ask("GET", "backend_services/shop")
    assert (found["scheduler"], found["description"]) == ("lc", f"others {HOSTILE}")


def test_hostile_names_stay_text(page: Page, site: Site) -> None:
    site.ask("PATCH", "listeners/web?comment=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", {"description": HOSTILE})
    page.goto(f"{site.api}/console/#/objects/server_groups")
    expect(page.get_by_role("heading", level=1)).to_have_text("Server groups")
    expect(page.get_by_role("row", name="shop")).to_contain_text(f"team={HOSTILE}")
    page.goto(f"{site.api}/console/#/history")
    expect(page.get_by_role("table").get_by_text(HOSTILE).first).to_be_visible()
    page.goto(f"{site.api}/console/#/audit")
    expect(page.get_by_role("table").get_by_text(HOSTILE).first).to_be_visible()
    page.goto(f"{site.api}/console/#/objects/%3Cimg%20src%3Dx%3E/%22%3E")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_addresses_of_what_is_not_there_ask_the_api_for_nothing(page: Page, site: Site) -> None:
    """Whatever an address names: a link from elsewhere has the page ask for nothing that is not the page's own."""
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    for address, said in (
        ("objects/%3Cimg%20src%3Dx%3E", "It is not there"), ("objects/%3Cimg%20src%3Dx%3E/%22%3E", "It is not there"),
        ("objects/__proto__", "It is not there"), ("objects/constructor/+", "It is not there"),
        ("objects/..%2Ftokens/x", "It is not there"), ("history/x", "It is not there"),
        ("history/1e3", "It is not there"), ("objects/listeners/%E0%A4%A", "There is no such page"),
        ("nowhere", "There is no such page"),
    ):  # fmt: skip
        page.goto(f"{site.api}/console/#/{address}")
        expect(page.get_by_role("heading", level=1)).to_have_text(said)
        page.goto(f"{site.api}/console/#/objects/listeners")
        expect(page.get_by_role("heading", level=1)).to_have_text("Listeners")
    assert failed == []


def test_a_redirect_map_is_edited_and_a_huge_one_is_not_lost(watched: Watched, page: Page, site: Site) -> None:
    watched.expected = ("422 (Unprocessable Entity)",)
    huge = "\n".join(f"/old/{n} /new/{n}" for n in range(20_000))
    maps = {"few": {"entries": "/a /b"}, "huge": {"entries": huge}}
    edits = [{"op": "create", "kind": "redirect_maps", "name": name, "object": each} for name, each in maps.items()]
    site.ask("POST", "changes", {"changes": edits})
    page.goto(f"{site.api}/console/#/objects/redirect_maps/few")
    page.locator("[name=entries]").fill("/a /b\n/b /a")
    page.get_by_role("button", name="Review").click()
    expect(page.locator(".field.wrong .fault").first).to_contain_text("leads in a circle with line 2")
    page.locator("[name=entries]").fill("/a /b\n/c /d 302")
    page.get_by_role("button", name="Review").click()
    apply(page)
    assert eventually(lambda: site.ask("GET", "redirect_maps/few")["entries"].endswith("302"), "it is applied")
    page.goto(f"{site.api}/console/#/objects/redirect_maps/huge")
    shown = page.locator("[name=entries]")
    expect(shown).to_have_attribute("readonly", "")
    assert "20,000 lines, too many to be changed here" in shown.input_value()
    page.locator("[name=status]").fill("302")
    page.get_by_role("button", name="Review").click()
    apply(page)
    assert eventually(lambda: site.ask("GET", "redirect_maps/huge").get("status") == 302, "it is applied")
    assert site.ask("GET", "redirect_maps/huge")["entries"] == huge


@pytest.mark.parametrize("role", ["read", "operate"])
def test_what_a_role_may_not_do_is_not_offered(watched: Watched, site: Site, role: str) -> None:
    made = site.ask("POST", "tokens", {"name": f"{role}er", "role": role, "expires": 0})
    page = watched.page
    sign_in(page, site, made["secret"], "#/objects/server_groups/shop")
    navigation = page.get_by_role("navigation")
    expect(navigation.get_by_role("link", name="Tokens")).to_have_count(0)
    expect(navigation.get_by_role("link", name="Top talkers")).to_have_count(1 if role == "operate" else 0)
    expect(page.get_by_role("heading", name="Weights")).to_be_visible()
    assert page.get_by_role("button", name="Review", exact=True).count() == 0
    assert page.get_by_role("button", name="Delete").count() == 0
    assert page.locator("form.object input:enabled").count() == 0
    assert page.get_by_role("button", name="Drain").count() == (2 if role == "operate" else 0)
    navigation.get_by_role("link", name="Node status").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Nodes")
    assert page.get_by_role("button", name="Drain local").count() == (1 if role == "operate" else 0)
    assert page.get_by_role("button", name="Revoke").count() == 0
    site.ask("DELETE", f"tokens/{made['id']}")


def test_a_node_drains_and_serves_again(page: Page, site: Site) -> None:
    page.get_by_role("navigation").get_by_role("link", name="Node status").click()
    page.get_by_role("button", name="Drain local").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(page.get_by_role("button", name="Undrain local")).to_be_visible()
    assert [each["name"] for each in site.ask("GET", "drains")["drains"]] == ["local"]
    page.get_by_role("button", name="Undrain local").click()
    expect(page.get_by_role("button", name="Drain local", exact=True)).to_be_visible()
    assert site.ask("GET", "drains")["drains"] == []


def test_a_token_is_shown_once(page: Page, site: Site) -> None:
    page.get_by_role("navigation").get_by_role("link", name="Tokens").click()
    page.get_by_role("button", name="Create a token").click()
    page.get_by_label("Name").fill("robot")
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    secret = page.get_by_label("Token", exact=True).input_value()
    assert site.ask("GET", "token", token=secret)["name"] == "robot"
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_role("row", name="robot")).to_be_visible()
    assert secret not in page.content()
    page.get_by_role("button", name="Revoke robot").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("row", name="robot")).to_have_count(0)


def test_usage_as_csv(page: Page) -> None:
    page.get_by_role("navigation").get_by_role("link", name="Metering").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert Path(download.value.path()).read_text().startswith("time,instance,listener,bytes_in")


def test_by_keys_alone(watched: Watched, site: Site) -> None:
    """Signing in, finding a listener, changing it: with Tab, Enter and letters; what has the focus can be seen."""
    site.ask("POST", "rollback", {"version": 1})
    page, keys = watched.page, watched.page.keyboard
    page.goto(f"{site.api}/console/")
    expect(page.get_by_label("API token")).to_be_focused()
    keys.type(site.token)
    keys.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    keys_to(page, "a", "Listeners")
    keys.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Listeners")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    keys_to(page, "a", "web")
    keys.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Listener web")
    keys_to(page, "input", "port", "name")
    keys.press("Control+A")
    keys.type(str(site.spare))
    keys.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Apply")).to_be_focused()
    keys.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    keys_to(page, "button", "Review")
    keys.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Apply")).to_be_focused()
    keys.press("Enter")
    assert eventually(lambda: site.fetch(site.spare), "the new port answers")


FOCUSED = """(attribute) => {
    const it = document.activeElement, style = getComputedStyle(it);
    const text = attribute ? it.getAttribute(attribute) : it.textContent;
    return [it.tagName.toLowerCase(), text, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0];
}"""


def keys_to(page: Page, tag: str, text: str, attribute: str = "") -> None:
    """Press Tab until it has the focus."""
    for _ in range(200):
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUSED, attribute)
        assert found[2] or found[0] == "body", f"the focus cannot be seen on {found}"
        if found[:2] == [tag, text]:
            return
    raise AssertionError(f"Tab never comes to {tag} {text}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_to_all(browser: Browser, site: Site, scheme: Any) -> None:
    """axe-core finds nothing: names, roles, landmarks, contrast; and nothing is wider than a phone."""
    site.ask("POST", "rollback", {"version": 1})
    narrow = scheme == "dark"
    size: Any = {"width": 390, "height": 800} if narrow else {"width": 1280, "height": 800}
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    context.set_default_timeout(DEADLINE_S * 1000)
    page = context.new_page()
    watched = Watched(page)
    axe, options = Axe(), {"runOnly": {"type": "tag", "values": list(RULES)}, "resultTypes": ["violations"]}
    page.goto(f"{site.api}/console/")
    found = list(axe.run(page, options=options).response["violations"])
    sign_in(page, site)
    for view in VIEWS:
        page.goto(f"{site.api}/console/#/{view}")
        page.locator("main:not([aria-busy]) h1").wait_for()
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        told = axe.run(page, options=options).response["violations"]
        found += [(view, each["id"], each["nodes"][0]["html"]) for each in told]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is too wide"
    assert found == []
    assert watched.unexpected() == []
    context.close()


def test_charts_are_read_by_keys_and_as_tables(page: Page, site: Site) -> None:
    def counted() -> bool:
        site.fetch()
        series = site.ask("GET", "series?of=listeners/web")["series"]
        return any(each is not None for each in series["requests_per_s"])

    eventually(counted, "requests are in a chart")
    page.goto(f"{site.api}/console/#/charts?of=listeners/web")
    chart = page.locator("figure").filter(has_text="Requests")
    picture = chart.get_by_role("img")
    assert "requests" in (picture.get_attribute("aria-label") or "")
    picture.focus()
    page.keyboard.press("End")
    last = chart.locator(".readout").inner_text()
    page.keyboard.press("ArrowLeft")
    expect(chart.locator(".readout")).not_to_have_text(last)
    chart.get_by_role("button", name="Requests as a table").click()
    expect(chart.get_by_role("columnheader", name="errors")).to_be_visible()
    assert chart.locator("tbody tr").count() > 2
    page.get_by_label("Of ").select_option("nodes/l7/local")
    page.get_by_label("the last").select_option("3600")
    expect(page.locator("figure").first).to_be_visible()


def test_events_come_by_themselves(page: Page, site: Site) -> None:
    page.goto(f"{site.api}/console/#/events")
    expect(page.get_by_role("heading", level=1)).to_have_text("Events")
    site.ask("PATCH", "listeners/web?comment=told%20at%20once", {"description": "another"})
    expect(page.get_by_role("table")).to_contain_text("told at once")
    page.get_by_label("Search events").fill("told at once")
    expect(page.get_by_role("row")).to_have_count(2)


def test_an_identity_that_has_never_reported_is_revoked(page: Page, site: Site) -> None:
    """`paifang up` has none: the API's answers are made up here."""
    gone = {"name": "ks-9", "role": "keyserver", "state": "member", "ends": 1e9, "joined": 1e9}
    asked: list[str] = []

    def revoke(route: Route) -> None:
        asked.append(f"{route.request.method} {route.request.url.rpartition('/v1/')[2]}")
        gone["state"] = "revoked"
        route.fulfill(json={})

    page.route("**/v1/members", lambda route: route.fulfill(json={"members": [gone]}))
    page.route("**/v1/members/*/*/revoke", revoke)
    page.goto(f"{site.api}/console/#/nodes")
    page.get_by_role("button", name="Revoke the identity of ks-9").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("table", name="Identities").get_by_text("revoked")).to_be_visible()
    expect(page.get_by_role("button", name="Revoke the identity of ks-9")).to_have_count(0)
    assert asked == ["POST members/keyserver/ks-9/revoke"]


def chain(name: str, begin: float, end: float) -> str:
    """A chain that is good from and until so many days from now."""
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now + timedelta(days=begin)).not_valid_after(now + timedelta(days=end))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def test_when_certificates_end(page: Page, site: Site) -> None:
    ends = {"over": -3.1, "now": 1.5, "soon": 9.5, "fine": 80.5}
    chains = {name: {"chain": chain(f"{name}.test", -90, end)} for name, end in ends.items()}
    edits = [{"op": "create", "kind": "certificates", "name": name, "object": each} for name, each in chains.items()]
    site.ask("POST", "changes", {"changes": edits})
    page.goto(f"{site.api}/console/#/certificates")
    for name, said in (
        ("over", "expired 3 days ago"),
        ("now", "in 35 hours"),
        ("soon", "in 9 days"),
        ("fine", "in 80 days"),
    ):
        expect(page.get_by_role("row", name=f"{name}.test")).to_contain_text(said)
    marked = {name: page.get_by_role("row", name=f"{name}.test").locator("td").nth(5) for name in ends}
    expect(marked["over"].locator(".bad").first).to_be_visible()
    expect(marked["soon"].locator(".warn").first).to_be_visible()
    expect(marked["soon"].locator(".bad")).to_have_count(0)


def test_a_late_answer_does_not_take_a_later_ones_place(page: Page, site: Site) -> None:
    page.goto(f"{site.api}/console/#/talkers")
    page.get_by_role("button", name="Ask again").wait_for()
    held: list[Route] = []
    page.route("**/v1/talkers?tier=l7*", lambda route: held.append(route))  # it looks into what it gets
    page.get_by_role("button", name="Ask again").click()
    eventually(lambda: page.wait_for_timeout(20) or held, "the question is asked")  # type: ignore[func-returns-value]
    page.get_by_label("Tier").select_option("l4")
    expect(page.get_by_text("No l4 node is there.")).to_be_visible()
    with page.expect_response("**/v1/talkers?tier=l7*") as answer:
        for each in held:
            each.continue_()
    answer.value.finished()
    page.evaluate("async () => { for (let n = 0; n < 30; n++) await new Promise(requestAnimationFrame); }")
    assert page.get_by_text("No l4 node is there.").is_visible()


def test_who_talks_most(page: Page, site: Site) -> None:
    page.goto(f"{site.api}/console/#/talkers")
    ask = page.get_by_role("button", name="Ask again")

    def known() -> int:
        for _ in range(20):
            site.fetch()
        ask.click()
        return page.get_by_role("row", name="127.0.0.1").count()

    eventually(known, "the client is among them")
    page.get_by_label("Tier").select_option("l4")
    expect(page.get_by_text("No l4 node is there.")).to_be_visible()


def test_the_picture_leads_to_what_is_down(page: Page, site: Site) -> None:
    more(site)
    page.goto(f"{site.api}/console/#/")
    down = page.get_by_role("link", name="Server 127.0.0.1:1 of images, down")
    expect(down).to_be_visible()
    expect(page.get_by_role("link", name="Group images, 3 servers, 1 down")).to_be_visible()
    expect(page.get_by_role("row", name="127.0.0.1:1 images")).to_contain_text("down on local")
    down.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Server group images")


def test_pictures_of_the_docs(browser: Browser, site: Site, tmp_path: Path) -> None:
    site.ask("POST", "rollback", {"version": 1})
    more(site)
    for path in write(browser, site, tmp_path, 0.5):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size <= PICTURE_BYTES
        assert (DOCS / path.name).stat().st_size <= PICTURE_BYTES


def test_a_thousand_servers(page: Page, site: Site) -> None:
    servers = [{"address": f"192.0.2.{1 + at % 250}", "port": 1000 + at} for at in range(1000)]
    site.ask("PUT", "server_groups/crowd", {"servers": servers})
    page.goto(f"{site.api}/console/#/")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.locator(".map a").filter(has_text="more")).to_have_count(1)
    assert page.locator(".map a").count() < 40
    page.goto(f"{site.api}/console/#/objects/server_groups/crowd")
    expect(page.get_by_text("1 to 100 of 1000")).to_be_visible()
    page.get_by_role("button", name="Later").click()
    expect(page.get_by_label("Port of 101")).to_have_value("1100")
    page.get_by_label("Port of 101").fill("9")
    page.get_by_role("button", name="Review", exact=True).click()
    expect(page.get_by_role("dialog").locator(".difference")).to_have_count(2)
    apply(page)
    assert site.ask("GET", "server_groups/crowd")["servers"][100]["port"] == 9


def test_the_control_plane_goes_and_comes(page: Page, watched: Watched, site: Site) -> None:
    watched.expected = (
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED_ENCODING",
        "ERR_CONNECTION_RESET",
        "ERR_EMPTY_RESPONSE",
    )
    stream = page.locator("header .stream")
    expect(stream).to_have_text("live")
    children = Path(f"/proc/{site.process.pid}/task/{site.process.pid}/children").read_text().split()
    control = next(pid for pid in children if b"\0control\0--state" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(int(control), signal.SIGKILL)
    expect(stream).to_contain_text("disconnected")
    expect(stream).to_have_text("live")
    page.get_by_role("navigation").get_by_role("link", name="Listeners").click()
    expect(page.get_by_role("row", name="web")).to_be_visible()
