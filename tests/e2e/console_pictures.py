"""The pictures of docs/console.md, made again: `python -m tests.e2e.console_pictures docs/pictures`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from tests.e2e.console_site import DEADLINE_S, Site, Watched, chromium, eventually, sign_in

TRAFFIC_S = 20.0
PACE_S = 0.02


def more(site: Site) -> None:
    """Another listener, whose requests go to servers of which one is down."""
    servers = [{"address": "127.0.0.1", "port": each.port} for each in site.backends]
    away = {"address": "127.0.0.1", "port": 1, "weight": 50}
    place = {"instance": "shop", "protocol": "http", "port": site.spare}
    changes: list[tuple[str, str, dict[str, object]]] = [
        ("server_groups", "images", {"servers": [*servers, away]}),
        ("backend_services", "images", {"protocol": "http", "server_group": "images"}),
        ("listeners", "images", place | {"backend_service": "images"}),
    ]
    edits = [{"op": "create", "kind": kind, "name": name, "object": item} for kind, name, item in changes]
    site.ask("POST", "changes?comment=a%20second%20listener", {"changes": edits})
    eventually(lambda: site.fetch(site.spare), "the second listener answers")


def write(browser: Browser, site: Site, directory: Path, traffic_s: float) -> list[Path]:
    """The overview in light colours, and a change before it is applied in dark ones."""
    written = []
    end = time.monotonic() + traffic_s
    while time.monotonic() < end:
        site.fetch()
        site.fetch(site.spare)
        time.sleep(PACE_S)
    schemes: tuple[Any, ...] = ("light", "dark")
    for scheme in schemes:
        context = browser.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        context.set_default_timeout(DEADLINE_S * 1000)
        page = context.new_page()
        watched = Watched(page)
        if scheme == "light":
            sign_in(page, site)
            page.locator(".map .bad").first.wait_for()
        else:
            sign_in(page, site, at="#/objects/backend_services/images")
            page.locator("[name=scheduler]").select_option("p2c")
            page.locator("summary", has_text="Timeouts").click()
            page.locator("[name=connect_timeout_s]").fill("2")
            page.get_by_role("button", name="Review").click()
            page.get_by_role("dialog").locator(".difference").first.wait_for()
        path = directory / ("console-overview.png" if scheme == "light" else "console-change.png")
        page.screenshot(path=path)
        assert watched.unexpected() == []
        written.append(path)
        context.close()
    return written


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, chromium() as browser:
        site = Site(Path(directory))
        try:
            more(site)
            for path in write(browser, site, Path(sys.argv[1]), TRAFFIC_S):
                print(path, path.stat().st_size, "bytes")
        finally:
            site.close()


if __name__ == "__main__":
    main()
