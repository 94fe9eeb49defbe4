"""Domain extensions: further certificates of an https listener, by the name that clients ask for. Pure."""

from __future__ import annotations

from control.alibaba import balancers, marks
from control.alibaba.call import Action, Answer, Call, Draft
from control.alibaba.errors import SlbError, denied, invalid, no_certificate
from control.alibaba.parameters import number, text
from control.cloud.certificates import covers, names_of
from control.cloud.extensions import Extension, Extensions
from core.model import Listener, Model, Protocol

EXTENSIONS = Extensions("de")


def row(extension: Extension) -> dict[str, object]:
    return {
        "DomainExtensionId": extension.id, "Domain": extension.domain, "ServerCertificateId": extension.certificate,
    }  # fmt: skip


def _find(model: Model, identity: str) -> tuple[Listener, Extension]:
    for listener in model.listeners.values():
        for each in EXTENSIONS.of_listener(model, listener):
            if each.id == identity:
                return listener, each
    raise SlbError("InvalidParameter.DomainExtensionId", 400, f"There is no domain extension {identity!r}.")


def create(call: Call, draft: Draft) -> Answer:
    given, model = call.given, draft.model
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    listener = balancer.listener(model, Protocol.HTTPS, given.number("ListenerPort", 0))
    domain = given.text("Domain").lower()
    if any(each.domain == domain for each in EXTENSIONS.of_listener(model, listener)):
        raise SlbError("DomainExtensionExist", 400, f"There is a domain extension for {domain} already.")
    identity = call.identity("de")
    _put(draft, listener, identity, domain, given.text("ServerCertificateId"))
    return {"DomainExtensionId": identity, "ListenerPort": listener.port}


def _put(draft: Draft, listener: Listener, identity: str, domain: str, certificate: str) -> None:
    """Raises SlbError."""
    held = draft.model.certificates.get(certificate)
    if held is None:
        raise no_certificate(certificate)
    if not covers(held, domain):
        raise invalid("Domain", f"a name in the certificate is: {', '.join(names_of(held))[:300]}")
    after = EXTENSIONS.put(listener, Extension(identity, domain, certificate))
    if len(after.tags) > marks.MOST:
        raise denied(f"An object has at most {marks.MOST} tags, those of its own included.")
    draft.put(after)


def change(call: Call, draft: Draft) -> Answer:
    listener, extension = _find(draft.model, call.given.text("DomainExtensionId"))
    _put(
        draft,
        EXTENSIONS.without_alone(listener, extension),
        extension.id,
        extension.domain,
        call.given.text("ServerCertificateId"),
    )
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    listener, extension = _find(draft.model, call.given.text("DomainExtensionId"))
    draft.put(EXTENSIONS.remove(listener, extension))
    return {}


def describe(call: Call, model: Model) -> Answer:
    given = call.given
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    listener = balancer.listener(model, Protocol.HTTPS, given.number("ListenerPort", 0))
    rows = [
        row(each)
        for each in EXTENSIONS.of_listener(model, listener)
        if given.text("DomainExtensionId", each.id) == each.id
    ]
    return {"DomainExtensions": {"DomainExtension": rows}}


def describe_one(call: Call, model: Model) -> Answer:
    listener, extension = _find(model, call.given.text("DomainExtensionId"))
    balancer = balancers.of_listener(model, listener)
    return {**row(extension), "LoadBalancerId": balancer.id, "ListenerPort": listener.port}


_ONE = text("DomainExtensionId", 80, required=True)
_PLACE = (text("LoadBalancerId", 80, required=True), number("ListenerPort", 1, 65535, required=True))
_CERTIFICATE = text("ServerCertificateId", 80, required=True)
ACTIONS = (
    Action(
        "CreateDomainExtension", (*_PLACE, text("Domain", 160, required=True), _CERTIFICATE), change=create,
        partly="the name has to stand in the certificate; as many as a listener has room for tags (some 18)",
    ),
    Action("SetDomainExtensionAttribute", (_ONE, _CERTIFICATE), change=change),
    Action("DeleteDomainExtension", (_ONE,), change=delete),
    Action("DescribeDomainExtensions", (*_PLACE, text("DomainExtensionId", 80)), look=describe),
    Action("DescribeDomainExtensionAttribute", (_ONE,), look=describe_one),
)  # fmt: skip
