"""Alerts and dashboard: Prometheus reads them, what they name is there, and alerts come when they should.

Which metrics there are the pages say, whose tables the tests of each exporter hold to the code.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring import dashboard

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yaml"
ROW = re.compile(r"^\| `([a-z0-9_]+)` \| (counter|gauge|histogram) \| ([^|]*) \|", re.MULTILINE)
# a metric with its selector; what stands behind `by (…)` and `on (…)` are labels
USED = re.compile(r"\b((?:paifang|process)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
OF_PROMETHEUS = {"instance", "job", "le"}


def known() -> dict[str, set[str]]:
    """The labels of each metric."""
    found = {"up": set[str]()}
    for page in (ROOT / "docs").glob("*.md"):
        for name, kind, labels in ROW.findall(page.read_text()):
            names = [f"{name}_{part}" for part in ("bucket", "sum", "count")] if kind == "histogram" else [name]
            found |= {each: set(re.findall(r"`(\w+)`", labels)) for each in names}
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions() -> dict[str, tuple[str, str]]:
    """By where they stand: PromQL, and the text that shows labels of its result."""
    found = {rule["alert"]: (rule["expr"], " ".join(rule["annotations"].values())) for rule in rules()}
    for title, row in dashboard.ROWS:
        for panel in row:
            for number, (expression, legend) in enumerate(panel.expressions):
                plain = expression.replace("$__rate_interval", "1m").replace("$listener", ".*")
                found[f"{title}, {panel.title}, {number}"] = (plain, legend)
    return found


ALL = expressions()


@pytest.mark.parametrize("where", ALL)
def test_what_is_named_is_there(where: str) -> None:
    expression, text = ALL[where]
    metrics = known()
    used = USED.findall(re.sub(r'"[^"]*"', '""', expression))
    assert used, expression
    labels = set(OF_PROMETHEUS)
    for name, selector in used:
        assert name in metrics, name
        labels |= metrics[name]
        assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= metrics[name] | OF_PROMETHEUS, (name, selector)
    for group in GROUPED.findall(expression):
        named = {label.strip() for label in group.split(",") if label.strip()}
        assert named <= labels, (group, labels)
    grouped = [{label.strip() for label in group.split(",")} for group in GROUPED.findall(expression)]
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text))
    assert shown <= (set.union(*grouped) if grouped else labels), (shown, expression)


def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    recorded = [{"record": f"r{number}", "expr": ALL[where][0]} for number, where in enumerate(ALL)]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": recorded}]}))
    for file in (tmp_path / "all.yaml", ALERTS):
        done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_that_of_the_code() -> None:
    text = (ROOT / "deploy" / "monitoring" / "dashboard.json").read_text()
    assert json.loads(text) == dashboard.document(), "run: python -m deploy.monitoring.dashboard > dashboard.json"
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 30
    taken = [(place["x"] + x, place["y"] + y) for place in (panel["gridPos"] for panel in panels)
             for x in range(place["w"]) for y in range(place["h"])]  # fmt: skip
    assert len(set(taken)) == len(taken), "panels overlap"
    assert max(x for x, _ in taken) < dashboard.WIDTH


def test_every_alert_has_a_remedy() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "remedy"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        for page in re.findall(r"docs/[\w-]+\.md", rule["annotations"]["remedy"]):
            assert (ROOT / page).exists(), page


# alert, what is scraped each 5 s (a series: values), when, whether it is there then
STORIES = [
    ("PaifangVipNotHeld", {'paifang_l4_vip_held{vip="v",method="vrrp",instance="a"}': "1x3 0x9",
                           'paifang_l4_vip_held{vip="v",method="vrrp",instance="b"}': "0x12"}, "40s", True),
    ("PaifangVipNotHeld", {'paifang_l4_vip_held{vip="v",method="vrrp",instance="a"}': "1x3 0x9",
                           'paifang_l4_vip_held{vip="v",method="vrrp",instance="b"}': "0x3 1x9"}, "40s", False),
    ("PaifangVipHeldTwice", {'paifang_l4_vip_held{vip="v",method="vrrp",instance="a"}': "1x12",
                             'paifang_l4_vip_held{vip="v",method="vrrp",instance="b"}': "1x12"}, "40s", True),
    ("PaifangVipHeldTwice", {'paifang_l4_vip_held{vip="v",method="bgp",instance="a"}': "1x12",
                             'paifang_l4_vip_held{vip="v",method="bgp",instance="b"}': "1x12"}, "40s", False),
    ("PaifangL4ServerDown", {'paifang_l4_server_up{server="s",protocol="tcp",instance="a"}': "0x12",
                             'paifang_l4_server_up{server="s",protocol="tcp",instance="b"}': "1x12"}, "50s", False),
    ("PaifangL4ServerDown", {'paifang_l4_server_up{server="s",protocol="tcp",instance="a"}': "0x12",
                             'paifang_l4_server_up{server="s",protocol="tcp",instance="b"}': "0x12"}, "50s", True),
    ("PaifangL4ServerSeenDifferently", {'paifang_l4_server_up{server="s",protocol="tcp",instance="a"}': "0x40",
                                        'paifang_l4_server_up{server="s",protocol="tcp",instance="b"}': "1x40"},
     "3m", True),
    ("PaifangSessionTableFull", {'paifang_l4_table_entries{table="sessions",ip_version="4"}': "81x20",
                                 'paifang_l4_table_size{table="sessions",ip_version="4"}': "100x20"}, "80s", True),
    ("PaifangSessionTableFull", {'paifang_l4_table_entries{table="half_open",ip_version="4"}': "100x20",
                                 'paifang_l4_table_size{table="half_open",ip_version="4"}': "100x20"}, "80s", False),
    ("PaifangManyServerErrors", {'paifang_l7_service_requests_total{service="s",status="5xx"}': "0+50x60",
                                 'paifang_l7_service_requests_total{service="s",status="2xx"}': "0+500x60"},
     "4m", True),
    ("PaifangManyServerErrors", {'paifang_l7_service_requests_total{service="s",status="5xx"}': "0+20x60",
                                 'paifang_l7_service_requests_total{service="s",status="2xx"}': "0+500x60"},
     "4m", False),
    ("PaifangManyServerErrors", {'paifang_l7_service_requests_total{service="s",status="5xx"}': "0+1x60",
                                 'paifang_l7_service_requests_total{service="s",status="2xx"}': "0x60"}, "4m", False),
    ("PaifangServiceWithoutServers", {'paifang_l7_server_up{service="s",server="1",instance="a"}': "0x12",
                                      'paifang_l7_server_up{service="s",server="2",instance="a"}': "0x12"},
     "30s", True),
    ("PaifangServiceWithoutServers", {'paifang_l7_server_up{service="s",server="1",instance="a"}': "0x12",
                                      'paifang_l7_server_up{service="s",server="2",instance="a"}': "1x12"},
     "30s", False),
    ("PaifangCertificateEnds", {'paifang_control_certificate_end_timestamp_seconds{certificate="c"}': "86400x80",
                                'paifang_control_certificate_listeners{certificate="c"}': "1x80"}, "6m", True),
    ("PaifangCertificateEnds", {'paifang_control_certificate_end_timestamp_seconds{certificate="c"}': "86400x80",
                                'paifang_control_certificate_listeners{certificate="c"}': "0x80"}, "6m", False),
    ("PaifangNodesNotInStep", {'paifang_control_nodes{role="l7",step="lagging"}': "1x20"}, "80s", True),
    ("PaifangNodesNotInStep", {'paifang_control_nodes{role="l7",step="in step"}': "1x20"}, "80s", False),
    ("PaifangFewDescriptorsLeft", {'process_open_fds{job="paifang-l7",instance="a"}': "900x20",
                                   'process_max_fds{job="paifang-l7",instance="a"}': "1000x20"}, "80s", True),
]  # fmt: skip


def test_alerts_come_when_they_should(tmp_path: Path) -> None:
    """By Prometheus' own test of rules."""
    tests = []
    for alert, series, at, there in STORIES:
        # a test of rules compares whole alerts: of those that are to come, only their number is told
        tests.append({
            "interval": "5s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [{
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)', "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": int(there)}],
            }],
        })  # fmt: skip
    story = {"rule_files": [str(ALERTS)], "evaluation_interval": "5s", "tests": tests}
    (tmp_path / "story.yaml").write_text(yaml.safe_dump(story))
    done = subprocess.run(["promtool", "test", "rules", str(tmp_path / "story.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
