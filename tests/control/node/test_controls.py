import pytest

from control.node.controls import Controls, ControlsError


def test_the_next_follows_where_one_fails_and_all_are_waited_for() -> None:
    controls = Controls("https://a:8471, https://b:8471/,https://c:8471")
    assert controls.urls == ("https://a:8471", "https://b:8471", "https://c:8471")
    told = [(controls.failed(), controls.url[8]) for _ in range(6)]
    assert told == [(False, "b"), (False, "c"), (True, "a"), (False, "b"), (False, "c"), (True, "a")]
    assert not controls.failed()
    controls.answered()
    assert controls.url == "https://b:8471", "who answers is followed on"
    assert [controls.failed() for _ in range(3)] == [False, False, True], "and all are tried again before waiting"


def test_one_control_node() -> None:
    controls = Controls("https://a:8471")
    assert controls.failed()
    assert controls.url == "https://a:8471"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", r"^: the control plane's node API is reached by https://HOST:8471"),
        ("http://a", "^http://a: the control plane's"),
        ("https://a,b:8471", "^b:8471: the control plane's"),
        ("https://a,", "^https://a,: the control plane's"),
        ("https://a,https://a/", "give each control node once"),
    ],
)
def test_what_is_no_control_node(text: str, why: str) -> None:
    with pytest.raises(ControlsError, match=why):
        Controls(text)
