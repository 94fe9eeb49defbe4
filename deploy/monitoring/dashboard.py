"""The Grafana dashboard, from a table of panels: `python -m deploy.monitoring.dashboard > dashboard.json` writes it.

A row of panels is a theme, from what clients notice down to processes. A panel is a question with the expressions that
answer it. `$__rate_interval` is Grafana's: long enough for the scrape interval in use. The schema is Grafana 10's;
later ones migrate it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 24  # of Grafana's grid
HEIGHT: Final = 7
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
LAST: Final = {"reduceOptions": {"calcs": ["lastNotNull"]}}
ALL: Final = {
    "legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"},
}  # fmt: skip
RATE: Final = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Panel:
    """`expressions` are (PromQL, legend). `unit` is one of Grafana's names; `stat`: the last value, large."""

    title: str
    unit: str
    expressions: tuple[tuple[str, str], ...]
    description: str = ""
    stat: bool = False


def _rate(metric: str, by: str = "", where: str = "") -> str:
    inner = f"rate({metric}{where}{RATE})"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def _quantile(part: float, metric: str, by: str, where: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({part}, sum by ({labels}) (rate({metric}_bucket{where}{RATE})))"


LISTENERS: Final = "paifang_l7_requests_total|paifang_l4_listener_packets_total"
FAILED: Final = '{status="5xx"}'
LISTENER: Final = '{listener=~"$listener"}'
ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    ("Now", (
        Panel("Requests", "reqps", ((_rate("paifang_l7_requests_total"), ""),), stat=True),
        Panel("Answered with 5xx", "percentunit", (
            (_rate("paifang_l7_requests_total", where=FAILED) + " / " + _rate("paifang_l7_requests_total"), ""),
        ), "Of all requests, by servers or by us.", stat=True),
        Panel("New sessions, tcp and udp", "cps", ((_rate("paifang_l4_listener_new_sessions_total"), ""),), stat=True),
        Panel("Nodes not in step", "short", (('sum(paifang_control_nodes{step!="in step"})', ""),),
              "Nodes that lag behind the configuration, or are silent.", stat=True),
        Panel("Servers down", "short", (
            ("count(max by (service, server) (paifang_l7_server_up) == 0) or vector(0)", "http, https"),
            ("count(max by (server, protocol) (paifang_l4_server_up) == 0) or vector(0)", "tcp, udp"),
        ), "Servers that no node reaches.", stat=True),
        Panel("Next certificate ends", "s", (
            ("min(paifang_control_certificate_end_timestamp_seconds - time())", ""),
        ), stat=True),
    )),
    ("Requests (http, https)", (
        Panel("Requests", "reqps", ((_rate("paifang_l7_requests_total", "listener", LISTENER), "{{listener}}"),)),
        Panel("By class of status", "reqps", ((_rate("paifang_l7_requests_total", "status", LISTENER), "{{status}}"),)),
        Panel("How long requests take", "s", tuple(
            (_quantile(part, "paifang_l7_request_duration_seconds", "", LISTENER), name)
            for part, name in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
        ), "From the complete head of a request to its end."),
        Panel("The first byte of servers, 99 %", "s", (
            (_quantile(0.99, "paifang_l7_service_first_byte_seconds", "service"), "{{service}}"),
        )),
        Panel("Why requests fail", "reqps", (
            (_rate("paifang_l7_request_errors_total", "source, code", LISTENER), "{{source}}: {{code}}"),
        )),
        Panel("Bytes", "Bps", ((_rate("paifang_l7_bytes_total", "direction", LISTENER), "{{direction}}"),)),
        Panel("Requests of servers", "reqps", ((_rate("paifang_l7_server_requests_total", "server"), "{{server}}"),)),
        Panel("Failures of servers", "reqps", (
            (_rate("paifang_l7_server_failures_total", "server"), "{{server}}: none or a broken answer"),
            (_rate("paifang_l7_server_error_answers_total", "server"), "{{server}}: 5xx"),
        )),
        Panel("In flight and waiting", "short", (
            ("sum(paifang_l7_requests_in_flight)", "in flight"), ("sum(paifang_l7_requests_waiting)", "waiting"),
            ("sum(paifang_l7_connections)", "connections"),
        )),
        Panel("HTTP/2 of clients", "ops", (
            (_rate("paifang_l7_http2_streams_total"), "requests"),
            (_rate("paifang_l7_http2_received_resets_total"), "reset by clients"),
            (_rate("paifang_l7_http2_sent_resets_total"), "reset by us"),
            (_rate("paifang_l7_http2_goaways_total"), "connections told to leave"),
            (_rate("paifang_l7_http2_floods_total"), "ended as floods"),
        )),
        Panel("Calls of gRPC", "reqps", ((_rate("paifang_l7_grpc_calls_total", "status"), "{{status}}"),)),
    )),
    ("TLS and keys", (
        Panel("Handshakes", "cps", (
            (_rate("paifang_l7_listener_tls_handshakes_total", "version, session", LISTENER),
             "{{version}} {{session}}"),
        ), "A resumed one needs no signature."),
        Panel("Failed handshakes", "cps", (
            (_rate("paifang_l7_listener_tls_failures_total", "reason", LISTENER), "{{reason}}"),
        )),
        Panel("How long signatures take", "s", (
            (_quantile(0.5, "paifang_l7_tls_signature_seconds", "instance"), "{{instance}} median"),
            (_quantile(0.99, "paifang_l7_tls_signature_seconds", "instance"), "{{instance}} 99 %"),
        )),
        Panel("Signatures", "ops", ((_rate("paifang_keyserver_signatures_total", "type"), "{{type}}"),)),
        Panel("Requests refused", "ops", (
            (_rate("paifang_keyserver_requests_total", "client, result", '{result!="ok"}'), "{{client}}: {{result}}"),
        )),
        Panel("Days until certificates end", "d", (
            ("(paifang_control_certificate_end_timestamp_seconds - time()) / 86400", "{{certificate}}"),
        )),
    )),
    ("Packets (tcp, udp, and all that passes)", (
        Panel("Packets", "pps", ((_rate("paifang_l4_packets_total", "action"), "{{action}}"),)),
        Panel("Why packets are dropped", "pps", (
            (_rate("paifang_l4_packets_total", "reason", '{action="drop"}'), "{{reason}}"),
        )),
        Panel("Bytes of listeners", "Bps", (
            (_rate("paifang_l4_listener_bytes_total", "listener, direction", LISTENER), "{{listener}} {{direction}}"),
        )),
        Panel("New sessions", "cps", (
            (_rate("paifang_l4_listener_new_sessions_total", "listener", LISTENER), "{{listener}}"),
        )),
        Panel("Sessions", "short", (
            (f"max by (listener) (paifang_l4_listener_sessions{LISTENER})", "{{listener}}"),
        ), "Every node knows all that are synchronised: the number of the node that knows most."),
        Panel("How full tables are", "percentunit", (
            ('paifang_l4_table_entries{table="sessions"} / paifang_l4_table_size{table="sessions"}',
             "{{instance}} IPv{{ip_version}}"),
        )),
    )),
    ("Between L4 nodes", (
        Panel("Who has the VIPs", "short", (("sum by (vip) (paifang_l4_vip_held)", "{{vip}}"),)),
        Panel("Session records", "ops", (
            (_rate("paifang_l4_sync_sent_records_total", "instance"), "{{instance}} sent"),
            (_rate("paifang_l4_sync_received_records_total", "instance"), "{{instance}} received"),
        )),
        Panel("Records on their way", "s", (("paifang_l4_sync_peer_delay_seconds", "{{instance}} from {{peer}}"),)),
        Panel("Lost and refused", "ops", (
            (_rate("paifang_l4_sync_lost_datagrams_total", "instance"), "{{instance}} lost"),
            (_rate("paifang_l4_sync_refused_datagrams_total", "instance, reason", '{reason!="own"}'),
             "{{instance}} {{reason}}"),
        )),
    )),
    ("Processes", (
        Panel("CPU", "percentunit", ((f'rate(process_cpu_seconds_total{{job=~"paifang-.+"}}{RATE})', "{{instance}}"),),
              "Of one core."),
        Panel("Memory", "bytes", (('process_resident_memory_bytes{job=~"paifang-.+"}', "{{instance}}"),)),
        Panel("File descriptors", "short", (('process_open_fds{job=~"paifang-.+"}', "{{instance}}"),)),
        Panel("Version of the configuration", "short", (
            ("paifang_control_configuration_version", "control plane"),
            ("paifang_l4_configuration_version", "{{instance}}"), ("paifang_l7_configuration_version", "{{instance}}"),
        )),
    )),
)  # fmt: skip


