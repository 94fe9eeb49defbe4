"""What the pages on the control plane and on the first steps show is true."""

import re
from pathlib import Path

import pytest

from control.api import ROUTES
from core.config import load
from core.errors import ConfigErrors
from core.model import Kind

DOCS = Path(__file__).parents[2] / "docs"
FIRST_STEPS = (DOCS / "first-steps.md").read_text()
API = "\n".join(page.read_text() for page in sorted(DOCS.glob("*.md")))


@pytest.mark.parametrize("text", re.findall(r"(?s)(?:```toml\n|<<'END'\n)(.*?)(?:```|END\n)", FIRST_STEPS))
def test_configurations_are_valid(text: str) -> None:
    assert load(text, path="doc", format="toml").listeners


def test_the_error_shown_is_the_one_given() -> None:
    shown = next(line for line in FIRST_STEPS.splitlines() if line.startswith("front.toml:3: "))
    text = '[[listeners]]\nprotocol = "https"\nport = 84430\ndomains = ["localhost"]\nservers = ["127.0.0.1:8000"]\n'
    with pytest.raises(ConfigErrors) as caught:
        load(text, path="front.toml", format="toml")
    assert str(caught.value) == shown


def test_every_route_is_described() -> None:
    kind = re.compile(rf"/v1/({'|'.join(Kind)})(?=/|$)")
    routes = {kind.sub("/v1/{kind}", route.path) for route in ROUTES}
    described = {path.split("?")[0] for path in re.findall(r"`(?:[A-Z`, ]+ )?(/v1/[^` ]*)", API)}
    spelled = {
        path.replace("<kind>", "{kind}").replace("<name>", "{name}").replace("<n>", "{version}") for path in described
    }
    assert routes <= spelled
    assert " ".join(Kind) in API
