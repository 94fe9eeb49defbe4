from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab import announced, bird, processes
from deploy.lab.topology import Topology

ROOT = Path("/run/paifang-lab/pf")

ROUTER = """\
log stderr { info, remote, warning, error, auth, fatal, bug };
router id 10.81.0.1;
protocol device { scan time 1; }
protocol bfd { interface "eth0" { interval 100 ms; multiplier 3; }; }
protocol kernel main4 { ipv4 { import none; export all; }; merge paths on; }
ipv4 table answers4;
protocol kernel to_answers4 { kernel table 101; ipv4 { table answers4; import none; export all; }; }
protocol static default4 { ipv4 { table answers4; }; igp table master4; route 0.0.0.0/0 recursive 10.81.2.100; }
protocol kernel main6 { ipv6 { import none; export all; }; merge paths on; }
ipv6 table answers6;
protocol kernel to_answers6 { kernel table 101; ipv6 { table answers6; import none; export all; }; }
protocol static default6 { ipv6 { table answers6; }; igp table master6; route ::/0 recursive fd81:0:0:2::100; }
"""
PEERS = [
    "protocol bgp l4_1_v4 { local 10.81.0.1 as 65000; neighbor 10.81.0.11 as 65001; ",
    "protocol bgp l4_1_v6 { local fd81::1 as 65000; neighbor fd81::11 as 65001; ",
    "protocol bgp l4_2_v4 { local 10.81.0.1 as 65000; neighbor 10.81.0.12 as 65002; ",
    "protocol bgp l4_2_v6 { local fd81::1 as 65000; neighbor fd81::12 as 65002; ",
]


def test_the_routers_bird() -> None:
    text = announced.router_configuration(Topology("pf", vip="bgp"))
    assert text.startswith(ROUTER)
    lines = text.removeprefix(ROUTER).splitlines()
    assert [line.partition("bfd on; ")[0] for line in lines] == PEERS
    assert lines[1].endswith(
        "hold time 9; connect delay time 1; error wait time 1, 5; ipv6 { import all; export none; }; }"
    )


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("static", ["--vip", "static"]),
        ("vrrp", ["--vip", "vrrp"]),
        ("bgp", ["--vip", "bgp", "--bgp-as", "65002", "--bgp-neighbour", "10.81.0.1", "65000", "--bgp-neighbour",
                 "fd81::1", "65000"]),
    ],
)  # fmt: skip
def test_what_the_nodes_are_told(method: str, words: list[str]) -> None:
    topology = Topology("pf", vip=method)  # type: ignore[arg-type]
    argv = processes.of(topology, ROOT, "both")["l4-2"].argv
    assert list(argv[argv.index("--vip") :]) == words


def test_who_watches_the_nodes() -> None:
    def runs(method: str) -> object:
        made = processes.of(Topology("pf", vip=method), ROOT, "both")  # type: ignore[arg-type]
        return made["router"].argv[2] if "router" in made else None

    assert [runs(method) for method in ("static", "vrrp", "bgp")] == ["deploy.lab.router", None, "deploy.lab.bird"]


def test_a_bird_that_is_not_there_does_not_answer(tmp_path: Path) -> None:
    assert not bird.answers(tmp_path / bird.SOCKET)
