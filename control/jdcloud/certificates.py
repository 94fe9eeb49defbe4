"""Certificates, of the API's service `ssl`: their chains; private keys never come to the control plane. Pure."""

from __future__ import annotations

import dataclasses

from control.cloud.action import TIME, Answer
from control.cloud.certificates import KEY_ELSEWHERE, PEM_MOST, common_name, first, names_of
from control.cloud.draft import Draft
from control.jdcloud.call import Action, Call, made, mark, marked, paged
from control.jdcloud.errors import absent, in_use, invalid
from control.jdcloud.forms import block, number, refused, text, word
from core.fields import Kind
from core.model import Certificate, Model

SERVICE = "ssl"


def find(model: Model, identity: str) -> Certificate:
    """The certificate of this ID. Raises JdError."""
    if identity not in model.certificates:
        raise absent("Certificate", identity)
    return model.certificates[identity]


def _chain(call: Call) -> str:
    """Raises JdError."""
    pem = call.given.text("certFile")
    if first(pem) is None:
        raise invalid("certFile", "a chain of certificates in PEM, leaf first, is")
    return pem


def upload(call: Call, draft: Draft) -> Answer:
    tags = made(call, name=call.given.text("certName"), alias=call.given.text("aliasName"))
    item = Certificate(call.identity("cert"), chain=_chain(call), tags=tags)
    draft.put(item)
    return {"certId": item.name}


def update(call: Call, draft: Draft) -> Answer:
    """Another chain: nodes serve it as soon as the key server has its key."""
    item = find(draft.model, call.given.text("certId"))
    draft.put(dataclasses.replace(item, chain=_chain(call), chain_file="", domains=()))
    return {"certId": item.name}


def rename(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("certId"))
    draft.put(dataclasses.replace(item, tags=marked(item.tags, name=call.given.text("certName"))))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("certId"))
    if _listeners(draft.model, item) or not draft.is_left(Kind.CERTIFICATES, item.name):
        raise in_use("Certificate", item.name)
    draft.delete(Kind.CERTIFICATES, item.name)
    return {}


# --- looking


def _listeners(model: Model, item: Certificate) -> list[str]:
    return [each.name for each in model.listeners.values() if item.name in each.certificates]


def row(model: Model, item: Certificate) -> dict[str, object]:
    found: dict[str, object] = {
        "certId": item.name, "certName": mark(item.tags, "name", item.name), "aliasName": mark(item.tags, "alias"),
        "dnsNames": list(names_of(item)), "deletable": int(not _listeners(model, item)), "downloadable": 1,
        "updateable": 1,
    }  # fmt: skip
    leaf = first(item.chain)
    if leaf is not None:
        found |= {
            "commonName": common_name(leaf), "startTime": leaf.not_valid_before_utc.strftime(TIME),
            "endTime": leaf.not_valid_after_utc.strftime(TIME),
        }  # fmt: skip
    return found


def describe_one(call: Call, model: Model) -> Answer:
    item = find(model, call.given.text("certId"))
    leaf = first(item.chain)
    used = [{"bindFrom": "lb", "bindId": each, "bindRegion": call.site.region} for each in _listeners(model, item)]
    shown, _ = paged(call, used)
    issuer = "" if leaf is None else leaf.issuer.rfc4514_string()
    return {**row(model, item), "issuer": issuer, "usedBy": shown, "totalCount": len(used)}


def describe(call: Call, model: Model) -> Answer:
    domain, wanted = call.given.text("domainName").lower(), call.given.text("certIds")
    rows = [row(model, each) for each in model.certificates.values() if not domain or domain in names_of(each)]
    if wanted:
        rows = [each for each in rows if wanted in (each["certId"], each["aliasName"])]
    shown, total = paged(call, rows)
    return {"certListDetails": shown, "totalCount": total}


def download(call: Call, model: Model) -> Answer:
    item = find(model, call.given.text("certId"))
    if not item.chain:
        raise invalid("certId", "the chain of this certificate is in a file of the nodes")
    leaf = first(item.chain)
    return {
        "certId": item.name, "certName": mark(item.tags, "name", item.name), "certFile": item.chain,
        "serverType": call.given.text("serverType"), "commonName": "" if leaf is None else common_name(leaf),
    }  # fmt: skip


_ID = text("certId", required=True)
_KEY = refused("keyFile", KEY_ELSEWHERE)
_PARTLY = "the private key has to be at the key server already (see above)"
_FILE = block("certFile", PEM_MOST, required=True)
_PAGE = (number("pageNumber", 1, 1_000_000), number("pageSize", 1, 100))
ACTIONS = (
    Action(
        "uploadCert", "POST", "/sslCert:upload",
        (text("certName", 80, required=True), _KEY, _FILE, text("aliasName", 80)), change=upload, partly=_PARTLY,
        service=SERVICE,
    ),
    Action(
        "updateCert", "POST", "/sslCert:updateCert", (_ID, _KEY, _FILE), change=update, partly=_PARTLY,
        service=SERVICE,
    ),
    Action(
        "updateCertName", "POST", "/sslCert:updateName", (_ID, text("certName", 80, required=True)), change=rename,
        service=SERVICE,
    ),
    Action("deleteCerts", "DELETE", "/sslCert/{certId}", (_ID,), change=delete, service=SERVICE),
    Action(
        "describeCert", "GET", "/sslCert/{certId}", (_ID, *_PAGE), look=describe_one, partly="no certType and digest",
        service=SERVICE,
    ),
    Action(
        "describeCerts", "GET", "/sslCert", (*_PAGE, text("domainName", 253), text("certIds")), look=describe,
        partly="no certType, digest and status", service=SERVICE,
    ),
    Action(
        "downloadCert", "GET", "/sslCert/{certId}:download",
        (_ID, word("serverType", "Nginx", "Apache", "Tomcat", "IIS", "Other", required=True)), look=download,
        partly="the chain, as PEM for whatever server", service=SERVICE,
    ),
)  # fmt: skip
