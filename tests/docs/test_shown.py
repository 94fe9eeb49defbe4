"""What counts as the same output, and what does not."""

import pytest

from tests.docs.blocks import Block, Step
from tests.docs.shown import agree


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("a  b\n", "a b"),
        ("version 7", "version 7"),
        ("in 0.1 ms", "in 12.34 ms"),
        ("10.0.0.6:8473: ok", "10.0.0.6:8473: ok"),
        ("until 2026-11-29 10:00 UTC", "until 2031-01-02 23:59 UTC"),
        ("41:e1b4…", "41:" + "0a" * 32),
        ("pft_7Jq0vN2xWc_…", "pft_0000000000_abc"),
        ("in /home/ann/.local/state/paifang/ca/ca.pem.", "in /tmp/x/ca/ca.pem."),
        ("bytes 812733911", "bytes 1"),
        ("first … last", "first and much more\nlast"),
        ("{}", "{}"),
    ],
)  # fmt: skip
def test_the_same(shown: str, printed: str) -> None:
    assert agree(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("version 7", "version 8"),
        ("10.0.0.6:8473: ok", "10.0.0.7:8473: ok"),
        ("ok", "ok, but"),
        ("port 70000 is out of range", "port 80000 is out of range"),
        ("until 2026-11-29", "until tomorrow"),
        ("41:e1b4…", "41:xyz"),
        ("a.b", "a-b"),
    ],
)
def test_not_the_same(shown: str, printed: str) -> None:
    assert not agree(shown, printed)


def test_commands_and_what_they_print() -> None:
    text = "$ one 'a\nb' # c\nout\n  put\n$ two \\\n  more\n$ cat <<'END'\nx\nEND\n"
    steps = Block("p", 1, "", text).steps
    assert steps == [
        Step("one 'a\nb' # c", "out\n  put\n"), Step("two \\\n  more", ""), Step("cat <<'END'\nx\nEND", ""),
    ]  # fmt: skip


def test_without_prompts_all_lines_are_commands() -> None:
    assert [step.command for step in Block("p", 1, "", "# why\na\n\nb; c").steps] == ["a", "b; c"]


def test_drawings() -> None:
    assert Block("p", 1, "", "a ──► b\n│\n└── c").drawn
    assert not Block("p", 1, "", "a ──► b\nls\nls").drawn
    assert not Block("p", 1, "sh", "a ──► b\n│\n└── c").drawn
