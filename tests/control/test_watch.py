"""`paifang watch`: lines of text and JSON, and going on after a break."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control import watch
from control.client import Api, ApiError

SERVER = {"role": "l7", "node": "a", "service": "b", "server": "192.0.2.1:80", "healthy": False, "why": "refused"}
NODE = {"role": "l7", "name": "a", "step": "lagging", "version": 7, "problems": ["no room"], "listed": False}


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("reset", {"version": 7}, "version 7 is current"),
        ("node", NODE, "node l7 a: lagging (version 7; no room; not listed under nodes)"),
        ("node", {**NODE, "version": None, "problems": [], "listed": True, "step": "silent"}, "node l7 a: silent"),
        ("server", SERVER, "server 192.0.2.1:80 of b: down (l7 a: refused)"),
        ("server", {**SERVER, "healthy": True, "why": "", "service": ""}, "server 192.0.2.1:80: healthy (l7 a)"),
        ("server", {**SERVER, "healthy": None, "why": ""}, "server 192.0.2.1:80 of b: not checked any more (l7 a)"),
    ],
    ids=range(6),
)
def test_an_event_as_a_line(name: str, data: dict[str, Any], text: str) -> None:
    assert watch.line(name, data) == text


def test_a_version_shows_its_changes() -> None:
    change = {"op": "create", "kind": "instances", "name": "i", "old": None, "new": {"name": "i"}}
    data = {"version": 8, "created": 0.0, "author": "ann", "comment": "first", "changes": [change]}
    head, *rest = watch.line("version", data).splitlines()
    assert head.startswith("version 8, ")
    assert head.endswith(", by ann: first")
    assert rest == ["+ create instances/i", "1 to create"]


def options(**more: Any) -> argparse.Namespace:
    return argparse.Namespace(
        api="http://localhost", token="t", state=Path("/nonexistent"), ca=None, only=None, json=False, **more
    )


def test_it_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[dict[str, Any]] = []

    def events(api: Api, path: str, query: Any, timeout_s: float) -> Iterator[tuple[str, str, dict[str, Any]]]:
        asked.append(dict(query))
        if len(asked) in (2, 3):
            raise ApiError("is away")
        if len(asked) == 4:
            raise KeyboardInterrupt
        yield "reset", "7", {"version": 7}
        yield "server", "", SERVER

    monkeypatch.setattr(Api, "events", events)
    monkeypatch.setattr(watch, "AGAIN_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        watch.main(argparse.Namespace(**{**vars(options()), "only": ["version"], "json": True}))
    assert asked == [{"only": ["version"]}, *[{"only": ["version"], "after": "7"}] * 3]
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {"event": "reset", "version": 7},
        {"event": "server", **SERVER},
    ]
    assert captured.err == "paifang: is away; trying again\n", "said once"


@pytest.mark.parametrize("error", [ApiError("is away"), ApiError("not known", 401)])
def test_what_never_stood_is_an_error(error: ApiError, monkeypatch: pytest.MonkeyPatch) -> None:
    def events(*_: object) -> Iterator[Any]:
        raise error
        yield

    monkeypatch.setattr(Api, "events", events)
    with pytest.raises(ApiError):
        watch.main(options())
