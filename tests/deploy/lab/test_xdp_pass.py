import os
import subprocess

import pytest

from deploy.lab import namespaces, xdp_pass
from deploy.lab.topology import Script

NAME = f"pftxp{os.getpid()}"


@pytest.mark.root
def test_the_program_is_attached_in_native_mode_and_passes_packets() -> None:
    other = NAME + "b"
    namespaces.create([NAME, other])
    try:
        here = ("link add e0 type veth peer name e0 netns " + other, "addr add 10.9.9.1/24 dev e0", "link set e0 up")
        there = ("addr add 10.9.9.2/24 dev e0", "link set e0 up")
        namespaces.run_scripts([Script(NAME, here, ())])
        namespaces.run_scripts([Script(other, there, ())])
        xdp_pass.attach(NAME, ["e0"])
        link = subprocess.check_output(["ip", "-n", NAME, "link", "show", "e0"], text=True)
        assert " xdp " in link  # not xdpgeneric
        subprocess.run([*namespaces.enter(other), "ping", "-c1", "-W2", "10.9.9.1"], check=True, capture_output=True)
    finally:
        namespaces.remove([NAME, other])
