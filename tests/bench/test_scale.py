"""The calculation of docs/scale.md: its numbers are the protocol's, and the tables behave as the page says."""

from pathlib import Path

from bench import scale
from l4fast import sync_codec

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_bytes_are_those_of_the_protocol() -> None:
    udp_ip_ethernet = 8 + 20 + 14 + 4
    assert sync_codec.HEADER_SIZE + sync_codec.TAG_SIZE + udp_ip_ethernet == scale.DATAGRAM_BYTES
    assert sync_codec.MAX_BODY // scale.RECORD_BYTES == scale.RECORDS


def test_nobody_elses_flows_move_when_servers_go() -> None:
    rows = {row.name: row for row in scale.run(quick=True)}
    for count in (1, 10, 100):
        row = rows[f"maglev, {count} of 1000 servers lost: others' flows moved"]
        assert row.value == 0
        assert row.against_value is not None
        assert row.against_value > 0


def test_routers_move_as_their_kind_does() -> None:
    assert scale.node_lost(scale.modulo) > 0.95
    assert 0.2 < scale.node_lost(scale.regions) < 0.5
    assert scale.node_lost(scale.resilient) == 0


def test_the_page_has_the_figures_that_are_calculated() -> None:
    text = PAGE.read_text()
    assert f"{scale.sync_mbit_s(scale.SESSIONS):.0f} Mbit/s" in text
    assert f"{scale.SESSIONS / scale.REFRESH_S:,.0f} records" in text


def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    scale.draw(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"scale-nodes.svg", "scale-servers.svg"}
