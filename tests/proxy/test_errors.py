"""The codes and the table of docs/proxy.md are the same, and every code can be told from the others."""

from __future__ import annotations

from pathlib import Path

from proxy.errors import Code, Refused

PAGE = Path(__file__).parents[2] / "docs" / "proxy.md"


def rows() -> list[str]:
    return [f"| `{c.label}` | {c.status} | {c.source} | {c.rule} | {c.what} |" for c in Code]


def test_the_page_lists_every_code() -> None:
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith("| `") and line.count("|") == 6]
    assert listed == rows()


def test_labels_are_unique_and_statuses_are_errors() -> None:
    assert len({code.label for code in Code}) == len(Code)
    assert all(400 <= code.status <= 599 for code in Code)


def test_a_refusal_names_rule_and_offset() -> None:
    refused = Refused(Code.BARE_LF, 17)
    assert str(refused) == "line feed without carriage return (RFC 9112 §2.2), byte 17"
    assert Code.BARE_LF.said() == "line feed without carriage return (RFC 9112 §2.2)"
