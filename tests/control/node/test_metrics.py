"""The text that Prometheus reads, held to the parser of Prometheus' own Python client."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from control.node.metrics import Family, counter, gauge, only, render, table


def text(*families: Family) -> str:
    return b"".join(render(families)).decode()


def parsed(*families: Family) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    return {
        sample.name: {
            tuple(sorted(each.labels.items())): each.value
            for family in text_string_to_metric_families(text(*families))
            for each in family.samples
            if each.name == sample.name
        }
        for family in text_string_to_metric_families(text(*families))
        for sample in family.samples
    }


def test_the_exact_text() -> None:
    packets = counter("p_total", "Packets.", [(("a", "in"), 3), (("b", "out"), 0)], ("listener", "direction"))
    assert text(packets, gauge("up", "Whether.", only(True)), gauge("delay_seconds", "Delay.", only(0.25))) == (
        "# HELP p_total Packets.\n"
        "# TYPE p_total counter\n"
        'p_total{listener="a",direction="in"} 3\n'
        'p_total{listener="b",direction="out"} 0\n'
        "# HELP up Whether.\n"
        "# TYPE up gauge\n"
        "up 1\n"
        "# HELP delay_seconds Delay.\n"
        "# TYPE delay_seconds gauge\n"
        "delay_seconds 0.25\n"
    )


def test_a_family_without_samples_is_left_out() -> None:
    assert text(counter("p_total", "Packets.", [], ("listener",))) == ""


LABEL = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.dictionaries(st.tuples(LABEL, LABEL), st.floats() | st.integers(0, 1 << 64), max_size=5),
    st.text("a\\\n", max_size=5),
)
def test_what_is_written_is_read(samples: dict[tuple[str, str], float], help: str) -> None:
    family = Family("p", "gauge", help, samples.items(), ("first", "second"))
    read = parsed(family).get("p", {})
    assert len(read) == len(samples)
    for (first, second), number in samples.items():
        found = read[("first", first), ("second", second)]
        assert found == number or (math.isnan(found) and math.isnan(number))


def test_help_is_escaped() -> None:
    (family,) = text_string_to_metric_families(text(gauge("p", "a \\ and\na line", only(1))))
    assert family.documentation == "a \\ and\na line"


def test_pieces_are_bounded_and_make_the_whole() -> None:
    family = Family("p", "gauge", "Help.", [((str(number),), number) for number in range(25)], ("n",))
    pieces = list(render([family, family], piece_samples=10))
    assert max(piece.count(b"\n") for piece in pieces) <= 10
    assert len(pieces) == 6
    assert b"".join(pieces).decode() == text(family, family)


def test_samples_are_made_as_they_are_written() -> None:
    made: list[int] = []

    def samples():  # type: ignore[no-untyped-def]
        for number in range(100):
            made.append(number)
            yield (), number

    next(iter(render([Family("p", "gauge", "Help.", samples())], piece_samples=10)))
    assert len(made) < 20


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        ("p", "counter", ()),
        ("p_total", "gauge", ()),
        ("p-q", "gauge", ()),
        ("p", "gauge", ("a b",)),
        ("P", "gauge", ()),
    ],
)
def test_names_follow_the_conventions(name: str, kind: str, labels: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):
        Family(name, kind, "Help.", [], labels)  # type: ignore[arg-type]


def test_the_table_of_a_page() -> None:
    assert table([counter("p_total", "Packets.", [], ("a", "b")), gauge("up", "Whether.", [])]) == (
        "| metric | type | labels | |\n"
        "|---|---|---|---|\n"
        "| `p_total` | counter | `a`, `b` | Packets. |\n"
        "| `up` | gauge |  | Whether. |"
    )
