"""Every action of the API, as a table: where it is, what is done, what of it is not, what is refused and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from control.jdcloud import ags, backends, balancers, certificates, extensions, groups, listeners, policies, url_maps
from control.jdcloud.call import Action

_EIP = "there are no elastic IPs here; the VIP is the address"
_SECURITY = "there are no security groups here; listeners have access lists"
_POLICY = "TLS policies are those of the configuration; there are no others to make"
_OWN = "there is no such configuration here; listeners have these settings"

_SET = "/customizedConfigurations/{customizedConfigurationId}"
_LB = "/loadBalancers/{loadBalancerId}"
_ONE_POLICY = "/securityPolicies/{securityPolicyId}"
_CANNOT = (
    ("associateElasticIp", "POST", f"{_LB}:associateElasticIp", _EIP),
    ("disassociateElasticIp", "POST", f"{_LB}:disassociateElasticIp", _EIP),
    ("associateSecurityGroup", "POST", f"{_LB}:associateSecurityGroup", _SECURITY),
    ("disassociateSecurityGroup", "POST", f"{_LB}:disassociateSecurityGroup", _SECURITY),
    (
        "describeLoadBalancersBySecurityGroup", "POST",
        "/loadBalancers/{securityGroupId}:describeLoadBalancersBySecurityGroup", _SECURITY,
    ),
    ("createSecurityPolicy", "POST", "/securityPolicies/", _POLICY),
    ("updateSecurityPolicy", "PATCH", _ONE_POLICY, _POLICY),
    ("deleteSecurityPolicy", "DELETE", _ONE_POLICY, _POLICY),
    ("createCustomizedConfiguration", "POST", "/customizedConfigurations/", _OWN),
    ("updateCustomizedConfiguration", "PATCH", _SET, _OWN),
    ("deleteCustomizedConfiguration", "DELETE", _SET, _OWN),
    ("describeCustomizedConfiguration", "GET", _SET, _OWN),
    ("describeCustomizedConfigurations", "GET", "/customizedConfigurations/", _OWN),
    ("associateCustomizedConfiguration", "POST", f"{_SET}:associateCustomizedConfiguration", _OWN),
    ("disassociateCustomizedConfiguration", "POST", f"{_SET}:disassociateCustomizedConfiguration", _OWN),
)  # fmt: skip

_ALL = (
    *balancers.ACTIONS, *listeners.ACTIONS, *backends.ACTIONS, *groups.ACTIONS, *url_maps.ACTIONS, *extensions.ACTIONS,
    *policies.ACTIONS, *ags.ACTIONS, *certificates.ACTIONS,
    *(Action(name, method, path, cannot=why) for name, method, path, why in _CANNOT),
)  # fmt: skip
ACTIONS: Mapping[str, Action] = MappingProxyType({each.name: each for each in sorted(_ALL, key=lambda each: each.name)})
assert len(ACTIONS) == len(_ALL), "an action is there twice"

_VERSION = re.compile(r"/v1(?:/regions/([^/:]+))?(/.*)")
_PATHS = {
    each.name: re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[0-9A-Za-z._~-]{1,80})", each.path.removesuffix("/")) + "/?")
    for each in _ALL
}


def route(method: str, path: str) -> tuple[Action, str | None, Mapping[str, str]] | None:
    """The action of a request, the region, and what the path names; None where there is none. Certificates are of no
    region.
    """
    match = _VERSION.fullmatch(re.sub("/+", "/", path))
    if match is None:
        return None
    for action in ACTIONS.values():
        found = _PATHS[action.name].fullmatch(match[2])
        if action.method == method and found is not None and (match[1] is None) is (action.service == "ssl"):
            return action, match[1], found.groupdict()
    return None
