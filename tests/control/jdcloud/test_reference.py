"""The table of the documentation is that of the code, and knows every action and field of the SDK."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jdcloud_sdk.services.ag import apis as ag
from jdcloud_sdk.services.lb import apis as lb
from jdcloud_sdk.services.ssl import apis as ssl

from control.cloud.reference import rows
from control.jdcloud.actions import ACTIONS, route
from control.jdcloud.call import Action
from tests.control.jdcloud.conftest import request_of

PAGE = (Path(__file__).parents[3] / "docs/jdcloud.md").read_text()


def test_the_page_has_the_table() -> None:
    assert PAGE.endswith("\n".join(rows(ACTIONS.values())) + "\n")


@pytest.mark.parametrize(("service", "apis", "least"), [("lb", lb, 50), ("ag", ag, 30), ("ssl", ssl, 6)])
def test_every_action_of_the_sdk_is_in_the_table(service: str, apis: ModuleType, least: int) -> None:
    """Every request class."""
    names = [each.name.removesuffix("Request") for each in pkgutil.iter_modules(apis.__path__)]
    known = {each.name for each in ACTIONS.values() if each.service == service}
    assert known == {name[0].lower() + name[1:] for name in names}
    assert len(known) > least


@pytest.mark.parametrize("action", ACTIONS.values(), ids=lambda each: each.name)
def test_an_action_is_where_the_sdk_has_it(action: Action) -> None:
    request = request_of(action.name)
    region = "" if action.service == "ssl" else "/regions/{regionId}"
    assert (request.method, request.url) == (action.method, f"{region}{action.path}")
    path = request.url.replace("{regionId}", "r").replace("{", "a").replace("}", "")
    found = route(request.method, f"/v1{path}")
    assert found is not None
    assert found[:2] == (action, "r" if region else None)


def fields_of_the_sdk(action: str, service: str) -> set[str]:
    """What its parameters' class takes and sets."""
    name = action[0].upper() + action[1:]
    module = import_module(f"jdcloud_sdk.services.{service}.apis.{name}Request")
    parameters: Any = getattr(module, f"{name}Parameters")
    made = parameters(**dict.fromkeys(list(inspect.signature(parameters).parameters)))
    return set(vars(made))


@pytest.mark.parametrize("action", [each for each in ACTIONS.values() if not each.cannot], ids=lambda each: each.name)
def test_every_field_of_the_sdk_is_read_or_refused(action: Action) -> None:
    """None of them is unknown; and there are none that the SDK cannot give."""
    assert {each.name for each in action.fields} == fields_of_the_sdk(action.name, action.service) - {"regionId"}
