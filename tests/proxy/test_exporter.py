"""The metrics are those of the page, the page has all of them, and labels are bounded."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from control.node.metrics import render, table
from proxy import exporter
from proxy.meters import NOTHING, OTHER, SIGNATURE_BOUNDS, together
from tests.proxy.processes import keep, running
from tests.proxy.support import Backend, Client, free_port, model

PAGE = Path(__file__).parents[2] / "docs" / "proxy.md"
ROW = NOTHING["listeners"] | {
    "statuses": [0, 0, 3, 0, 1, 0], "buckets": [1, 2, *[0] * 13, 1], "seconds": 70.5, "bytes_in": 5, "bytes_out": 6,
    "errors": {"client bad_target": 1}, "tls": {"TLSv1.3 new": 2, "TLSv1.2 resumed": 1, "failed timeout": 3},
    "signatures": [1, 1, *[0] * 14], "signature_seconds": 0.0006, "firsts": [0, 3, *[0] * 14], "first_seconds": 0.006,
}  # fmt: skip
SERVER = {"service": "app", "server": "10.0.0.1:80", "requests": 3, "failures": 2, "errors": 1, "ejections": 1,
          "active": 4, "idle": 5, "ejected": 0}  # fmt: skip
NODE: dict[str, Any] = {
    "ready": True, "configuration": 7, "problems": ["p"], "workers": 2, "worker_restarts": 1, "listeners": {"web": ROW},
    "services": {"app": {name: ROW[name] for name in NOTHING["services"]}}, "listener_of": {"api": "web"},
    "rules": {"api": {"statuses": [0, 0, 2, 0, 0, 0]}},
    "parts": {"api app": {"statuses": [0, 0, 2, 0, 0, 0]}, "other": {"statuses": [0, 0, 1, 0, 0, 0]}},
    "counters": {"connections": 9, "retries": 2, "tls_ok": 3, "tls_failed_timeout": 1, "tls_in_flight": 6,
                 "tls_stapled": 2, "tls_tickets_given": 4, "requests_open": 1, "grpc_calls_OK": 5,
                 "grpc_calls_none": 2},
    "upstreams": [SERVER], "health": [{"service": "app", "server": "10.0.0.1:80", "healthy": True, "why": ""}],
}  # fmt: skip


def samples(node: dict[str, Any]) -> dict[str, float]:
    text = b"".join(render(exporter.families(node))).decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {",".join((each.name.removeprefix("paifang_l7_"), *each.labels.values())): each.value for each in found}


def test_the_page_has_their_table() -> None:
    assert table(exporter.families(NODE)) in PAGE.read_text()


def test_the_text() -> None:
    found = samples(NODE)
    assert {name: found[name] for name in (
        "ready", "configuration_version", "requests_total,web,2xx", "requests_total,web,4xx", "bytes_total,web,out",
        "request_errors_total,web,client,bad_target", "request_duration_seconds_bucket,web,0.001",
        "request_duration_seconds_bucket,web,60.0", "request_duration_seconds_bucket,web,+Inf",
        "request_duration_seconds_sum,web", "request_duration_seconds_count,web", "connections_total",
        "retries_total", "tls_handshakes_total,ok", "tls_handshakes_total,failed_timeout", "tls_handshakes_in_flight",
        "server_requests_total,app,10.0.0.1:80", "server_failures_total,app,10.0.0.1:80",
        "first_byte_seconds_bucket,web,0.001", "first_byte_seconds_count,web", "service_requests_total,app,4xx",
        "service_request_duration_seconds_count,app", "service_first_byte_seconds_sum,app",
        "rule_requests_total,web,api,2xx", "rule_service_requests_total,web,api,app,2xx",
        "rule_service_requests_total,other,other,other,2xx",
        "server_idle_connections,app,10.0.0.1:80", "server_up,app,10.0.0.1:80", "worker_restarts_total",
    )} == {
        "ready": 1, "configuration_version": 7, "requests_total,web,2xx": 3, "requests_total,web,4xx": 1,
        "bytes_total,web,out": 6, "request_errors_total,web,client,bad_target": 1,
        "request_duration_seconds_bucket,web,0.001": 1, "request_duration_seconds_bucket,web,60.0": 3,
        "request_duration_seconds_bucket,web,+Inf": 4, "request_duration_seconds_sum,web": 70.5,
        "request_duration_seconds_count,web": 4, "connections_total": 9, "retries_total": 2,
        "tls_handshakes_total,ok": 3, "tls_handshakes_total,failed_timeout": 1, "tls_handshakes_in_flight": 6,
        "server_requests_total,app,10.0.0.1:80": 3, "server_failures_total,app,10.0.0.1:80": 2,
        "first_byte_seconds_bucket,web,0.001": 0, "first_byte_seconds_count,web": 3,
        "service_requests_total,app,4xx": 1, "service_request_duration_seconds_count,app": 4,
        "service_first_byte_seconds_sum,app": 0.006, "rule_requests_total,web,api,2xx": 2,
        "rule_service_requests_total,web,api,app,2xx": 2, "rule_service_requests_total,other,other,other,2xx": 1,
        "server_idle_connections,app,10.0.0.1:80": 5, "server_up,app,10.0.0.1:80": 1, "worker_restarts_total": 1,
    }  # fmt: skip
    assert [found[f"grpc_calls_total,{each}"] for each in ("OK", "none", "UNAVAILABLE")] == [5, 2, 0]
    assert found["denied_connections_total"] == 0, "zeros are told, so that rates begin"
    assert "tls_handshakes_total,in_flight" not in found
    assert "tls_handshakes_total,tickets_given" not in found


def test_handshakes() -> None:
    found = samples(NODE)
    assert {name: number for name, number in found.items() if name.startswith(("listener_tls", "tls_t", "tls_s"))} == {
        "listener_tls_handshakes_total,web,TLSv1.3,new": 2, "listener_tls_handshakes_total,web,TLSv1.2,resumed": 1,
        "listener_tls_failures_total,web,timeout": 3, "tls_tickets_total,given": 4, "tls_stapled_handshakes_total": 2,
        "tls_signature_seconds_sum": 0.0006, "tls_signature_seconds_count": 2,
        "tls_signature_seconds_bucket,0.00025": 1,
        **{f"tls_signature_seconds_bucket,{bound}": 2 for bound in (*SIGNATURE_BOUNDS[1:], "+Inf")},
    }  # fmt: skip
    plain = samples(NODE | {"listeners": {"web": NOTHING["listeners"]}})
    assert plain["tls_signature_seconds_count"] == 0


def test_what_is_beyond_the_bound_is_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "SERIES_MOST", 2)
    monkeypatch.setattr(exporter, "HISTOGRAMS_MOST", 1)
    listeners = {"l0": ROW, "l1": ROW, OTHER: together("listeners", [ROW, ROW, ROW])}
    servers = [SERVER | {"server": f"10.0.0.{number}:80"} for number in range(5)]
    found = samples(NODE | {"listeners": listeners, "upstreams": servers})
    assert found["requests_total,l1,2xx"] == 3
    assert found[f"requests_total,{OTHER},2xx"] == 9
    assert found["request_duration_seconds_count,l0"] == 4
    assert "request_duration_seconds_count,l1" not in found
    assert found[f"request_duration_seconds_count,{OTHER}"] == 16
    assert "requests_total,l2,2xx" not in found
    assert found[f"server_requests_total,{OTHER},{OTHER}"] == 9
    assert "server_requests_total,app,10.0.0.2:80" not in found


async def test_a_node_is_scraped(identity: Path) -> None:
    port, metrics = free_port(), free_port()

    def scrape() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return {",".join((each.name, *each.labels.values())): each.value for one in families for each in one.samples}

    async with Backend().running() as backend:
        keep(identity, model(port, [backend.port]))
        async with running(identity, port, "--workers", "2", "--metrics", f"127.0.0.1:{metrics}"):
            for _ in range(10):
                client = Client(*await asyncio.open_connection("127.0.0.1", port))
                assert (await client.ask())[0] == 200
                assert (await client.ask(method="TRACE"))[0] == 405
                await client.close()
            found: dict[str, float] = {}
            while found.get("paifang_l7_requests_total,web,4xx") != 10:
                found = await asyncio.to_thread(scrape)
            assert found["paifang_l7_requests_total,web,2xx"] == 10
            assert found["paifang_l7_request_duration_seconds_count,web"] == 20
            assert found["paifang_l7_first_byte_seconds_count,web"] == 10
            assert found["paifang_l7_service_requests_total,app,2xx"] == 10
            assert found["paifang_l7_service_first_byte_seconds_count,app"] == 10
            assert found["paifang_l7_request_errors_total,web,client,method_not_allowed"] == 10
            assert found[f"paifang_l7_server_requests_total,app,127.0.0.1:{backend.port}"] == 10
            assert found["paifang_l7_ready"] == 1
            assert any(name.startswith("paifang_build_info,") for name in found)
