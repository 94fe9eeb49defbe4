"""Which certificate a client would be shown: asked of what workers choose by (proxy/tls_certificates.py)."""

from __future__ import annotations

from typing import Final

from core.explain import Explanation, Outcome, Place
from core.fields import Kind
from core.model import Certificate, ClientCertificate, TlsPolicy
from core.resolve import L7Listener
from proxy.tls_certificates import CertificateError, Contexts, Credential, Group, read

_POLICIES: Final = {
    TlsPolicy.TLS_1_2: "TLS 1.2, CBC suites among its suites",
    TlsPolicy.TLS_1_2_STRICT: "TLS 1.2 alone, with forward secrecy and AEAD",
    TlsPolicy.TLS_1_2_STRICT_WITH_1_3: "TLS 1.2 and 1.3, with forward secrecy and AEAD",
    TlsPolicy.TLS_1_3: "TLS 1.3 alone",
}


def shake_hands(told: Explanation, each: L7Listener, sni: str) -> bool:
    """Say how the handshake goes; False: it fails, and everything ends."""
    listener = each.listener
    notes: list[str] = []
    credentials: list[Credential] = []
    for certificate in each.certificates:
        try:
            credentials.append(_credential(certificate))
        except CertificateError as error:
            notes.append(f"the certificate {certificate.name} cannot be served: {error}")
    group = Contexts(credentials, _itself).find(sni)
    place = Place(Kind.LISTENERS, listener.name, "certificates")
    if group is None:
        told.result["certificate"] = ""
        text = "none can be served: the handshake fails (internal_error)"
        told.end(Outcome.REFUSED, "certificate", text, place, *notes)
        return False
    names = [credential.name for credential in group]
    how = _how(sni, group)
    told.result["certificate"] = names[0]
    text = f"{' or '.join(names)}, for {sni or 'a client that names nobody'}: {how}"
    told.say("certificate", text, Place(Kind.CERTIFICATES, names[0]), *notes)
    policy = Place(Kind.LISTENERS, listener.name, "tls_policy")
    offered = "HTTP/2 and HTTP/1.1 are offered" if listener.http2 else "HTTP/1.1 alone is offered"
    told.say("TLS", f"{listener.tls_policy}: {_POLICIES[listener.tls_policy]}; {offered}", policy)
    if each.authorities is not None:
        required = listener.client_certificate is ClientCertificate.REQUIRED
        text = "the handshake fails" if required else "it is let in all the same"
        text = f"the client is asked for one of {each.authorities.name}; without a valid one {text}"
        told.say("client certificate", text, Place(Kind.LISTENERS, listener.name, "ca_certificate"))
    return True


def _itself(group: Group) -> Group:
    """A group stands for its context."""
    return group


def _how(sni: str, group: Group) -> str:
    name = sni.lower().removesuffix(".")
    theirs = {each for credential in group for each in credential.names}
    if name and name in theirs:
        return "it has that very name"
    if name and "*." + name.partition(".")[2] in theirs:
        return f"by its wildcard *.{name.partition('.')[2]}"
    return "no certificate has that name, and this is the listener's first" if name else "the listener's first"


def _credential(certificate: Certificate) -> Credential:
    """Raises CertificateError. One without a chain is made for its domains by `paifang up` or an ACME CA."""
    if certificate.chain:
        return read(certificate)
    return Credential(certificate.name, "", "EC", b"", "", tuple(each.lower() for each in certificate.domains))
