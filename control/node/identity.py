"""Who a process of the cluster is, and how it knows its peers: mutual TLS 1.3 under the cluster's own CA.

A directory holds `ca.pem`, `cert.pem` and `key.pem`, as `paifang certs issue` and `paifang join` write them. The
certificate's URI name `paifang://node/<role>/<name>` says who its bearer is. Host names are not checked, since nodes
are reached by addresses that change: what counts is that the CA signed the certificate, and which role it names.
`client_context(role)` and `server_context(roles)` check the role inside the handshake, so that no byte is exchanged
with a peer of another role.

*Renewal*: a new certificate has a new key. The key is written as `next-key.pem` first; the moment in which `cert.pem`
is replaced is the moment of the change, and whoever starts in between finds the key that fits. Contexts that have been
handed out take the new certificate for the handshakes to come; connections go on.

*Generations*: a certificate of a node that has joined says which time of joining it belongs to
(`paifang://generation/<n>`; none is 0). `refused.json` has the least generation that still counts, by node: those
before it are refused in the handshake. The control plane says so, and what it said last holds while it is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import weakref
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from control.node.files import write_atomic

ROLES = frozenset({"l4", "l7", "keyserver", "control"})
BACKDATED_S: Final = 300  # a certificate is valid from so long before it was made, for clocks that are behind
FOLLOW_S: Final = 1.0
_URI = re.compile(r"paifang://node/([a-z0-9]+)/([A-Za-z0-9][A-Za-z0-9._-]{0,79})")
_GENERATION = re.compile(r"paifang://generation/([0-9]{1,9})")
CA, CERTIFICATE, _KEY, NEXT_KEY, _LEAST = "ca.pem", "cert.pem", "key.pem", "next-key.pem", "refused.json"
_REMEDY = "`paifang certs issue CADIR --role ROLE --name NAME --out {directory}` or `paifang join` makes an identity"


class IdentityError(Exception):
    """An identity that cannot be used, ours or a peer's."""


