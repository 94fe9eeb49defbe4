from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import Authority, key_id
from keyserver.acme_plan import (
    RETRY_S,
    Attempts,
    Challenge,
    Plan,
    Wanted,
    challenge,
    impossible,
    reason,
    renewal,
    wanted,
)
from tests.certs.test_chain import LEAF_KEY, NOW, leaf, pem

KEY = key_id(LEAF_KEY.public_key()).hex()
DAY = timedelta(days=1)
NAMES = ("a.test", "*.a.test")
CHAIN = pem(leaf(days=(-60, 30)))


def test_what_is_looked_after() -> None:
    config = {"certificates": [{"name": "own", "chain": "x"}, {"name": "got", "domains": ["a.test"], "chain": "y"}]}
    assert wanted(config) == (Wanted("got", ("a.test",), "y"),)
    assert wanted({}) == ()


def test_a_listener_may_lead_handshakes_here() -> None:
    config = {
        "certificates": [{"name": name, "domains": ["a.test"]} for name in ("led", "not")],
        "listeners": [
            {"name": "x", "certificates": ["led"], "acme_backend_service": "acme"},
            {"name": "y", "certificates": ["led", "not"]},
            {"name": "z"},
        ],
    }
    led, other = wanted(config)
    assert (led.led, other.led) == (True, False)
    both = frozenset(Challenge)
    assert challenge(led, both) is Challenge.TLS_ALPN_01
    assert challenge(other, both) is Challenge.HTTP_01
    assert {challenge(each, {only}) for each in (led, other) for only in both} == both


@pytest.mark.parametrize(
    ("chain", "domains", "key", "later", "why"),
    [
        (CHAIN, NAMES, KEY, -DAY, ""),
        (CHAIN, NAMES[::-1], KEY, -DAY, ""),
        (CHAIN, NAMES, KEY, timedelta(), "a third of its life is left"),
        (CHAIN, NAMES, KEY, 50 * DAY, "a third of its life is left"),
        (CHAIN, ("a.test",), KEY, -DAY, "its names have changed"),
        (CHAIN, NAMES, "00" * 32, -DAY, "it is for another key"),
        ("", NAMES, KEY, -DAY, "there is none yet"),
        ("nonsense", NAMES, KEY, -DAY, "there is none yet"),
    ],
    ids=["fresh", "other order", "a third left", "over", "other names", "other key", "none", "nonsense"],
)
def test_when_it_is_due(chain: str, domains: tuple[str, ...], key: str, later: timedelta, why: str) -> None:
    assert reason(chain, domains, key, NOW + later, None) == why


def test_what_only_stands_in_is_replaced(tmp_path: Path) -> None:
    ours, other = (Authority.init(tmp_path / name) for name in ("ours", "other"))
    chain = ours.issue_leaf(LEAF_KEY.public_key(), ["a.test"]).decode()
    now = datetime.now(UTC)
    for each in (None, other.certificate):
        assert reason(chain, ("a.test",), KEY, now, each) == ""
    assert reason(chain, ("a.test",), KEY, now, ours.certificate) == "a development certificate stands in for it"


def test_the_day_of_the_renewal() -> None:
    assert renewal(CHAIN) == NOW
    assert renewal("nonsense") is None


def test_wildcards_cannot_be_proved() -> None:
    assert impossible(["a.test", "b.test"]) == ""
    assert impossible(["a.test", "*.b.test"]).startswith("*.b.test: ")


def test_delays_grow_up_to_a_day() -> None:
    attempts, delays = Attempts(), []
    for _ in range(9):
        attempts.failed("why", 100.0)
        delays.append(attempts.next_at - 100.0)
    assert delays[:3] == [900.0, 1800.0, 3600.0]
    assert delays[-1] == delays[-2] == RETRY_S[1]


def test_attempts_go_with_their_certificate() -> None:
    plan = Plan()
    plan.of([Wanted("a", ()), Wanted("b", ())])
    plan.attempts["a"].failed("why", 0.0)
    plan.of([Wanted("a", ()), Wanted("c", ())])
    assert {name: each.why for name, each in plan.attempts.items()} == {"a": "why", "c": ""}
    plan.of([])
    plan.of([Wanted("a", ())])
    assert plan.attempts["a"].why == ""
