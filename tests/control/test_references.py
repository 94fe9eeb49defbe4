import pytest

from control.references import referrers
from core.config import from_dict
from core.model import Kind

MODEL = from_dict(
    {
        "certificates": [{"name": "c1", "domains": ["a.example"]}, {"name": "c2", "domains": ["b.example"]}],
        "server_groups": [{"name": "g", "servers": [{"address": "192.0.2.1", "port": 80}]}],
        "backend_services": [{"name": "b", "protocol": "http", "server_group": "g"}],
        "instances": [{"name": "i"}],
        "listeners": [
            {
                "name": "web", "instance": "i", "protocol": "https", "port": 443, "backend_service": "b",
                "certificates": ["c1", "c2"],
            },
        ],
        "rules": [
            {"name": "r", "listener": "web", "backend_service": "b", "url": "/x"},
            {"name": "s", "listener": "web", "split": [{"backend_service": "b"}]},
        ],
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (Kind.SERVER_GROUPS, "g", [(Kind.BACKEND_SERVICES, "b")]),
        (Kind.BACKEND_SERVICES, "b", [(Kind.LISTENERS, "web"), (Kind.RULES, "r"), (Kind.RULES, "s")]),
        (Kind.CERTIFICATES, "c2", [(Kind.LISTENERS, "web")]),
        (Kind.INSTANCES, "i", [(Kind.LISTENERS, "web")]),
        (Kind.LISTENERS, "web", [(Kind.RULES, "r"), (Kind.RULES, "s")]),
        (Kind.RULES, "r", []),
        (Kind.SERVER_GROUPS, "b", []),
    ],
)
def test_referrers(kind: Kind, name: str, expected: list[tuple[Kind, str]]) -> None:
    assert list(referrers(MODEL, kind, name)) == expected
