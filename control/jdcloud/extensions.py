"""Extension certificates of https listeners. Pure."""

from __future__ import annotations

from control.cloud.action import Answer
from control.cloud.certificates import covers, names_of
from control.cloud.draft import Draft
from control.cloud.extensions import Extension, Extensions
from control.jdcloud.call import Action, Call
from control.jdcloud.errors import absent, conflict, invalid
from control.jdcloud.forms import many, text
from core.model import Listener, Model, Protocol

EXTENSIONS = Extensions("bind")


def _find(model: Model, identity: str) -> Listener:
    """Raises JdError."""
    if identity not in model.listeners:
        raise absent("Listener", identity)
    item = model.listeners[identity]
    if item.protocol is not Protocol.HTTPS:
        raise conflict(f"Listener {identity!r} is not of Https.")
    return item


def _bound(model: Model, item: Listener, identity: str) -> Extension:
    """Raises JdError."""
    for each in EXTENSIONS.of_listener(model, item):
        if each.id == identity:
            return each
    raise absent("Certificate binding", identity)


def _checked(model: Model, item: Listener, new: Extension) -> Extension:
    """Raises JdError."""
    held = model.certificates.get(new.certificate)
    if held is None:
        raise absent("Certificate", new.certificate)
    if not covers(held, new.domain):
        raise invalid("certificates.domain", f"a name in the certificate is: {', '.join(names_of(held))[:300]}")
    if any(each.domain == new.domain and each.id != new.id for each in EXTENSIONS.of_listener(model, item)):
        raise conflict(f"The listener has a certificate for {new.domain} already.")
    return new


def add(call: Call, draft: Draft) -> Answer:
    item = _find(draft.model, call.given.text("listenerId"))
    for index, given in enumerate(call.given.tables("certificates")):
        identity = call.identity("bind", str(index))
        new = Extension(identity, given.text("domain").lower(), given.text("certificateId"))
        item = EXTENSIONS.put(item, _checked(draft.model, item, new))
    draft.put(item)
    return {}


def update(call: Call, draft: Draft) -> Answer:
    item = _find(draft.model, call.given.text("listenerId"))
    for given in call.given.tables("certificates"):
        old = _bound(draft.model, item, given.text("certificateBindId"))
        domain, certificate = given.text("domain", old.domain).lower(), given.text("certificateId", old.certificate)
        item = EXTENSIONS.without_alone(item, old)
        item = EXTENSIONS.put(item, _checked(draft.model, item, Extension(old.id, domain, certificate)))
    draft.put(item)
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    item = _find(draft.model, call.given.text("listenerId"))
    for identity in call.given.texts("certificateBindIds"):
        item = EXTENSIONS.remove(item, _bound(draft.model, item, identity))
    draft.put(item)
    return {}


def rows(model: Model, item: Listener) -> list[dict[str, object]]:
    return [
        {"certificateBindId": each.id, "certificateId": each.certificate, "domain": each.domain}
        for each in EXTENSIONS.of_listener(model, item)
    ]


_ID = text("listenerId", required=True)
_ONE = "/listeners/{listenerId}"
_DOMAIN, _CERTIFICATE = text("domain", 110, required=True), text("certificateId", required=True)
_PARTLY = "the domain has to stand in the certificate; as many as a listener has room for tags (some 18)"
ACTIONS = (
    Action(
        "addListenerCertificates", "POST", f"{_ONE}:addListenerCertificates",
        (_ID, many("certificates", (_CERTIFICATE, _DOMAIN), required=True)), change=add, partly=_PARTLY,
    ),
    Action(
        "updateListenerCertificates", "POST", f"{_ONE}:updateListenerCertificates",
        (
            _ID,
            many(
                "certificates",
                (text("certificateBindId", required=True), text("certificateId"), text("domain", 110)), required=True,
            ),
        ),
        change=update, partly=_PARTLY,
    ),
    Action(
        "deleteListenerCertificates", "POST", f"{_ONE}:deleteListenerCertificates",
        (_ID, many("certificateBindIds", text("certificateBindIds"), required=True)), change=delete,
    ),
)  # fmt: skip
