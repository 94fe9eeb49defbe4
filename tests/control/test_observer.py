"""What the control plane sees, kept up to date: charts and events over restarts, by a clock of the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from control import api
from control.happenings import BEGINNING_S
from control.history import History
from control.observing import CERTIFICATES_S, SIGN_INS_S, Observer
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from control.tokens import set_token
from tests.certs.test_chain import NOW as CERTIFIED
from tests.certs.test_chain import leaf, pem
from tests.control.api_user import SITE, User
from tests.control.test_api_watch import watching
from tests.control.test_topology import CLUSTER, l7_facts

BEGUN = 1_763_670_000.0


class Site:
    """A control plane, its API and its observer, whose time passes by `after`."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now = directory, BEGUN

    async def start(self) -> None:
        self.store = await SqliteStore.open(self.directory / "control.db")
        self.plane = await ControlPlane.load(self.store, lambda: self.now)
        self.observer = Observer(self.plane, History(self.directory / "history.db"), lambda: self.now, lambda: self.now)
        await self.observer.begin()
        self.client = TestClient(TestServer(api.application(self.plane, observer=self.observer)))
        await self.client.start_server()
        self.user = User(self.client, self.plane, await set_token(self.store, "ann"))

    async def end(self) -> None:
        await self.client.close()
        await self.observer.close()
        await self.store.close()

    async def after(self, seconds: float, *, requests: float | None = None, **more: Any) -> None:
        """Second by second; l7-1 reports each, with `requests` a second since the beginning."""
        for _ in range(int(seconds)):
            self.now += 1
            if requests is not None:
                at = self.now - BEGUN
                facts = l7_facts(at, int(requests * at), **more)
                self.plane.report("l7", "l7-1", self.plane.current.version, None, facts)
            await self.observer.look()

    async def events(self, query: str = "") -> list[str]:
        found = await self.user.ask("GET", f"/v1/events{query}")
        return [each["text"] for each in found["events"]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.start()
    yield site
    await site.end()


async def test_a_chart_has_what_was_reported(site: Site) -> None:
    await site.user.ask("PUT", "/v1/config", CLUSTER)
    await site.after(130, requests=20)
    asked = f"from={int(BEGUN)}&to={int(site.now)}"
    found = site.observer.chart("listeners/web", _slots(site, 10))
    assert found is not None
    assert found["requests_per_s"][2:] == [22.0] * (len(found["requests_per_s"]) - 2)
    assert found["bytes_out_per_s"][-1] == 2000
    assert found["errors_per_s"][-1] == 2
    assert found["latency_p99_s"][-1] == pytest.approx(0.00099)
    for name in ("total", "nodes/l7/l7-1", "groups/server_groups/g"):
        chart = site.observer.chart(name, _slots(site, 10))
        assert chart is not None
        assert chart["requests_per_s"][-1] == 22, name
    minute = site.observer.chart("total", _slots(site, 60))
    assert minute is not None
    assert minute["requests_per_s"][-1] == 22
    answer = await site.user.ask("GET", f"/v1/series?{asked}")
    assert (answer["of"], answer["kept"], answer["dropped"]) == (
        "total",
        True,
        {"nodes": 0, "listeners": 0, "groups": 0},
    )


def _slots(site: Site, step: int) -> Any:
    from control.series import Asked

    end = int(site.now) // step * step
    return Asked(step, int(BEGUN) // step * step, end)


async def test_what_is_asked_of_charts(site: Site) -> None:
    await site.user.ask("PUT", "/v1/config", SITE)
    new = await site.user.ask("GET", "/v1/series?of=listeners/web&from=1763600000&to=1763601000&step=60")
    assert (new["kept"], new["step_s"], set(new["series"]["bytes_in_per_s"]) <= {None}) == (False, 600, True)
    await site.user.ask("GET", "/v1/series?of=listeners/none", status=404)
    await site.user.ask("GET", "/v1/series?of=rules/web", status=400)
    await site.user.ask("GET", "/v1/series?from=5&to=5", status=400)
    early = await site.user.ask("GET", "/v1/series?to=1200")
    assert (early["start"], len(early["series"]["connections"])) == (0, 2), "no slot before 1970"


async def test_charts_and_events_outlive_a_restart(site: Site) -> None:
    await site.user.ask("PUT", "/v1/config?comment=first", CLUSTER)
    await site.after(40, requests=20)
    before = await site.user.ask("GET", "/v1/events")
    await site.end()
    await site.start()
    await site.after(40, requests=20)
    chart = site.observer.chart("total", _slots(site, 10))
    assert chart is not None
    assert chart["requests_per_s"].count(22.0) >= 5
    after = await site.user.ask("GET", "/v1/events")
    assert after["events"][: len(before["events"])] == before["events"]
    assert [each["text"] for each in after["events"][len(before["events"]) :]] == [
        "the control plane ends", "the control plane has started with version 1",
    ], "nodes that are as they were are no event"  # fmt: skip


async def test_events_come_in_order_and_go_on(site: Site) -> None:
    await site.user.ask("PUT", "/v1/config?comment=first", CLUSTER)
    await site.after(BEGINNING_S + 2, requests=1)
    assert await site.events() == [
        "the control plane has started with version 0", "version 1 by ann: first",
        "l4-1 is listed, and has never reported", "l4-2 is listed, and has never reported", "l7-1 has come",
    ]  # fmt: skip
    first = await site.user.ask("GET", "/v1/events?after=0&limit=2")
    assert [each["id"] for each in first["events"]] == [1, 2]
    assert first["next"] == 2
    assert await site.events("?after=4&limit=1") == ["l7-1 has come"]
    assert await site.events("?before=3&limit=1") == ["version 1 by ann: first"]
    assert await site.events("?kind=version&kind=control&limit=1") == ["version 1 by ann: first"]
    end = await site.user.ask("GET", "/v1/events?after=5")
    assert (end["events"], end["next"]) == ([], 5)
    await site.user.ask("GET", "/v1/events?kind=none", status=400)
    await site.after(7)
    assert await site.events("?after=5") == ["l7-1 is silent: no report for 6 s"]


async def test_events_are_watched(site: Site) -> None:
    await site.user.ask("PUT", "/v1/config", CLUSTER)
    await site.after(BEGINNING_S + 1, requests=1)
    async with watching(site.user, "?only=event") as stream:
        while not site.user.readers():
            await asyncio.sleep(0.01)
        down = {"service": "b", "server": "10.0.1.1:80", "healthy": False, "why": "refused"}
        await site.after(6, requests=1, health=[down])
        name, data = await stream.next()
        assert (name, data["kind"], data["text"]) == ("event", "server", "10.0.1.1:80 of g is down: refused")


async def test_tokens_that_are_void_are_told_by_address(site: Site) -> None:
    good, site.user.token = site.user.token, "pft_wrong"
    for _ in range(3):
        await site.user.ask("GET", "/v1/status", status=401)
    site.user.token = good
    await site.after(SIGN_INS_S + 1)
    assert await site.events("?kind=sign-in") == ["3 requests with a token that is void came from 127.0.0.1"]


async def test_certificates_that_end_soon(site: Site) -> None:
    chain = pem(leaf())
    document = {**SITE, "certificates": [{"name": "c", "chain": chain}],
                "listeners": [{**SITE["listeners"][0], "protocol": "https", "certificates": ["c"]}]}  # fmt: skip
    await site.user.ask("PUT", "/v1/config", document)
    site.now = CERTIFIED.timestamp()
    await site.after(1)
    assert await site.events("?kind=certificate") == []
    site.now += 365 * 86_400
    await site.after(1)
    [told] = await site.events("?kind=certificate")
    assert told.startswith("certificate 'c' expired on")
    site.now += CERTIFICATES_S
    await site.after(1)
    assert len(await site.events("?kind=certificate")) == 1, "once"


async def test_members_and_the_store(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from control.membership import Member

    await site.after(1)
    orders = site.plane.orders
    orders.state = replace(orders.state, members=(Member("l7", "l7-9"),))
    await site.after(1)
    orders.state = replace(orders.state, members=(Member("l7", "l7-9", revoked=5.0),))
    monkeypatch.setattr(site.store, "away", lambda: "no answer")
    await site.after(2)
    monkeypatch.undo()
    await site.after(1)
    assert await site.events("?kind=member&kind=control&after=1") == [
        "l7 l7-9 has joined", "the identity of l7 l7-9 is revoked", "the storage is away: no answer",
        "the storage is back",
    ]  # fmt: skip


async def test_a_full_disk_leaves_the_rest(site: Site) -> None:
    await site.user.ask("PUT", "/v1/config", CLUSTER)
    site.observer.history._db.execute("PRAGMA max_page_count = 1")
    for _ in range(40):
        site.observer.tell("node", "info", "nodes/x", "x" * 4000)
    await site.after(30, requests=20)
    assert site.observer.history.failures > 0
    assert (await site.user.ask("GET", "/v1/topology"))["clients"]["requests_per_s"] == 22
    async with site.client.get("/v1/metrics", headers={"Authorization": f"Bearer {site.user.token}"}) as response:
        assert "paifang_control_history_lost_total " in await response.text()
    json.dumps(await site.user.ask("GET", "/v1/series"))
