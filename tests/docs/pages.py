"""Every block of every page belongs to a test.

A configuration is loaded by the reader of its kind (test_blocks.py). Commands are run by the test that follows their
page: `with follow("nodes.md") as page:` fails at its end if a block of the page was neither taken nor is one that
ELSEWHERE gives to another test. ELSEWHERE is checked too: the test that it names has to be there and to contain the
words. What no machine of ours has, and what is still owed, are lists of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.docs.blocks import ROOT, Block, Step, blocks


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A block that another test runs: `begin` is in it, `words` are in the test (quotes, commas and brackets apart)."""

    page: str
    begin: str
    test: str
    words: tuple[str, ...]


ELSEWHERE: Final = (
    Elsewhere("README.md", "make demo", "tests/e2e/test_demo.py::test_the_demonstration_holds", ("deploy.demo",)),
    Elsewhere(
        "README.md",
        "pip install .",
        "tests/e2e/test_plain_install.py::bin_dir",
        ('"/usr/bin/python3", "-m", "venv", venv', 'run(venv / "bin" / "pip", "install"'),
    ),
    Elsewhere(
        "first-steps.md",
        "served from now on",
        "tests/control/test_up_acme.py::test_a_certificate_is_got_over_http_and_renewed_without_losing_a_request",
        ("served from now on",),
    ),
    Elsewhere(
        "key-server.md",
        "from keyserver.client import KeyClient",
        "tests/keyserver/test_example.py::test_the_python_example",
        ("exec(code, names)",),
    ),
    Elsewhere(
        "key-server.md",
        "pip install 'paifang[pkcs11]'",
        "tests/keyserver/test_main.py::test_keys_of_a_token",
        ("--pkcs11-module", "--pkcs11-token", "--pkcs11-pin-file"),
    ),
    Elsewhere(
        "redirects.md",
        "/v1/redirect_maps/old-shop/entries",
        "tests/control/test_api_redirects.py::test_the_example_of_the_page",
        ("/v1/redirect_maps/old-shop/entries", '{"put": ["/new-page /newer-page 302"], "remove": ["/about.html"]}'),
    ),
    Elsewhere(
        "canary.md",
        "paifang weigh rules shop v2=5",
        "tests/control/test_cli.py::test_a_canary_grows_and_ends",
        ('"v2=5", "v1=95", "--wait"', '"v2=25", "v1=75", "--wait"', '"v2=0", "v1=100", "--wait"'),
    ),
    Elsewhere(
        "alibaba.md",
        "--alibaba 127.0.0.1:8480",
        "tests/control/alibaba/test_serving.py::test_the_page_is_right",
        ("shlex.split(start)",),
    ),
    Elsewhere(
        "alibaba.md",
        "from alibabacloud_slb20140515.client import Client",
        "tests/control/alibaba/test_serving.py::test_the_page_is_right",
        ("exec(example, names)",),
    ),
    Elsewhere(
        "alibaba.md",
        "paifang token access-key",
        "tests/control/alibaba/test_serving.py::test_the_page_is_right",
        ("control.cli", "token", "access-key"),
    ),
    Elsewhere(
        "jdcloud.md",
        "--jdcloud 127.0.0.1:8481",
        "tests/control/jdcloud/test_serving.py::test_the_page_is_right",
        ("shlex.split(start)",),
    ),
    Elsewhere(
        "jdcloud.md",
        "from jdcloud_sdk.core.config import Config",
        "tests/control/jdcloud/test_serving.py::test_the_page_is_right",
        ("exec(example, names)",),
    ),
    Elsewhere(
        "jdcloud.md",
        "certificates = SslClient(",
        "tests/control/jdcloud/test_serving.py::test_the_page_is_right",
        ("exec(example, names)",),
    ),
    Elsewhere(
        "authentication.md",
        "htpasswd -B -C 10 -c",
        "tests/proxy/test_passwords.py::test_htpasswd_writes_such_files",
        ('"htpasswd", "-B", "-C", "10", "-c"',),
    ),
    Elsewhere(
        "faults.md",
        "-m bench.faults",
        "tests/e2e/test_faults.py::test_every_promise_is_kept",
        ("-m", "bench.faults", "--minutes 3 --only l7 keyserver-killed --seed 7"),
    ),
    Elsewhere(
        "monitoring.md",
        "--traces http://",
        "tests/proxy/test_tracing.py::test_a_node_sends_its_spans",
        ("--traces", "/v1/traces", "--trace-share"),
    ),
    Elsewhere(
        "compose.md",
        "alias dc=",
        "deploy/compose/check.py::traffic",
        ("deploy.lab.client", "tcp", "udp", "--bytes 5000000"),
    ),
    Elsewhere(
        "compose.md",
        "--build --wait",
        "deploy/compose/check.py::check",
        ('"docker", "compose", "-p", project, "-f"', 'stack("build"', '"up", "-d", "--wait"'),
    ),
    Elsewhere(
        "doctor.md",
        "paifang doctor --role l4",
        "tests/control/test_doctor.py::test_an_l4_machine_with_bad_settings",
        ('"control.cli", "doctor"', '"--role", "l4", "--interface"', '"--vip", "vrrp"'),
    ),
    Elsewhere(
        "explain.md",
        "$ paifang explain tcp",
        "tests/e2e/test_lab.py::test_explaining_says_where_connections_go_and_then_where_they_are",
        ('"control.cli", "explain"', 'f"{CLIENT}:4103", f"{VIP}:80", "--live"'),
    ),
    *(
        Elsewhere(
            "installation.md",
            begin,
            "tests/e2e/test_installation.py::install",
            (f'"{begin}"', 'follow("installation.md")', "made.run(step.command)"),
        )
        for begin in ("pip install /usr/src/paifang", "paifang certs init ca", "paifang install control")
    ),
)


