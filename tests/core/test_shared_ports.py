"""Whom answers from a server's port may be for, in nat with several L4 nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.model import (
    BackendProtocol,
    BackendService,
    Instance,
    InstanceType,
    Listener,
    Mode,
    Model,
    Node,
    Protocol,
    Role,
    Server,
    ServerGroup,
)
from core.shared_ports import shared

ONE = Listener("one", "wire", Protocol.UDP, 53, "dns")
TWO = Listener("two", "wire", Protocol.UDP, 5353, "dns")


def model(*listeners: Listener, nodes: int = 3, vips: tuple[str, ...] = ("192.0.2.1", "2001:db8::1")) -> Model:
    members = (Server("10.0.0.1", 53), Server("fd00::1", 53))
    kinds = {"dns": BackendProtocol.UDP, "other": BackendProtocol.TCP}
    return Model(
        nodes={f"l4-{each}": Node(f"l4-{each}", Role.L4, f"10.0.1.{each}") for each in range(nodes)},
        server_groups={"dns": ServerGroup("dns", members)},
        backend_services={name: BackendService(name, kind, server_group="dns") for name, kind in kinds.items()},
        instances={"wire": Instance("wire", InstanceType.NLB, vips)},
        listeners={each.name: each for each in listeners},
    )


def test_two_listeners_and_one_port() -> None:
    why = (
        "answers from 10.0.0.1:53 to 192.0.2.1 may be for one of 192.0.2.1 too: of 3 L4 nodes, those that do not know "
        "the client drop them"
    )
    assert list(shared(model(ONE, TWO))) == [("two", why)]


def test_one_listener_and_two_vips() -> None:
    ((name, why),) = shared(model(ONE, vips=("192.0.2.1", "192.0.2.2")))
    assert name == "one"
    assert "to 192.0.2.2 may be for its own 192.0.2.1 too" in why


@pytest.mark.parametrize(
    "clear",
    [
        model(ONE),
        model(ONE, TWO, nodes=1),
        model(ONE, replace(TWO, mode=Mode.FULLNAT)),
        model(ONE, replace(TWO, enabled=False)),
        model(ONE, replace(TWO, protocol=Protocol.TCP, backend_service="other")),
    ],
    ids=["alone", "node", "fullnat", "stopped", "tcp"],
)
def test_what_is_clear(clear: Model) -> None:
    assert list(shared(clear)) == []
