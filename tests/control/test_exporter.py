"""What the control plane tells Prometheus, and the page that says so."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families as parse

from certs.inventory import entries
from control.exporter import families
from control.node.metrics import render, table
from control.reconcile import NodeStatus, Step
from tests.certs.test_chain import NOW, leaf, pem
from tests.certs.test_inventory import model

PAGE = Path(__file__).parents[2] / "docs" / "control-plane.md"


def test_the_page_has_their_table() -> None:
    assert table(families(1, (), (), {}, 0)) in PAGE.read_text()


def test_the_text() -> None:
    nodes = [NodeStatus("l7", name, Step.IN_STEP, "", 7, 0.1, {}, True) for name in ("a", "b")]
    certificates = entries(model(web=pem(leaf()), spare=pem(leaf()), none=""), NOW)
    text = b"".join(render(families(7, nodes, certificates, {"groups": 3}, 2))).decode()
    found = {
        (sample.name.removeprefix("paifang_control_"), *sample.labels.values()): sample.value
        for family in parse(text)
        for sample in family.samples
    }
    assert found == {
        ("configuration_version",): 7,
        ("nodes", "l4", "in step"): 0,
        ("nodes", "l4", "lagging"): 0,
        ("nodes", "l4", "silent"): 0,
        ("nodes", "l7", "in step"): 2,
        ("nodes", "l7", "lagging"): 0,
        ("nodes", "l7", "silent"): 0,
        ("certificate_end_timestamp_seconds", "web"): 1797724800,
        ("certificate_end_timestamp_seconds", "spare"): 1797724800,
        ("certificate_listeners", "web"): 1,
        ("certificate_listeners", "spare"): 0,
        ("certificate_listeners", "none"): 1,
        ("objects_not_charted", "nodes"): 0,
        ("objects_not_charted", "listeners"): 0,
        ("objects_not_charted", "groups"): 3,
        ("history_lost_total",): 2,
    }
