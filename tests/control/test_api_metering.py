"""`GET /v1/metering`, what nodes deliver over mutual TLS, and `paifang metering`."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from control import api, api_metering
from control.cli import main
from control.metering import hour_of
from control.metering_keep import BusyError, TooMuchError
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from control.tokens import set_token
from core.usage import HOUR_S, Delivery, unpacked
from tests.control.test_node_api import Cluster, cluster

__all__ = ["cluster"]  # a fixture

NOON = hour_of("2026-11-20T12:00Z")
ROWS = {
    (NOON, ("shop", "web")): unpacked([10, 20, 3, 0, 4, 0, 1, 0, 0, 2]),
    (NOON + 1, ("shop", "web")): unpacked([1, 2, 1, 0, 1]),
    (NOON, ("shop", "api")): unpacked([5]),
    (NOON - 24, ("mail", "smtp")): unpacked([7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]),
}


@pytest.fixture
async def client(tmp_path: Path):  # type: ignore[no-untyped-def]
    store = await SqliteStore.open(tmp_path / "control.db")
    token = await set_token(store, "reader")
    plane = await ControlPlane.load(store)
    plane.metering._clock = lambda: (NOON + 5) * HOUR_S + 1.0
    await plane.metering.take("l7", "a", Delivery("0" * 16, 1, ROWS))
    async with TestClient(TestServer(api.application(plane)), headers={"Authorization": f"Bearer {token}"}) as client:
        client.plane = plane  # type: ignore[attr-defined]
        yield client
    await store.close()


async def rows(client: Any, query: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/metering?{query}")
    assert answer.status == 200, await answer.text()
    return list((await answer.json())["rows"])


async def test_this_month_by_day_is_what_is_asked_without_a_word(client: Any) -> None:
    found = await rows(client, "")
    assert [(row["time"], row["listener"], row["bytes_in"]) for row in found] == [
        ("2026-11-19", "smtp", 7), ("2026-11-20", "api", 5), ("2026-11-20", "web", 11),
    ]  # fmt: skip
    assert found[2] == {
        "time": "2026-11-20", "instance": "shop", "listener": "web", "bytes_in": 11, "bytes_out": 22, "connections": 4,
        "requests_1xx": 0, "requests_2xx": 5, "requests_3xx": 0, "requests_4xx": 1, "requests_5xx": 0,
        "requests_other": 0, "connections_max": 2,
    }  # fmt: skip
    assert found[0]["connections_max"] == 9


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("by=month", [("2026-11", 7), ("2026-11", 5), ("2026-11", 11)]),
        ("by=month&from=2026-12-01&to=2026-12-02", []),
        ("by=hour&instance=shop&listener=web", [("2026-11-20T12:00:00Z", 10), ("2026-11-20T13:00:00Z", 1)]),
        ("by=hour&from=2026-11-20T13:00Z&to=2026-11-20T14:00Z", [("2026-11-20T13:00:00Z", 1)]),
        ("by=hour&from=2026-11-20T13:00%2B01:00&to=2026-11-20T13:00Z&listener=web", [("2026-11-20T12:00:00Z", 10)]),
        ("by=day&instance=mail", [("2026-11-19", 7)]),
    ],
)
async def test_what_may_be_asked_for(client: Any, query: str, expected: list[tuple[str, int]]) -> None:
    by_name = [(row["time"], row["bytes_in"]) for row in await rows(client, query)]
    assert sorted(by_name) == sorted(expected)
    assert await client.plane.metering.fold() > 0
    assert sorted((row["time"], row["bytes_in"]) for row in await rows(client, query)) == sorted(expected)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("from=2026-11-20T13:30Z&by=hour", "full hour"),
        ("from=2026-11-20T13:00Z", "by=day takes whole days"),
        ("from=2026-11-21&to=2026-11-20", "is not before"),
        ("from=yesterday", "a date"),
        ("from=2026-99-99", "is no time"),
        ("by=year", "hour"),
        ("format=xml", "json or csv"),
        ("instances=shop", "instance"),
    ],
)
async def test_what_may_not(client: Any, query: str, why: str) -> None:
    answer = await client.get(f"/v1/metering?{query}")
    assert answer.status == 400
    assert why in (await answer.text())


async def test_csv(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_metering, "WRITTEN_AT_ONCE", 2)
    answer = await client.get("/v1/metering?format=csv")
    assert answer.content_type == "text/csv"
    read = [*csv.DictReader(io.StringIO(await answer.text()))]
    assert [{name: str(value) for name, value in row.items()} for row in await rows(client, "")] == read
    assert len(read) == 3


@pytest.mark.parametrize(("error", "status"), [(TooMuchError("ask for less"), 400), (BusyError("ask again"), 503)])
async def test_what_is_too_much_or_too_busy(
    client: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    async def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(client.plane.metering, "ask", fail)
    answer = await client.get("/v1/metering")
    assert (answer.status, str(error) in await answer.text()) == (status, True)


async def test_a_node_is_who_its_certificate_says(cluster: Cluster) -> None:
    now = int(cluster.plane.metering.now()) // HOUR_S
    document = Delivery("0" * 16, 1, {(now, ("shop", "web")): unpacked([5])}).document()
    for role in ("l7", "l4"):
        async with cluster.session(role) as session:
            for _ in range(2):
                async with session.post(f"{cluster.url}/v1/node/metering", json=document) as response:
                    answer = await response.json()
                    assert answer["applied"] == 1
                    assert abs(answer["now"] - cluster.plane.metering.now()) < 60
            for wrong in ("{", json.dumps({**document, "rows": 5})):
                async with session.post(f"{cluster.url}/v1/node/metering", data=wrong) as response:
                    assert response.status == 400
    keys = [each.key for each in await cluster.plane.store.records("metering", "n/")]
    assert keys == ["n/l4/l4-1", "n/l7/l7-1"]


async def test_the_command_prints_a_table_csv_and_json(
    client: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, token = str(client.make_url("")).rstrip("/"), client._session.headers["Authorization"].split()[1]
    words = ["metering", "--api", url, "--token", token]
    assert await asyncio.to_thread(main, [*words, "--instance", "shop"]) == 0
    header, api_row, web_row = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "TIME"
    assert api_row.split()[:4] == ["2026-11-20", "shop", "api", "5"]
    assert web_row.split() == ["2026-11-20", "shop", "web", "11", "22", "4", "2", "6", "0"]
    assert await asyncio.to_thread(main, [*words, "--by", "month", "--csv"]) == 0
    assert len([*csv.DictReader(io.StringIO(capsys.readouterr().out))]) == 3
    assert await asyncio.to_thread(main, [*words, "--json", "--from", "2026-11-20", "--to", "2026-11-21"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2
    assert await asyncio.to_thread(main, [*words, "--from", "2026-12-01", "--to", "2026-12-02"]) == 0
    assert "nothing was used from 2026-12-01" in capsys.readouterr().out
    assert await asyncio.to_thread(main, [*words, "--csv", "--json"]) == 2
    assert await asyncio.to_thread(main, [*words, "--from", "2026-11-20T13:30Z"]) == 1
    assert "full hour" in capsys.readouterr().err
