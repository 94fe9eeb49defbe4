"""Every action of the API, as a table: where it is, what is done, what of it is not, what is refused and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from control.jdcloud import backends, balancers, groups, listeners
from control.jdcloud.call import Action

_RULES = "rules are made by the REST API (docs/api.md)"
_MORE = "listeners of the REST API have further certificates"
_EIP = "there are no elastic IPs here; the VIP is the address"
_SECURITY = "there are no security groups here; listeners have access lists"
_POLICY = "TLS policies are those of the configuration; there are no others to make"
_OWN = "there is no such configuration here; listeners have these settings"

_MAP, _SET = "/urlMaps/{urlMapId}", "/customizedConfigurations/{customizedConfigurationId}"
_LISTENER, _LB = "/listeners/{listenerId}", "/loadBalancers/{loadBalancerId}"
_ONE_POLICY = "/securityPolicies/{securityPolicyId}"
_CANNOT = (
    ("createUrlMap", "POST", "/urlMaps/", _RULES),
    ("updateUrlMap", "PATCH", _MAP, _RULES),
    ("deleteUrlMap", "DELETE", _MAP, _RULES),
    ("describeUrlMap", "GET", _MAP, _RULES),
    ("describeUrlMaps", "GET", "/urlMaps/", _RULES),
    ("addRules", "POST", f"{_MAP}:addRules", _RULES),
    ("updateRules", "PATCH", f"{_MAP}:updateRules", _RULES),
    ("deleteRules", "POST", f"{_MAP}:deleteRules", _RULES),
    ("addListenerCertificates", "POST", f"{_LISTENER}:addListenerCertificates", _MORE),
    ("updateListenerCertificates", "POST", f"{_LISTENER}:updateListenerCertificates", _MORE),
    ("deleteListenerCertificates", "POST", f"{_LISTENER}:deleteListenerCertificates", _MORE),
    ("associateElasticIp", "POST", f"{_LB}:associateElasticIp", _EIP),
    ("disassociateElasticIp", "POST", f"{_LB}:disassociateElasticIp", _EIP),
    ("associateSecurityGroup", "POST", f"{_LB}:associateSecurityGroup", _SECURITY),
    ("disassociateSecurityGroup", "POST", f"{_LB}:disassociateSecurityGroup", _SECURITY),
    (
        "describeLoadBalancersBySecurityGroup", "POST",
        "/loadBalancers/{securityGroupId}:describeLoadBalancersBySecurityGroup", _SECURITY,
    ),
    ("updateAgTargets", "PATCH", "/backends/{backendId}:updateAgTargets",
     "members of availability groups are changed by the REST API"),
    ("createSecurityPolicy", "POST", "/securityPolicies/", _POLICY),
    ("updateSecurityPolicy", "PATCH", _ONE_POLICY, _POLICY),
    ("deleteSecurityPolicy", "DELETE", _ONE_POLICY, _POLICY),
    ("describeSecurityPolicy", "GET", _ONE_POLICY, _POLICY),
    ("describeSecurityPolicies", "GET", "/securityPolicies/", _POLICY),
    ("describeSupportedCiphers", "GET", "/supportedCiphers/", _POLICY),
    ("createCustomizedConfiguration", "POST", "/customizedConfigurations/", _OWN),
    ("updateCustomizedConfiguration", "PATCH", _SET, _OWN),
    ("deleteCustomizedConfiguration", "DELETE", _SET, _OWN),
    ("describeCustomizedConfiguration", "GET", _SET, _OWN),
    ("describeCustomizedConfigurations", "GET", "/customizedConfigurations/", _OWN),
    ("associateCustomizedConfiguration", "POST", f"{_SET}:associateCustomizedConfiguration", _OWN),
    ("disassociateCustomizedConfiguration", "POST", f"{_SET}:disassociateCustomizedConfiguration", _OWN),
)  # fmt: skip

_ALL = (
    *balancers.ACTIONS, *listeners.ACTIONS, *backends.ACTIONS, *groups.ACTIONS,
    *(Action(name, method, path, cannot=why) for name, method, path, why in _CANNOT),
)  # fmt: skip
ACTIONS: Mapping[str, Action] = MappingProxyType({each.name: each for each in sorted(_ALL, key=lambda each: each.name)})
assert len(ACTIONS) == len(_ALL), "an action is there twice"

_VERSION = re.compile(r"/v1/regions/([^/:]+)(/.*)")
_PATHS = {
    each.name: re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[0-9A-Za-z._~-]{1,80})", each.path.removesuffix("/")) + "/?")
    for each in _ALL
}


def route(method: str, path: str) -> tuple[Action, str, Mapping[str, str]] | None:
    """The action of a request, the region, and what the path names; None where there is none."""
    match = _VERSION.fullmatch(re.sub("/+", "/", path))
    if match is None:
        return None
    for action in ACTIONS.values():
        found = _PATHS[action.name].fullmatch(match[2])
        if action.method == method and found is not None:
            return action, match[1], found.groupdict()
    return None
