import pytest

from core import config
from core.endpoints import version
from core.model import Mode, Protocol
from core.resolve import l4_services
from deploy.lab import model
from deploy.lab.topology import VIP, VIP6, Topology


def build(mode: model.Mode):
    document = model.default(Topology("pf"), mode, "")
    document["certificates"][0]["domains"] = [model.DOMAIN]  # in place of the chain
    return config.from_dict(document)


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("both", {"tcp-nat", "udp-nat", "tcp-dr", "udp-dr"}),
        ("nat", {"tcp-nat", "udp-nat"}),
        ("dr", {"tcp-dr", "udp-dr"}),
        ("fullnat", {"tcp-fullnat", "udp-fullnat"}),
        ("tunnel", {"tcp-tunnel", "udp-tunnel"}),
    ],
)
def test_the_default_is_a_valid_configuration(mode: model.Mode, names: set[str]) -> None:
    made = build(mode)
    assert made.listeners.keys() == names | {"http", "https"}
    for name in names:
        assert made.listeners[name].mode is Mode(name.partition("-")[2])
        assert made.listeners[name].protocol is Protocol(name.partition("-")[0])


def test_all_traffic_enters_by_the_vips_and_reaches_every_server() -> None:
    services = l4_services(build("both"))
    assert [service.vip for service in services] == [VIP, VIP6] * 6
    for service in services:
        assert len(service.reals) == (2 if service.listener.startswith("http") else 3)
        assert {version(real.address) for real in service.reals} == {version(service.vip)}


def test_direct_routing_keeps_the_port() -> None:
    for service in (*l4_services(build("both")), *l4_services(build("tunnel"))):
        if service.mode in (Mode.DR, Mode.TUNNEL):
            assert {real.port for real in service.reals} == {service.port}
