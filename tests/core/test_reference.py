"""The reference page is that of the code, and what it shows as configuration is sound."""

from __future__ import annotations

import re
from pathlib import Path

from core.acme import Acme
from core.config import load
from core.model import CLASSES
from core.reader import fields
from core.reference import INNER, MEANINGS, page

PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m core.reference > docs/configuration.md"


def test_every_attribute_is_explained_and_nothing_else() -> None:
    for cls in (*CLASSES.values(), *INNER, Acme):
        assert set(MEANINGS[cls]) == {field.name for field in fields(cls)}
        assert all(f"| `{name}` | {meaning} |" in page() for name, meaning in MEANINGS[cls].items())
    assert len(MEANINGS) == len(CLASSES) + len(INNER) + 1


def test_the_short_example_is_short_for_the_long_one_and_all_are_sound() -> None:
    short, long, real = (
        load(text, path="docs/configuration.md", format="toml")
        for text in re.findall(r"```toml\n(.*?)```", page(), re.S)
    )
    assert short == long
    assert real.listeners["smtp"].port == 25


def test_examples_of_rules_are_sound() -> None:
    shown = re.findall(r"```toml\n(.*?)```", (PAGE.parent / "proxy.md").read_text(), re.S)
    assert shown
    for text in shown:
        load(text, path="proxy.md", format="toml")
