"""What each tier makes of a listener's access list."""

from __future__ import annotations

import pytest

from core.config import from_dict
from core.resolve import l4_services, l7_listeners

LISTED, STRANGER = "198.51.100.200", "198.51.101.0"


@pytest.mark.parametrize(
    ("acl", "entries", "admitted"),
    [
        ("white", ["198.51.100.0/24"], {LISTED}),
        ("white", [], set()),
        ("black", ["198.51.100.0/24"], {STRANGER}),
        ("black", [], {LISTED, STRANGER}),
    ],
)
def test_both_tiers_admit_the_same_clients(acl: str, entries: list[str], admitted: set[str]) -> None:
    listener = {"name": "web", "protocol": "http", "port": 80, "instance": "i", "servers": ["10.0.0.1:80"]}
    model = from_dict({
        "instances": [{"name": "i", "vips": ["192.0.2.1"]}],
        "access_lists": [{"name": "them", "entries": entries}],
        "listeners": [listener | {"acl": acl, "access_list": "them"}],
    })  # fmt: skip
    (service,), (site,) = l4_services(model), l7_listeners(model)
    for access in (service.access, site.access):
        assert access is not None
        assert {client for client in (LISTED, STRANGER) if access.admits(client)} == admitted


def test_without_a_list_nobody_is_asked() -> None:
    model = from_dict({"listeners": [{"protocol": "http", "port": 80, "servers": ["10.0.0.1:80"]}]})
    assert l7_listeners(model)[0].access is None
