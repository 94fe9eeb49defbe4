import io
import json

from deploy.demo.story import WIDTH, Story


def told(*, colour: bool, as_json: bool, failures: list[str]) -> str:
    out = io.StringIO()
    story = Story(out, as_json=as_json, colour=colour)
    story.chapter("A chapter")
    story.line("word " * 50)
    story.path("HTTPS", ["client:65535", "VIP:443", "l4-1", "l7-1", "be-1", "l7-1", "client"], "status 200")
    story.fact("https", {"server": "be-1"})
    story.end(failures)
    return out.getvalue()


def test_lines_fit_and_are_plain() -> None:
    text = told(colour=False, as_json=False, failures=[])
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "\033" not in text
    assert "A chapter" in text
    assert "everything above was checked" in text


def test_colour_is_for_terminals() -> None:
    assert "\033[1mA chapter\033[0m" in told(colour=True, as_json=False, failures=[])


def test_failures_are_told_at_the_end() -> None:
    text = told(colour=False, as_json=False, failures=["web: status 502"])
    assert "NOT SO: web: status 502" in text
    assert "1 of the claims above are not so" in text


def test_scripts_get_one_object_and_nothing_else() -> None:
    document = json.loads(told(colour=True, as_json=True, failures=["x"]))
    assert document["ok"] is False
    assert document["failures"] == ["x"]
    assert document["https"] == {"server": "be-1"}
