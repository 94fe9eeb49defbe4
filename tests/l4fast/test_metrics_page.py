"""docs/metrics.md is that of the code, and the pages that it points to tell what it says they do."""

from __future__ import annotations

from pathlib import Path

from l4fast.exporter import SYNC_REFUSED, SYNC_UNSENT
from l4fast.metrics_page import page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "metrics.md").read_text() == page(), "run: python -m l4fast.metrics_page > docs/metrics.md"


def test_each_reason_of_session_sync_is_explained() -> None:
    text = (DOCS / "session-sync.md").read_text()
    assert [reason for reason in (*SYNC_REFUSED, *SYNC_UNSENT) if f"`{reason}`" not in text] == []
