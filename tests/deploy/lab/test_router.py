import pytest

from core.health import Change
from deploy.lab.router import Watch, echo_request, sequence_of

NODES = {1: "10.81.0.11", 2: "10.81.0.12"}


def play(results: str) -> str:
    """Node 1's results, one letter a probe ('+' answered, '-' not), while node 2 answers all; its side after each."""
    watch, sides = Watch(NODES), []
    assert watch.judge(0.0) == {}
    for at, result in enumerate(results):
        if result == "+":
            watch.answered(NODES[1], watch.sequence)
        watch.answered(NODES[2], watch.sequence)
        watch.judge(float(at))
        sides.append("u" if 1 in watch.live() else "d")
        assert 2 in watch.live()
    return "".join(sides)


@pytest.mark.parametrize(
    ("results", "sides"),
    [
        ("++++", "uuuu"),
        ("--+--+", "uuuuuu"),
        ("---", "uud"),
        ("---+-++", "uuddddu"),
        ("---++---", "uudduuud"),
    ],
)
def test_three_silences_down_two_answers_up(results: str, sides: str) -> None:
    assert play(results) == sides


def test_late_and_foreign_answers_do_not_count() -> None:
    watch = Watch(NODES)
    watch.judge(0.0)
    changes = {}
    for at in range(3):
        watch.answered(NODES[1], watch.sequence - 1)
        watch.answered("10.81.0.99", watch.sequence)
        changes = watch.judge(float(at))
    assert changes == {1: Change.FAILED, 2: Change.FAILED}
    assert watch.live() == []


def test_sequence_numbers_wrap() -> None:
    watch = Watch(NODES)
    for at in range(70_000):
        watch.judge(float(at))
    assert 0 <= watch.sequence <= 0xFFFF


def test_icmp() -> None:
    request = echo_request(513)
    assert request == bytes.fromhex("0800000000000201")
    assert sequence_of(request) is None
    assert sequence_of(b"\0\0" + request[2:]) == 513
    assert sequence_of(b"\0\0\0") is None