class Identity:
    """The certificate, key and CA of one process. Made by `load`."""

    def __init__(self, directory: Path, certificate: x509.Certificate) -> None:
        """Raises IdentityError where the certificate names no node."""
        self.directory = directory
        self.least: Mapping[str, int] = {}  # by ROLE/NAME, the least generation that is not refused
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        self._mark: tuple[object, ...] = ()  # of what has been read
        self._take(certificate)
        self._read_least()

    def _take(self, certificate: x509.Certificate) -> None:
        self.role, self.name = _role_and_name(uris := _uris(certificate))
        self.generation = _generation(uris)
        self.begins = certificate.not_valid_before_utc.timestamp() + BACKDATED_S
        self.ends = certificate.not_valid_after_utc.timestamp()

    @property
    def renew_at(self) -> float:
        """When two thirds of its life are over, in Unix time."""
        return self.ends - (self.ends - self.begins) / 3

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """Read and check DIR/{ca,cert,key}.pem. Raises IdentityError, which names the file and the remedy."""
        remedy = _REMEDY.format(directory=directory)
        try:
            certificate = x509.load_pem_x509_certificate((directory / CERTIFICATE).read_bytes())
            finish(directory, certificate)
        except OSError as error:
            raise IdentityError(f"{directory / CERTIFICATE}: {error.strerror}; {remedy}") from None
        except ValueError as error:
            raise IdentityError(f"{directory / CERTIFICATE}: not a certificate ({error}); {remedy}") from None
        for file in (CA, _KEY):
            try:
                (directory / file).read_bytes()
            except OSError as error:
                raise IdentityError(f"{directory / file}: {error.strerror}; {remedy}") from None
        if (directory / _KEY).stat().st_mode & 0o007:
            raise IdentityError(f"{directory / _KEY}: every user of this machine may read it; chmod 600 it")
        try:
            identity = cls(directory, certificate)
            identity._context(ssl.PROTOCOL_TLS_CLIENT)
        except IdentityError as error:
            raise IdentityError(f"{directory / CERTIFICATE}: {error}; {remedy}") from None
        except ssl.SSLError as error:
            raise IdentityError(f"{directory}: key.pem, cert.pem and ca.pem do not fit: {error}; {remedy}") from None
        return identity

    # -- renewal

    def replace(self, certificate: bytes, key: bytes) -> None:
        """Put a new certificate and its key (PEM) in place of those that are used. Raises IdentityError or OSError."""
        fresh = x509.load_pem_x509_certificate(certificate)
        if _role_and_name(_uris(fresh)) != (self.role, self.name):
            raise IdentityError("the new certificate is another node's")
        write_atomic(self.directory / NEXT_KEY, key)
        write_atomic(self.directory / CERTIFICATE, certificate)
        self.refresh()

    def refresh(self) -> bool:
        """Take up what stands in the directory now; whether it had changed. Raises IdentityError, OSError."""
        if (mark := self._marks()) == self._mark:
            return False
        certificate = x509.load_pem_x509_certificate((self.directory / CERTIFICATE).read_bytes())
        finish(self.directory, certificate)
        self._take(certificate)
        self._read_least()
        for context in self._contexts:
            self._fill(context)
        self._mark = mark
        return True

    async def follow(self, changed: Callable[[], None] = lambda: None) -> None:
        """Take up what another process of this machine puts into the directory, until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            with contextlib.suppress(OSError, ValueError, IdentityError):  # what is there will be whole the next time
                if self.refresh():
                    changed()

    def _marks(self) -> tuple[object, ...]:
        found = []
        for file in (CERTIFICATE, _LEAST):
            with contextlib.suppress(FileNotFoundError):
                status = (self.directory / file).stat()
                found.append((file, status.st_mtime_ns, status.st_ino))
        return tuple(found)

    # -- who is refused

    def refuse(self, least: Mapping[str, int]) -> None:
        """Take, and keep, the least generation of each node that is not refused. Raises OSError."""
        if dict(least) != self.least:
            write_atomic(self.directory / _LEAST, json.dumps(least).encode())
            self._mark = self._marks()
            self.least = dict(least)

    def _read_least(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.directory / _LEAST).read_bytes())
            self.least = {str(node): int(least) for node, least in found.items()}

    def why_not(self, role: str, name: str, generation: int) -> str:
        """Why a certificate is not accepted any more; empty: it is."""
        if generation < self.least.get(f"{role}/{name}", 0):
            return f"the identity of the {role} node {name} has been revoked, or {name} has joined anew since"
        return ""

    # -- contexts

    def client_context(self, role: str | None = None) -> ssl.SSLContext:
        """For connections that we open with asyncio; with `role`, the handshake fails unless the peer has it."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        if role is not None:
            self._require(context, {role}, _nobody)
        return context

    def server_context(
        self, roles: Collection[str] | None = None, strangers: Callable[[], bool] | None = None
    ) -> ssl.SSLContext:
        """For connections that we accept with asyncio; a client certificate is required, of one of `roles` if given.

        Without `roles` the caller has to ask each connection who it is, and `why_not`, after the handshake. With
        `strangers`, clients without any certificate come in while it says so; the caller has to ask them, too.
        """
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        if strangers is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
        if roles is not None:
            self._require(context, roles, strangers or _nobody)
        return context

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.directory / CA)
        self._fill(context)
        self._contexts.add(context)
        return context

    def _fill(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self.directory / CERTIFICATE, self.directory / _KEY)

    def _require(self, context: ssl.SSLContext, roles: Collection[str], strangers: Callable[[], bool]) -> None:
        """Make the context's handshakes fail for peers of other roles, or refused, before application data flows."""
        identity = self

        class CheckedObject(ssl.SSLObject):
            def do_handshake(self) -> None:
                super().do_handshake()
                if not self.getpeercert() and strangers():
                    return
                try:
                    role, name = peer_of(self)
                except IdentityError as error:
                    raise ssl.SSLCertVerificationError(str(error)) from None
                if role not in roles:
                    wanted = " or ".join(sorted(roles))
                    raise ssl.SSLCertVerificationError(f"the peer {name} is of role {role}, not {wanted}")
                if why := identity.why_not(role, name, generation_of(self)):
                    raise ssl.SSLCertVerificationError(why)

        context.sslobject_class = CheckedObject


def peer_of(ssl_object: ssl.SSLObject) -> tuple[str, str]:
    """Role and name of the peer, whose certificate the handshake has verified. Raises IdentityError."""
    return _role_and_name(_uris_of_peer(ssl_object))


def generation_of(ssl_object: ssl.SSLObject) -> int:
    """Which time of joining the peer's certificate belongs to. Raises IdentityError."""
    return _generation(_uris_of_peer(ssl_object))


def _uris_of_peer(ssl_object: ssl.SSLObject) -> list[str]:
    certificate = ssl_object.getpeercert()
    if not certificate:
        raise IdentityError("the peer has shown no certificate")
    names = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
    return [value for kind, value in names if kind == "URI"]


def _nobody() -> bool:
    return False


def finish(directory: Path, certificate: x509.Certificate) -> None:
    """End a renewal that was cut short, or take back one that did not come to the certificate. Raises IdentityError."""
    following = directory / NEXT_KEY
    try:
        key = load_pem_private_key(following.read_bytes(), None)
        if key.public_key() == certificate.public_key():
            following.replace(directory / _KEY)
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError) as error:
        raise IdentityError(f"{following}: {error}; remove it if {_KEY} fits {CERTIFICATE}") from None


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _role_and_name(uris: list[str]) -> tuple[str, str]:
    """The one identity among the URI names; a certificate that names several nodes names none."""
    matches = [match for uri in uris if (match := _URI.fullmatch(uri))]
    if len(matches) != 1 or matches[0][1] not in ROLES:
        raise IdentityError("the certificate does not name one node (URI paifang://node/<role>/<name>)")
    return matches[0][1], matches[0][2]


def _generation(uris: list[str]) -> int:
    return max((int(match[1]) for uri in uris if (match := _GENERATION.fullmatch(uri))), default=0)
