"""What `bench config` configures is sound, and its percentiles are those of the definition."""

from __future__ import annotations

import pytest

from bench.config import l4
from bench.config.rows import percentile
from bench.config.site import FIRST_PORT, SIZE, WATCHED, site, watched
from core.config import from_dict
from core.model import Protocol
from core.resolve import l4_services


def test_the_configuration_is_sound_and_as_large_as_its_size() -> None:
    model = from_dict(site(81, 1000))
    counts = [sum(each.protocol is kind for each in model.listeners.values()) for kind in (Protocol.HTTP, Protocol.TCP)]
    assert counts == [500, 500]
    assert len(model.rules) == 1000
    assert sum(len(group.servers) for group in model.server_groups.values()) == 1000 + 1  # and the back end
    assert model.listeners["http-0"].backend_service == "backend"
    assert model.rules[WATCHED].fixed_reply is not None
    assert watched(7)["fixed_reply"] == {"body": "7"}
    assert FIRST_PORT + SIZE // 2 < 32_768  # below the ports that connections take


def test_an_l4_nodes_configuration_is_sound_and_one_weight_of_it_changes() -> None:
    model = from_dict(l4.site())
    (before, after) = l4_services(model), l4_services(l4.weighed(model, 7))
    assert sum(len(each.reals) for each in before) == SIZE
    changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    assert [[real.weight for real in each.reals][:2] for each in changed[0]] == [[100, 100], [7, 100]]
    assert len(changed) == 1


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0], 0.99, 1.0), ([float(n) for n in range(1, 101)], 0.99, 99.0)],
    ids=["median", "one", "p99"],
)
def test_percentiles(values: list[float], share: float, found: float) -> None:
    assert percentile(values, share) == found
