"""Security policies: the TLS policies that there are, none can be made. Pure.

Which cipher suites are in a policy is what the L7 nodes say to OpenSSL (proxy/tls_profile.py); a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping

from control.cloud.action import Answer
from control.jdcloud.call import FILTERS, PAGE, Action, Call, listed
from control.jdcloud.errors import absent, invalid
from control.jdcloud.forms import text
from core.model import Model, TlsPolicy

V1_2, V1_3 = "TLSv1.2", "TLSv1.3"
STRICT = (
    "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
)  # fmt: skip
CBC = (
    "ECDHE-ECDSA-AES256-SHA384", "ECDHE-RSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-RSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA",
)  # fmt: skip
OF_1_3 = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256")
POLICIES: Mapping[TlsPolicy, Mapping[str, tuple[str, ...]]] = {
    TlsPolicy.TLS_1_2: {V1_2: (*STRICT, *CBC)},
    TlsPolicy.TLS_1_2_STRICT: {V1_2: STRICT},
    TlsPolicy.TLS_1_2_STRICT_WITH_1_3: {V1_2: STRICT, V1_3: OF_1_3},
    TlsPolicy.TLS_1_3: {V1_3: OF_1_3},
}


def row(model: Model, policy: TlsPolicy) -> dict[str, object]:
    of = POLICIES[policy]
    using = (each for each in model.listeners.values() if each.certificates and each.tls_policy is policy)
    return {
        "securityPolicyId": policy.value, "securityPolicyName": policy.value, "securityPolicyType": "SYSTEM",
        "listenerIds": [each.name for each in using], "protocols": list(of),
        "ciphers": [each for suites in of.values() for each in suites],
    }  # fmt: skip


def describe_one(call: Call, model: Model) -> Answer:
    identity = call.given.text("securityPolicyId")
    if identity not in POLICIES:
        raise absent("SecurityPolicy", identity)
    return {"securityPolicy": row(model, TlsPolicy(identity))}


def describe(call: Call, model: Model) -> Answer:
    filters = {
        "securityPolicyIds": "securityPolicyId", "securityPolicyNames": "securityPolicyName",
        "securityPolicyType": "securityPolicyType",
    }  # fmt: skip
    return listed(call, "securityPolicies", [row(model, each) for each in POLICIES], filters)


def ciphers(call: Call, model: Model) -> Answer:
    """The cipher suites of all policies, each with its protocols."""
    of: dict[str, list[str]] = {}
    for policy in POLICIES.values():
        for protocol, suites in policy.items():
            for suite in suites:
                if protocol not in of.setdefault(suite, []):
                    of[suite].append(protocol)
    rows = [{"cipher": suite, "protocols": protocols} for suite, protocols in of.items()]
    for each in call.given.tables("filters"):
        wanted = set(each.texts("values"))
        match each.text("name"):
            case "ciphers":
                rows = [found for found in rows if found["cipher"] in wanted]
            case "protocols":
                rows = [found for found in rows if wanted & set(found["protocols"])]
            case _:
                raise invalid("filters.name", "protocols, ciphers is")
    return {"supportedCiphers": rows, "totalCount": len(rows)}


ACTIONS = (
    Action(
        "describeSecurityPolicy", "GET", "/securityPolicies/{securityPolicyId}",
        (text("securityPolicyId", required=True),), look=describe_one,
    ),
    Action(
        "describeSecurityPolicies", "GET", "/securityPolicies/", (*PAGE, FILTERS), look=describe, partly="operator eq"
    ),
    Action("describeSupportedCiphers", "GET", "/supportedCiphers/", (FILTERS,), look=ciphers),
)  # fmt: skip
