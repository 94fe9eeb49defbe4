"""Server certificates and CA certificates. Pure.

Private keys never come to the control plane. `UploadServerCertificate` takes the chain; its key has to be at the key
server before, from a file there. A PrivateKey that is given all the same is refused before anything looks at it, and
stands in no log, answer or storage; it has come over the network though, which the message says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from control.alibaba import marks
from control.alibaba.call import TIME, Action, Answer, Call, Draft
from control.alibaba.errors import SlbError, no_ca, no_certificate
from control.alibaba.parameters import block, many, refused, tables_of, text
from control.cloud.certificates import KEY_ELSEWHERE, PEM_MOST, common_name, first, names_of
from core.fields import Kind
from core.model import CaCertificate, Certificate, Model

_CAS = "certificates of Certificate Management Service are not here"


def upload(call: Call, draft: Draft) -> Answer:
    pem = call.given.text("ServerCertificate")
    if first(pem) is None:
        raise SlbError(
            "CertificateFormatError", 400, "ServerCertificate is no chain of certificates in PEM, leaf first."
        )
    tags = marks.tagged((), tables_of(call.given, "Tag"))
    item = Certificate(
        call.identity("cert"), chain=pem, description=call.given.text("ServerCertificateName"), tags=tags
    )
    draft.put(item)
    return _server_row(item, call.site.region)


def upload_ca(call: Call, draft: Draft) -> Answer:
    pem = call.given.text("CACertificate")
    if first(pem) is None:
        raise SlbError("CertificateFormatError", 400, "CACertificate is no certificate in PEM.")
    tags = marks.tagged((), tables_of(call.given, "Tag"))
    item = CaCertificate(call.identity("ca"), bundle=pem, description=call.given.text("CACertificateName"), tags=tags)
    draft.put(item)
    return _ca_row(item, call.site.region)


def _told(leaf: x509.Certificate) -> dict[str, object]:
    """Name, fingerprint and end of a certificate."""
    end = leaf.not_valid_after_utc
    digest = leaf.fingerprint(hashes.SHA1()).hex()  # noqa: S303 - the API has it; nothing is trusted by it
    return {
        "CommonName": common_name(leaf), "ExpireTime": end.strftime(TIME),
        "ExpireTimeStamp": int(end.timestamp() * 1000),
        "Fingerprint": ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)),
    }  # fmt: skip


def _server_row(item: Certificate, region: str) -> dict[str, object]:
    leaf = first(item.chain)
    return {
        "ServerCertificateId": item.name, "ServerCertificateName": item.description or item.name, "RegionId": region,
        "IsAliCloudCertificate": 0, "SubjectAlternativeNames": {"SubjectAlternativeName": list(names_of(item))},
        "Tags": {"Tag": marks.shown(item.tags)}, **({} if leaf is None else _told(leaf)),
    }  # fmt: skip


def _ca_row(item: CaCertificate, region: str) -> dict[str, object]:
    leaf = first(item.bundle)
    return {
        "CACertificateId": item.name, "CACertificateName": item.description or item.name, "RegionId": region,
        "Tags": {"Tag": marks.shown(item.tags)}, **({} if leaf is None else _told(leaf)),
    }  # fmt: skip


def _server(call: Call, model: Model) -> Certificate:
    identity = call.given.text("ServerCertificateId")
    if identity not in model.certificates:
        raise no_certificate(identity)
    return model.certificates[identity]


def _ca(call: Call, model: Model) -> CaCertificate:
    identity = call.given.text("CACertificateId")
    if identity not in model.ca_certificates:
        raise no_ca(identity)
    return model.ca_certificates[identity]


def rename(call: Call, draft: Draft) -> Answer:
    item = _server(call, draft.model)
    draft.put(dataclasses.replace(item, description=call.given.text("ServerCertificateName")))
    return {}


def rename_ca(call: Call, draft: Draft) -> Answer:
    item = _ca(call, draft.model)
    draft.put(dataclasses.replace(item, description=call.given.text("CACertificateName")))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    item = _server(call, draft.model)
    if not draft.is_left(Kind.CERTIFICATES, item.name):
        raise SlbError("CertificateAndPrivateKeyIsRefered", 400, "The certificate is in use by a listener.")
    draft.delete(Kind.CERTIFICATES, item.name)
    return {}


def delete_ca(call: Call, draft: Draft) -> Answer:
    item = _ca(call, draft.model)
    if not draft.is_left(Kind.CA_CERTIFICATES, item.name):
        raise SlbError("CACertificateIsRefered", 400, "The CA certificate is in use.")
    draft.delete(Kind.CA_CERTIFICATES, item.name)
    return {}


def describe(call: Call, model: Model) -> Answer:
    found = _chosen(call, "ServerCertificateId", model.certificates.values())
    rows = [_server_row(each, call.site.region) for each in found if isinstance(each, Certificate)]
    return {"ServerCertificates": {"ServerCertificate": rows}}


def describe_cas(call: Call, model: Model) -> Answer:
    found = _chosen(call, "CACertificateId", model.ca_certificates.values())
    rows = [_ca_row(each, call.site.region) for each in found if isinstance(each, CaCertificate)]
    return {"CACertificates": {"CACertificate": rows}}


def _chosen(call: Call, name: str, items: Iterable[Certificate | CaCertificate]) -> list[Certificate | CaCertificate]:
    wanted = tables_of(call.given, "Tag")
    return [
        each for each in items if call.given.text(name, each.name) == each.name and marks.matches(each.tags, wanted)
    ]


_ID = text("ServerCertificateId", 80)
_CA_ID = text("CACertificateId", 80)
_TAG = many("Tag")
_GROUP = refused("ResourceGroupId", "there are no resource groups here")


ACTIONS = (
    Action(
        "UploadServerCertificate",
        (
            block("ServerCertificate", PEM_MOST, required=True), text("ServerCertificateName", 80), _TAG, _GROUP,
            refused("PrivateKey", KEY_ELSEWHERE),
            *(refused(f"AliCloudCertificate{each}", _CAS) for each in ("Id", "Name", "RegionId")),
        ),
        change=upload, partly="the private key has to be at the key server already (see above)",
    ),
    Action("DescribeServerCertificates", (_ID, _TAG, _GROUP), look=describe, partly="no CreateTime"),
    Action("DeleteServerCertificate", (text("ServerCertificateId", 80, required=True),), change=delete),
    Action(
        "SetServerCertificateName",
        (text("ServerCertificateId", 80, required=True), text("ServerCertificateName", 80, required=True)),
        change=rename,
    ),
    Action(
        "UploadCACertificate",
        (block("CACertificate", PEM_MOST, required=True), text("CACertificateName", 80), _TAG, _GROUP),
        change=upload_ca,
    ),
    Action("DescribeCACertificates", (_CA_ID, _TAG, _GROUP), look=describe_cas, partly="no CreateTime"),
    Action("DeleteCACertificate", (text("CACertificateId", 80, required=True),), change=delete_ca),
    Action(
        "SetCACertificateName",
        (text("CACertificateId", 80, required=True), text("CACertificateName", 80, required=True)), change=rename_ca,
    ),
)  # fmt: skip
