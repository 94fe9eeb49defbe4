"""Every action of the API 2014-05-15, as a table: what is done, what of it is not, what is refused and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from control.alibaba import (
    access_lists,
    backends,
    certificates,
    domains,
    health,
    instances,
    listeners,
    regions,
    rules,
    tagging,
)
from control.alibaba.call import Action

VERSION = "2014-05-15"

_CIPHERS = "cipher suites are those of the TLS policies; there are no others to choose"
_MASTER = "there are no master-slave groups here; weight 0 keeps a server in reserve by hand"
_BILL = "nothing is billed here"
_LOGS = "nodes write their own access logs (docs/proxy.md)"
_MONITOR = "metrics are Prometheus' (docs/metrics.md)"
CANNOT = MappingProxyType(
    {
        "CreateMasterSlaveServerGroup": _MASTER, "DeleteMasterSlaveServerGroup": _MASTER,
        "DescribeMasterSlaveServerGroupAttribute": _MASTER, "DescribeMasterSlaveServerGroups": _MASTER,
        "CreateTLSCipherPolicy": _CIPHERS, "DeleteTLSCipherPolicy": _CIPHERS, "ListTLSCipherPolicies": _CIPHERS,
        "SetTLSCipherPolicyAttribute": _CIPHERS,
        "ModifyLoadBalancerInstanceChargeType": _BILL, "ModifyLoadBalancerPayType": _BILL,
        "ModifyLoadBalancerInstanceSpec": "an instance has what the nodes have, and no specification",
        "MoveResourceGroup": "there are no resource groups here",
        "SetAccessLogsDownloadAttribute": _LOGS, "DeleteAccessLogsDownloadAttribute": _LOGS,
        "DescribeAccessLogsDownloadAttribute": _LOGS,
        "EnableHighDefinationMonitor": _MONITOR, "ModifyHighDefinationMonitor": _MONITOR,
        "DescribeHighDefinationMonitor": _MONITOR,
    }
)  # fmt: skip

_ALL = (
    *instances.ACTIONS, *listeners.ACTIONS, *backends.ACTIONS, *domains.ACTIONS, *regions.ACTIONS,
    *rules.ACTIONS, *certificates.ACTIONS, *access_lists.ACTIONS, *tagging.ACTIONS, *health.ACTIONS,
    *(Action(name, cannot=why) for name, why in CANNOT.items()),
)  # fmt: skip
ACTIONS: Mapping[str, Action] = MappingProxyType({each.name: each for each in sorted(_ALL, key=lambda each: each.name)})
assert len(ACTIONS) == len(_ALL), "an action is there twice"
