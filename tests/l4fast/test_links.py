from __future__ import annotations

import os

import pytest

from l4fast import links
from l4fast.loader import DataPlane, XdpMode
from tests.l4fast.netns import Network


def test_a_link_that_is_not_there() -> None:
    assert links.find("pftnone") is None


def test_the_loopback_link() -> None:
    link = links.find("lo")
    assert link is not None
    assert link.program == 0
    assert "127.0.0.1" in links.addresses(link.index)


@pytest.mark.root
@pytest.mark.parametrize("mode", ["generic", "native"])
def test_programs_are_found_and_taken_off(mode: XdpMode) -> None:
    with Network(f"pftl{os.getpid()}") as network:
        network.host(
            "host", "10.77.1.1/24", "addr add 10.77.2.1/32 dev lo", "addr add 2001:db8:77::1/64 dev eth0",
            "addr add 2001:db8:77::2/64 dev eth0 preferred_lft 0", "addr add 2001:db8:77::3/64 dev eth0",
        )  # fmt: skip

        def life() -> None:
            plane = DataPlane.load(sessions=64, half_open=64)
            try:
                plane.attach("eth0", mode)
                link = links.find("eth0")
                assert link is not None
                assert (link.program > 0, link.mode) == (True, mode)
                links.take_off(link)
                after = links.find("eth0")
                assert after is not None
                assert (after.program, after.mode) == (0, "")
                v4, *v6, last = links.addresses(link.index)
                assert (v4, set(v6), last) == ("10.77.1.1", {"2001:db8:77::1", "2001:db8:77::3"}, "2001:db8:77::2")
                assert set(links.addresses()) == {"127.0.0.1", "10.77.1.1", "10.77.2.1", "::1", *v6, last}
            finally:
                plane.close()

        network.inside("host", life)
