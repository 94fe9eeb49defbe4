"""What is refused, in the words of Alibaba Cloud's API: a code, a status and a message.

Codes of the gateway are those of its documentation. Those of single actions that Terraform's provider looks for were
compared with its source (service_alicloud_slb.go): it sees by them that a load balancer, listener, VServer group, rule,
access list or domain extension is gone. Pure.
"""

from __future__ import annotations

from control.cloud.errors import CloudError


class SlbError(CloudError):
    """A request that is refused."""

    def __init__(self, code: str, status: int, message: str) -> None:
        super().__init__(status, code, message)


def invalid(name: str, why: str) -> SlbError:
    """A parameter that is not what it may be."""
    return SlbError("InvalidParameter", 400, f"The specified parameter {name} is not valid: {why}.")


def missing(name: str) -> SlbError:
    """A parameter that has to be given."""
    return SlbError(f"MissingParameter.{name}", 400, f"The parameter {name} is mandatory for this action.")


def unsupported(name: str, why: str) -> SlbError:
    """A parameter of the API that means something which there is not here."""
    return SlbError("UnsupportedParameter", 400, f"The parameter {name} is not supported here: {why}.")


def denied(why: str) -> SlbError:
    """What the state of things does not allow."""
    return SlbError("OperationDenied", 400, why)


def no_balancer(identity: str) -> SlbError:
    return SlbError("InvalidLoadBalancerId.NotFound", 404, f"The specified LoadBalancerId {identity!r} does not exist.")


def no_listener(protocol: str, port: int) -> SlbError:
    text = f"The specified resource does not exist: no {protocol} listener on port {port}."
    return SlbError("ListenerNotFound", 404, text)


def no_group(identity: str) -> SlbError:
    return SlbError("InvalidParameter", 400, f"The specified VServerGroupId does not exist: {identity!r}.")


def no_rule(identity: str) -> SlbError:
    return SlbError("InvalidRuleId.NotFound", 404, f"The specified RuleId {identity!r} does not exist.")


def no_acl(identity: str) -> SlbError:
    return SlbError("AclNotExist", 404, f"The specified AclId {identity!r} does not exist.")


def no_certificate(identity: str) -> SlbError:
    text = f"The specified ServerCertificateId {identity!r} does not exist."
    return SlbError("ServerCertificateId.NotFound", 404, text)


def no_ca(identity: str) -> SlbError:
    return SlbError("CACertificateId.NotFound", 404, f"The specified CACertificateId {identity!r} does not exist.")
