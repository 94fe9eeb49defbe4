"""The pages about one machine: what the README and the first steps say is done, in their order, and happens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.machine import Machine, machine
from tests.docs.pages import follow
from tests.docs.shown import agree

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path) as made:
        yield made


def test_the_readme(mine: Machine) -> None:
    """`pip install .` itself is test_plain_install's; here the same command is run with a pip that needs no network."""
    with follow("README.md") as page:
        mine.run("mkdir -p venv/bin && ln -s $(dirname $(which paifang))/paifang venv/bin/")
        mine.write("front.toml", page.take('protocol = "https"').text)
        application, check, up = page.steps("venv/bin/paifang check")
        mine.leave_running(application.command.replace("&", " "), "")
        assert mine.run(check.command).out.startswith("front.toml: valid")
        mine.leave_running(up.command, "Ctrl-C ends it")
        mine.eventually("curl -sk https://localhost:8443/", "Directory listing")


def test_first_steps(mine: Machine) -> None:
    with follow("first-steps.md") as page:
        application, file, up = page.steps("cat > front.toml")
        mine.leave_running(application.command.replace("&", " "), "")
        mine.run(file.command)
        output = mine.leave_running(up.command, "Ctrl-C ends it")
        said = output.text[output.text.index("LISTENER") :]  # a slow start is told before
        assert agree(page.take("https-8443  https://localhost:8443/").text, said)
        (curl,) = re.findall(r"^  (curl .*)$", output.text, re.M)
        assert "Directory listing" in mine.run(curl).out

        for command in (
            "paifang status",
            "paifang get",
            "paifang get listeners https-8443 -o toml",
            "paifang history 1",
        ):
            mine.run(command)
        mine.run("sed -i 's/8443/84430/' front.toml")
        (check,) = page.steps("84430 is out of range")
        mine.follow(check, code=1)
        assert "84430" in mine.run("paifang reload", code=1).text
        mine.run("sed -i 's/84430/8444/' front.toml; paifang reload")
        mine.run(curl.replace("8443", "8444"))

        unit = page.take("Type=notify").text
        mine.write("/etc/systemd/system/paifang.service", unit)
        mine.run("mkdir -p /opt/paifang/bin && ln -s $(which paifang) /opt/paifang/bin/paifang")
        assert mine.run("systemd-analyze verify /etc/systemd/system/paifang.service").text == ""


EXPLAINED = """
[[nodes]]
name = "l4-1"
role = "l4"
address = "10.0.0.21"

[[nodes]]
name = "l7-1"
role = "l7"
address = "10.0.0.11"

[[instances]]
name = "shop"
vips = ["192.0.2.10"]

[[server_groups]]
name = "app"
servers = [
    { address = "10.0.1.1", port = 8080 },
    { address = "10.0.1.2", port = 8080 },
    { address = "10.0.1.3", port = 8080, weight = 0 },
]

[[backend_services]]
name = "app"
protocol = "http"
server_group = "app"
scheduler = "sh"

[[access_lists]]
name = "bad"
entries = ["198.51.100.0/24"]

[[listeners]]
name = "web"
instance = "shop"
protocol = "http"
port = 80
backend_service = "app"
acl = "black"
access_list = "bad"

[[rules]]
name = "api"
listener = "web"
url = "/api"
headers = [{ name = "X-Beta", values = ["1"] }]
backend_service = "app"

[[rules]]
name = "old"
listener = "web"
path = "/old"
redirect = { path = "/" }
"""


def test_explain(mine: Machine) -> None:
    with follow("explain.md") as page:
        mine.write("site.toml", EXPLAINED)
        (step,) = page.steps("$ paifang explain http")
        mine.follow(step)


def test_installation(mine: Machine) -> None:
    """Identities are made, and the files written: the machine has no systemd that would start anything."""
    with follow("installation.md") as page:
        for step in page.steps("paifang certs init ca"):
            mine.run(step.command)
        mine.run("ip link add eth0 type veth peer name eth1 && ip link set eth0 up")
        for step in page.steps("paifang install control"):
            role = step.command.split()[2]
            mine.run(step.command.replace("--start", "--root there"))
            for file in (f"paifang/{role}.conf", f"systemd/system/paifang-{role}.service"):
                mine.run(f"test -s there/etc/{file}")
