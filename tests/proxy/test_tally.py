"""Numbers of several workers, added up."""

from __future__ import annotations

from core.model import BackendProtocol, BackendService, Model, Server, ServerGroup
from proxy.tally import Tally, keyed, problems

A, B = ("app", "10.0.0.1", 80), ("app", "2001:db8::1", 80)
MODEL = Model(
    server_groups={"g": ServerGroup("g", (Server(*A[1:]), Server(*B[1:])))},
    backend_services={
        "app": BackendService("app", BackendProtocol.HTTP, "g", fallback="spare"),
        "spare": BackendService("spare", BackendProtocol.HTTP, "g"),
        "l4": BackendService("l4", BackendProtocol.TCP, "g"),
    },
)
ZERO = dict.fromkeys(("requests", "failures", "errors", "ejections", "active", "idle", "ejected"), 0)


def test_a_message_by_server() -> None:
    message = {"app": [["10.0.0.1", 80, {"requests": 3}]], "spare": [["10.0.0.1", 80, {"requests": 1}]]}
    assert keyed(message) == {A: {"requests": 3}, ("spare", "10.0.0.1", 80): {"requests": 1}}


def test_rows_are_of_http_services_and_add_up() -> None:
    tally = Tally()
    first, second = {A: {"requests": 3, "active": 1, "ejected": 1}}, {A: {"requests": 4, "ejected": 1, "errors": 2}}
    rows = tally.rows(MODEL, [first, second])
    assert rows[0] == ZERO | {
        "service": "app", "server": "10.0.0.1:80", "requests": 7, "active": 1, "ejected": 2, "errors": 2
    }  # fmt: skip
    assert rows[1] == ZERO | {"service": "app", "server": "[2001:db8::1]:80"}
    assert [row["service"] for row in rows] == ["app", "app", "spare", "spare"]


def test_the_slowest_workers_latency_is_told() -> None:
    first, second = {A: {"latency_ms": 3.5}}, {A: {"latency_ms": 7.0}, B: {"requests": 1.0}}
    rows = Tally().rows(MODEL, [first, second])
    assert rows[0]["latency_ms"] == 7
    assert "latency_ms" not in rows[1]


def test_counts_outlive_their_worker_and_levels_do_not() -> None:
    tally = Tally()
    tally.keep({A: {"requests": 3, "active": 1, "ejected": 1}})
    tally.keep({A: {"requests": 2}})
    assert tally.rows(MODEL, [{A: {"requests": 1}}])[0]["requests"] == 6
    assert tally.rows(MODEL, [])[0]["ejected"] == 0


def test_servers_that_are_gone_are_forgotten() -> None:
    tally = Tally()
    tally.keep({A: {"requests": 3}})
    tally.rows(Model(), [])
    assert tally.rows(MODEL, [])[0]["requests"] == 0


def test_a_worker_does_not_keep_servers_that_are_gone() -> None:
    worker = {A: {"requests": 3.0}, ("app", "10.0.0.9", 80): {"requests": 1.0}}
    Tally().forget(worker, MODEL)
    assert worker == {A: {"requests": 3.0}}


def test_who_has_no_server_is_said_once() -> None:
    assert list(problems(MODEL, [[], []])) == []
    assert list(problems(MODEL, [["app", "spare"], ["app"]])) == [
        "backend service app: no server takes requests; they go to spare",
        "backend service spare: no server takes requests in 1 of 2 workers; they get 503",
    ]
