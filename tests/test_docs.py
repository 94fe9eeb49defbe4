"""The pages lead somewhere: every relative link in the README and the docs names a file that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text()) if not t.startswith(("http://", "https://"))]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_readme_points_into_the_docs() -> None:
    targets = LINK.findall((ROOT / "README.md").read_text())
    assert len([target for target in targets if target.startswith("docs/")]) >= 10