def document() -> dict[str, object]:
    """As Grafana imports it."""
    panels: list[dict[str, object]] = []
    top = 0
    for title, row in ROWS:
        panels.append({"type": "row", "title": title, "id": len(panels) + 1, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}})  # fmt: skip
        top += 1
        stats = all(panel.stat for panel in row)
        columns, height = (len(row), 4) if stats else (3 if len(row) % 2 else 2, HEIGHT)
        for number, panel in enumerate(row):
            line, column = divmod(number, columns)
            place = {"x": column * (WIDTH // columns), "y": top + line * height, "w": WIDTH // columns, "h": height}
            panels.append(_panel(panel, len(panels) + 1, place))
        top += -(-len(row) // columns) * height
    return {
        "title": "Paifang", "uid": "paifang", "tags": ["paifang"], "schemaVersion": 38, "version": 1,
        "editable": True, "graphTooltip": 1, "refresh": "10s", "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0},
            {"name": "listener", "label": "Listener", "type": "query", "datasource": SOURCE, "refresh": 2,
             "query": {"query": f"label_values({{__name__=~'{LISTENERS}'}}, listener)", "refId": "listener"},
             "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}},
        ]},
        "panels": panels,
    }  # fmt: skip


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, object]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend or "__auto"}
        for index, (expression, legend) in enumerate(panel.expressions)
    ]
    return {
        "id": number, "type": "stat" if panel.stat else "timeseries", "title": panel.title,
        "description": panel.description, "datasource": SOURCE, "gridPos": place, "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": LAST if panel.stat else ALL,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
