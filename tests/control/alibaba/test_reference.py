"""The table of the documentation is that of the code, and knows every action of both SDKs."""

from __future__ import annotations

import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from alibabacloud_slb20140515.client import Client
from aliyunsdkslb.request import v20140515

from control.alibaba.actions import ACTIONS
from control.alibaba.call import Action
from control.cloud.reference import rows
from tests.control.alibaba.conftest import old_request, snake

PAGE = (Path(__file__).parents[3] / "docs/alibaba.md").read_text()


def test_the_page_has_the_table() -> None:
    assert PAGE.endswith("\n".join(rows(ACTIONS.values())) + "\n")


def actions_of_the_newer() -> set[str]:
    """Every action that a method of the client calls."""
    source = inspect.getsource(Client)
    return set(re.findall(r"action = '(\w+)'", source))


def actions_of_the_older() -> set[str]:
    """Every request class."""
    names = [each.name for each in pkgutil.iter_modules(v20140515.__path__)]
    return {name.removesuffix("Request") for name in names}


def test_every_action_of_both_sdks_is_in_the_table() -> None:
    assert set(ACTIONS) == actions_of_the_newer() == actions_of_the_older()


# Of all actions: whose account it is. There is one.
ACCOUNTS = {"OwnerId", "OwnerAccount", "ResourceOwnerId", "ResourceOwnerAccount"}
OF_EVERY_ACTION = {"RegionId"}
# What the SDKs know and the documentation does not: `access_key_id` of MoveResourceGroup is refused with the action.


def parameters_of_the_newer(action: str) -> set[str]:
    source = inspect.getsource(getattr(Client, f"{snake(action)}_with_options"))
    return set(re.findall(r"(?:query|body)\['(\w+)'\]", source))


def parameters_of_the_older(action: str) -> set[str]:
    source = inspect.getsource(type(old_request(action)))
    found = re.findall(r"add_(?:query|body)_param\(\s*'([\w]+)", source)
    return set(found)


@pytest.mark.parametrize("action", [each for each in ACTIONS.values() if not each.cannot], ids=lambda each: each.name)
def test_every_parameter_of_both_sdks_is_read_or_refused(action: Action) -> None:
    """None of them is unknown; and there are none that no SDK can give."""
    sdks = parameters_of_the_newer(action.name) | parameters_of_the_older(action.name)
    known = {each.name for each in action.parameters}
    assert known >= sdks - ACCOUNTS - OF_EVERY_ACTION
    assert known <= sdks


def test_the_parameters_are_found() -> None:
    """The tests above compare something."""
    assert "HealthCheckURI" in parameters_of_the_newer("CreateLoadBalancerHTTPListener")
    assert "HealthCheckURI" in parameters_of_the_older("CreateLoadBalancerHTTPListener")
    assert len(actions_of_the_older()) > 90
