"""No block of a page is without a test, and each configuration is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from core import member_file
from core.config import load
from keyserver import grants
from tests.docs.blocks import PAGES, ROOT, Block, blocks
from tests.docs.pages import ELSEWHERE, NOT_TO_BE_HAD, OWED, Elsewhere, entry_of, has_owner, words

BLOCKS = [block for page in PAGES for block in blocks(page)]
FOLLOWED = set(re.findall(r'follow\("([\w.-]+)"\)', "".join(p.read_text() for p in Path(__file__).parent.glob("*.py"))))


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def name(value: object) -> str:
    return f"{value.page}:{value.line}" if isinstance(value, Block) else f"{value.page}-{value.begin}"  # type: ignore[attr-defined]


def test_every_block_has_a_test() -> None:
    nobodys = [str(block) for block in BLOCKS if not has_owner(block) and block.page not in FOLLOWED]
    assert not nobodys, "follow the page in a test of tests/docs, or name the test that runs it in tests/docs/pages.py"


def test_pages_have_one_follower_each_and_are_there() -> None:
    assert {page.name for page in PAGES} >= FOLLOWED


@pytest.mark.parametrize("each", ELSEWHERE, ids=name)
def test_what_is_run_elsewhere_is(each: Elsewhere) -> None:
    (block,) = [block for block in BLOCKS if each in entry_of(block)]
    file, _, function = each.test.partition("::")
    source = (ROOT / file).read_text()
    if file == "Makefile":
        assert re.search(rf"^{function}:", source, re.M)
    else:
        assert re.search(rf"^(async )?def {function}\(", source, re.M), f"{each.test} of {block} is gone"
    assert each.words
    assert [text for text in each.words if words(text) not in words(source)] == []


@pytest.mark.parametrize("block", of("toml"), ids=name)
def test_configurations_are_read(block: Block) -> None:
    tables = tomllib.loads(block.text)
    if "grants" in tables:
        assert grants.parse(block.text)
    elif set(tables) == {"members"}:
        assert member_file.read(block.text, path=block.page, format="toml")
    else:
        load(block.text, path=block.page, format="toml")


@pytest.mark.parametrize("block", of("yaml"), ids=name)
def test_scrape_configurations_are_read(block: Block) -> None:
    for job in yaml.safe_load(block.text)["scrape_configs"]:
        assert job["job_name"].startswith("paifang-")
        assert all(each["targets"] for each in job["static_configs"])


@pytest.mark.parametrize(("page", "begin"), [*NOT_TO_BE_HAD, *OWED])
def test_what_is_not_run_is_there(page: str, begin: str) -> None:
    """One block each; and the page says what cannot be had."""
    (block,) = [block for block in BLOCKS if block.page == page and begin in block.text]
    said = NOT_TO_BE_HAD.get((page, begin), "")
    assert said in (ROOT / "docs" / block.page).read_text()


def test_what_make_is_asked_for_it_does() -> None:
    asked = {target for block in BLOCKS for target in re.findall(r"^make ([\w-]+)", block.text, re.M)}
    assert {"demo", "test"} <= asked <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
