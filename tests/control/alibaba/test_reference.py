"""The table of the documentation is that of the code, and knows every action of both SDKs."""

from __future__ import annotations

from pathlib import Path

from control.alibaba.reference import rows

PAGE = (Path(__file__).parents[3] / "docs/alibaba.md").read_text()


def test_the_page_has_the_table() -> None:
    assert PAGE.endswith("\n".join(rows()) + "\n")
