"""The order of rules, and those that are never reached."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from core.model import Condition, Rule
from core.rules import asked, first, hidden, matches, ordered

NAMES = ["a.x.y", "x.y", "b.x.y", "c.a.x.y", "y", ""]
PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "//", "/a//b"]
METHODS = [("GET",), ("POST",), ("GET", "POST"), ()]
HEADERS = [(), (Condition("X"),), (Condition("x"), Condition("y", ("1",)))]


@st.composite
def rules(draw: st.DrawFn) -> list[Rule]:
    """Rules that meet each other often."""
    made = []
    for index in range(draw(st.integers(1, 8))):
        domain = draw(st.sampled_from(["", "*.y", "*.x.y", "a.x.y", "X.y", "*.A.x.y"]))
        path = draw(st.sampled_from(PATHS))
        where = {"path": path} if draw(st.booleans()) else {"url": path}
        priority = draw(st.sampled_from([0, 0, 1, 2, 10_000]))
        made.append(
            Rule(f"r{index}", "web", "app", domain, **where, priority=priority,  # type: ignore[arg-type]
                 methods=draw(st.sampled_from(METHODS)), headers=draw(st.sampled_from(HEADERS)))
        )  # fmt: skip
    return made


def rule(name: str, **fields: object) -> Rule:
    return Rule(name, "web", "app", **fields)  # type: ignore[arg-type]


def test_the_order() -> None:
    wanted = [
        rule("first", priority=1),
        rule("second", priority=2, domain="a.x.y", path="/"),
        rule("exact path", domain="x.y", path="/a"),
        rule("long url", domain="x.y", url="/a/b", methods=("GET",)),
        rule("more conditions", domain="x.y", url="/a", methods=("GET",), cookies=(Condition("c"),)),
        rule("a condition", domain="x.y", url="/a", pattern="/a/*"),
        rule("none", domain="x.y", url="/a"),
        rule("long wildcard", domain="*.x.y"),
        rule("wildcard", domain="*.y", path="/a/b/c"),
        rule("any", path="/a"),
        rule("the first of equals"),
        rule("the last"),
    ]
    assert [each.name for each in ordered([*wanted[-3::-1], *wanted[-2:]])] == [each.name for each in wanted]


def test_matching() -> None:
    assert matches(rule("r", domain="*.X.y"), "a.b.x.y", "/")
    assert not matches(rule("r", domain="*.x.y"), "x.y", "/")
    assert not matches(rule("r", domain="*.x.y"), "ax.y", "/")
    assert matches(rule("r", path="/a"), "h", "/a")
    assert not matches(rule("r", path="/a"), "h", "/a/")
    assert not matches(rule("r", url="/a"), "h", "/ab")


def test_what_two_rules_ask() -> None:
    one = rule("a", domain="X.y", methods=("GET", "PUT"), headers=(Condition("X-A", ("1", "2")), Condition("b")))
    two = rule("b", domain="x.y", methods=("PUT", "GET"), headers=(Condition("B"), Condition("x-a", ("2", "1"))))
    assert asked(one) == asked(two)
    assert asked(rule("a", path="/x")) != asked(rule("a", url="/x"))
    assert asked(rule("a", pattern="/*")) != asked(rule("a"))
    assert asked(rule("a", queries=(Condition("x"),))) != asked(rule("a", queries=(Condition("X"),)))


def test_hidden_rules() -> None:
    wide = rule("wide", domain="*.x.y", url="/a", priority=5)
    assert list(hidden([rule("narrow", domain="b.a.x.y", path="/a/b", headers=(Condition("h"),)), wide])) == [
        (rule("narrow", domain="b.a.x.y", path="/a/b", headers=(Condition("h"),)), wide)
    ]
    assert list(hidden([wide, rule("not", domain="x.y", url="/a"), rule("nor", domain="b.x.y", url="/")])) == []
    for asking in (rule("asking", priority=5, methods=("GET",)), rule("asking", priority=5, pattern="/*/x")):
        assert list(hidden([asking, rule("narrow", path="/a")])) == []
    assert list(hidden([rule("a"), rule("b")])) == [(rule("b"), rule("a"))]
    assert list(hidden([rule("a"), rule("b", priority=9)])) == [(rule("a"), rule("b", priority=9))]


@settings(max_examples=300, deadline=None)
@given(rules(), st.sampled_from(["GET", "POST"]), st.sets(st.sampled_from(["x", "y"])))
def test_hidden_rules_never_win(made: list[Rule], method: str, fields: set[str]) -> None:
    """Whatever request comes."""

    def holds(rule: Rule) -> bool:
        return method in (rule.methods or (method,)) and {each.name.lower() for each in rule.headers} <= fields

    gone = {rule.name for rule, _ in hidden(made)}
    for name in NAMES:
        for path in PATHS:
            winner = first(made, name, path, holds)
            assert winner is None or winner.name not in gone
