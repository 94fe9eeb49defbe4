"""The metrics are those of the page, and the page has all of them."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from control.node.metrics import render, table
from keyserver import exporter
from keyserver.exporter import CrewState, State
from keyserver.policy import KeyType

PAGE = Path(__file__).parents[2] / "docs" / "key-server.md"
STATE = State(
    keys={KeyType.RSA: 2},
    clear_files=1,
    stale=True,
    connections=3,
    signatures={KeyType.RSA: 4},
    answers={("uid:33", "ok"): 4, ("uid:33", "refused_shape"): 1},
    others={"malformed": 5, "ec-p256": 99},
    crews=[CrewState("rsa", 2, 1, 6, 7)],
)


def test_the_page_has_their_table() -> None:
    assert table(exporter.families(STATE)) in PAGE.read_text()


def test_the_text() -> None:
    text = b"".join(render(exporter.families(STATE))).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {",".join((s.name.removeprefix("paifang_keyserver_"), *s.labels.values())): s.value for s in samples}
    assert {name: value for name, value in found.items() if value} == {
        "keys,rsa": 2, "clear_key_files": 1, "stale": 1, "connections": 3, "signatures_total,rsa": 4,
        "requests_total,uid:33,ok": 4, "requests_total,uid:33,refused_shape": 1, "events_total,malformed": 5,
        "workers,rsa": 2, "workers_ready,rsa": 1, "waiting_requests,rsa": 6, "worker_restarts_total,rsa": 7,
    }  # fmt: skip
    assert "keys,ed25519" in found, "zeros are told, so that rates begin"
