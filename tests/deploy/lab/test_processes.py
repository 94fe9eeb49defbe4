from pathlib import Path

from deploy.lab import processes
from deploy.lab.topology import Topology

ROOT = Path("/run/paifang-lab/pf")


def test_every_host_but_the_client_runs_one() -> None:
    topology = Topology("pf")
    made = processes.of(topology, ROOT, "both")
    assert set(made) == {host.name for host in topology.hosts()} - {"client"}


def test_who_does_not_touch_the_kernel_is_a_user_of_its_own() -> None:
    made = processes.of(Topology("pf", l4=9, l7=9, keyservers=9, backends=99), ROOT, "both")
    assert {name for name, process in made.items() if process.uid == 0} == {
        "router",
        *(f"l4-{n}" for n in range(1, 10)),
    }
    uids = [process.uid for process in made.values() if process.uid]
    assert len(set(uids)) == len(uids)
    assert all(processes.FIRST_UID <= uid < 61184 for uid in uids)


def test_l7_nodes_know_every_key_server() -> None:
    argv = processes.of(Topology("pf", keyservers=2), ROOT, "both")["l7-2"].argv
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--keyserver"] == [
        "10.81.0.31:8473",
        "10.81.0.32:8473",
    ]


def test_l7_nodes_say_on_both_addresses_whether_they_are_ready() -> None:
    argv = processes.of(Topology("pf"), ROOT, "both")["l7-1"].argv
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--ready"] == ["10.81.0.21:8472", "[fd81::21]:8472"]


def test_the_router_keeps_its_own_next_hops_and_the_servers() -> None:
    argv = processes.of(Topology("pf", backends=2), ROOT, "both")["router"].argv
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--namespace"] == ["pf-router", "pf-be-1", "pf-be-2"]


def test_servers_listen_for_the_listeners_there_are() -> None:
    words = " ".join(processes.of(Topology("pf"), ROOT, "dr")["be-1"].argv)
    assert "--http 8080 --tcp 5001 --udp 5301" in words
    assert "9000" not in words


def test_servers_of_mode_tunnel_open_packets_of_the_l4_nodes() -> None:
    made = processes.of(Topology("pf", backends=2, xdp="generic"), ROOT, "tunnel")
    assert {name for name in made if name.startswith("be-")} == {"be-1", "be-1-decap", "be-2", "be-2-decap"}
    decap = made["be-1-decap"]
    assert (decap.uid, decap.host.name, decap.directory) == (0, "be-1", ROOT / "be-1-decap")
    words = "--vip 10.81.2.100 fd81:0:0:2::100 --from 10.81.0.11 fd81::11 10.81.0.12 fd81::12 --xdp generic"
    assert " ".join(decap.argv).endswith(words)


def test_rights_are_dropped() -> None:
    assert processes.confinement(0, others_may_run_us=True) == []
    full = processes.confinement(61007, others_may_run_us=True)
    assert {"--reuid=61007", "--clear-groups", "--bounding-set=-all", "--no-new-privs"} <= set(full)
    root = processes.confinement(61007, others_may_run_us=False)
    assert "--bounding-set=-all" in root
    assert not any("uid" in word for word in root)


def test_a_private_directory_above_closes_everything_below(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for directory in (tmp_path, tmp_path / "a", inner):
        directory.chmod(0o755)
    outside = all(parent.stat().st_mode & 1 for parent in tmp_path.parents)
    assert processes.open_to_others(inner) is outside
    (tmp_path / "a").chmod(0o700)
    assert not processes.open_to_others(inner)