# What no machine of a test has. The page says so itself, in these words.
NOT_TO_BE_HAD: Final = {
    ("vip.md", "router bgp 65000"): "As FRR's documentation has it; the tests run against BIRD",
    ("backends.md", "modprobe ipip"): "The kernel of our tests has no ipip; these lines are not run there",
}

# Commands that no test runs yet, by page and a part of the block. A block that is followed must not stand here.
OWED: Final[tuple[tuple[str, str], ...]] = ()


class Page:
    """A page that is followed; what was taken from it counts as run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks = blocks(ROOT / ("README.md" if name == "README.md" else f"docs/{name}"))
        self._taken: set[int] = set()

    def take(self, begin: str) -> Block:
        """The one block with these words, which the caller runs."""
        block = self.block(begin)
        self._taken.add(block.line)
        return block

    def block(self, begin: str) -> Block:
        """The one block with these words; somebody else runs it."""
        (block,) = [block for block in self.blocks if begin in block.text]
        return block

    def first(self, begin: str) -> Block:
        """The first of several blocks with these words."""
        block = next(block for block in self.blocks if begin in block.text)
        self._taken.add(block.line)
        return block

    def steps(self, begin: str) -> list[Step]:
        return self.take(begin).steps

    def has_run(self, begin: str) -> bool:
        return any(begin in block.text and block.line in self._taken for block in self.blocks)

    def left(self) -> list[str]:
        """Blocks that are nobody's."""
        return [str(block) for block in self.blocks if block.line not in self._taken and not has_owner(block)]


@contextmanager
def follow(name: str) -> Iterator[Page]:
    """The page of docs/ of this name, all of whose commands the caller takes."""
    page = Page(name)
    yield page
    assert page.left() == [], "nobody runs these; see tests/docs/pages.py"
    assert [owed for owed in OWED if owed[0] == name and page.has_run(owed[1])] == [], "no longer owed"


def has_owner(block: Block) -> bool:
    """Whether it needs no test that follows its page."""
    return block.drawn or block.language in READERS or bool(entry_of(block) or _said(block))


def _said(block: Block) -> bool:
    """Whether it is said of it that it is not run."""
    return any(block.page == page and begin in block.text for page, begin in (*NOT_TO_BE_HAD, *OWED))


def entry_of(block: Block) -> list[Elsewhere]:
    return [each for each in ELSEWHERE if each.page == block.page and each.begin in block.text]


READERS: Final = ("toml", "yaml")


def words(text: str) -> str:
    """A text without what differs between a command line and a list of strings in a program."""
    return " ".join(re.sub(r"""["'\\,()\[\]]""", " ", text).split())
