"""The page of the clouds' attributes is that of the model, and each is enforced where it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.attributes import KINDS, SECTIONS, Row, page
from core.reader import fields

ROOT = Path(__file__).parent.parent.parent
ROWS = [row for rows in SECTIONS.values() for row in rows]
# What we have set out to adopt, by words that stand in the page; what is left out needs its reason there.
ADOPTED = [
    "port", "scheduler", "bandwidth", "sticky_session", "cookie_timeout", "cookie", "health_check", "idle_timeout",
    "request_timeout", "gzip", "http2", "forward_port", "acl_status", "x_forwarded_for", "x_forwarded_for_slb_ip",
    "x_forwarded_for_slb_id", "x_forwarded_for_proto", "x_forwarded_for_slb_port",
    "x_forwarded_for_client_src_port", "tls_cipher_policy", "domain_extension", "ca_certificate", "hsts", "qps",
    "max_connection", "established_timeout", "persistence_timeout", "connection_drain", "connection_drain_timeout",
    "proxy_protocol", "health_check_interval", "health_check_timeout", "healthy_threshold", "unhealthy_threshold",
    "health_check_method", "health_check_uri", "health_check_domain", "health_check_http_code",
    "health_check_connect_port", "health_check_req", "health_check_exp", "weight", "zone", "rack", "rule_name",
    "domain", "url", "v_server_group_id", "priority", "redirect", "fixed_response", "rewrite", "insert_header",
    "remove_header", "traffic_limit", "traffic_mirror", "type", "tags", "description",
    "modification_protection_status", "delete_protection", "stop",
]  # fmt: skip


def test_the_page_is_up_to_date() -> None:
    text = (ROOT / "docs" / "attributes.md").read_text()
    assert text == page(), "run: python -m core.attributes > docs/attributes.md"


@pytest.mark.parametrize("name", ADOPTED)
def test_nothing_that_was_to_be_adopted_is_passed_over(name: str) -> None:
    assert any(name in re.findall(r"[a-z0-9_]+", row.theirs) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.theirs.replace(" ", "_"))
def test_each_is_enforced_where_it_says(row: Row) -> None:
    if row.owner is None:
        assert len(row.where.split()) > 4, "a reason is given"
        return
    assert row.ours in {field.name for field in fields(row.owner)}
    assert row.owner in KINDS
    assert re.search(rf"\b{row.ours}\b", (ROOT / row.where).read_text()), f"{row.where} knows nothing of {row.ours}"
