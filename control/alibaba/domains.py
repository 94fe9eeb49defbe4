"""Domain extensions: further certificates of an https listener, by the name that clients ask for. Pure.

Here a listener has a list of certificates, the first for names that none covers, and each is served for the names that
stand in it. An extension names one of these names and its certificate; it is kept in a tag of the listener, so that it
is told as it was made. A certificate that came into the list in another way is told with each of its names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from control.alibaba import balancers, marks
from control.alibaba.call import Action, Answer, Call, Draft, identity_of
from control.alibaba.errors import SlbError, invalid, no_certificate
from control.alibaba.parameters import number, text
from control.alibaba.pem import covers, names_of
from core.model import Listener, Model, Protocol

TAG = "de-"


@dataclass(frozen=True, slots=True)
class Extension:
    """One domain extension."""

    id: str
    domain: str
    certificate: str

    @property
    def row(self) -> dict[str, object]:
        return {"DomainExtensionId": self.id, "Domain": self.domain, "ServerCertificateId": self.certificate}


def of_listener(model: Model, listener: Listener) -> Iterator[Extension]:
    """The extensions of a listener."""
    told = set()
    for identity, value in marks.own_tags(listener.tags, TAG).items():
        domain, _, certificate = value.rpartition(" ")
        if certificate in listener.certificates:
            told.add(certificate)
            yield Extension(identity, domain, certificate)
    for certificate in listener.certificates[1:]:
        if certificate not in told:
            for domain in names_of(model.certificates[certificate]):
                yield Extension(identity_of("de", listener.name, domain, certificate), domain, certificate)


def _find(model: Model, identity: str) -> tuple[Listener, Extension]:
    for listener in model.listeners.values():
        for each in of_listener(model, listener):
            if each.id == identity:
                return listener, each
    raise SlbError("InvalidDomainExtensionId.NotFound", 404, f"There is no domain extension {identity!r}.")


def create(call: Call, draft: Draft) -> Answer:
    given, model = call.given, draft.model
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    listener = balancer.listener(model, Protocol.HTTPS, given.number("ListenerPort", 0))
    domain = given.text("Domain").lower()
    if any(each.domain == domain for each in of_listener(model, listener)):
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
    tags = marks.own_tag(listener.tags, identity, f"{domain} {certificate}")
    listed = (*listener.certificates, *({certificate} - set(listener.certificates)))
    draft.put(_with(listener, tags, listed))


def _with(before: Listener, tags: marks.Tags, listed: tuple[str, ...]) -> Listener:
    """The listener with these, less the certificates that an extension was for and none is any more."""
    was, still = _told(before.tags), _told(tags)
    kept = [each for each in listed[1:] if each in still or each not in was]
    return dataclasses.replace(before, tags=tags, certificates=(listed[0], *kept))


def _told(tags: marks.Tags) -> set[str]:
    """The certificates that the tags name."""
    return {value.rpartition(" ")[2] for value in marks.own_tags(tags, TAG).values()}


def change(call: Call, draft: Draft) -> Answer:
    listener, extension = _find(draft.model, call.given.text("DomainExtensionId"))
    _put(draft, _without(listener, extension), extension.id, extension.domain, call.given.text("ServerCertificateId"))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    listener, extension = _find(draft.model, call.given.text("DomainExtensionId"))
    left = _without(listener, extension)
    draft.put(_with(listener, marks.own_tag(left.tags, extension.id, ""), left.certificates))
    return {}


def _without(listener: Listener, extension: Extension) -> Listener:
    """The listener without the certificate of an extension that stands in the list alone: all of its names go."""
    if extension.id in marks.own_tags(listener.tags, TAG):
        return listener
    left = tuple(each for each in listener.certificates if each != extension.certificate)
    return dataclasses.replace(listener, certificates=left)


def describe(call: Call, model: Model) -> Answer:
    given = call.given
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    listener = balancer.listener(model, Protocol.HTTPS, given.number("ListenerPort", 0))
    rows = [each.row for each in of_listener(model, listener) if given.text("DomainExtensionId", each.id) == each.id]
    return {"DomainExtensions": {"DomainExtension": rows}}


def describe_one(call: Call, model: Model) -> Answer:
    listener, extension = _find(model, call.given.text("DomainExtensionId"))
    balancer = balancers.of_listener(model, listener)
    return {**extension.row, "LoadBalancerId": balancer.id, "ListenerPort": listener.port}


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
