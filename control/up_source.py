"""What `paifang up` is to serve: its file, read whole and refused whole if one machine could not serve all of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from control import keyfiles, prepare
from core.acme import Acme
from core.errors import ConfigError, ConfigErrors
from core.model import Kind, Model, Protocol


@dataclass(frozen=True, slots=True)
class Source:
    """What FILE says: a model without key files, these, and where certificates are got from by ACME."""

    model: Model
    key_files: tuple[Path, ...] = ()
    acme: Acme | None = None


def read(file: Path) -> Source:
    """FILE as it is now, fit to be served here. Raises ConfigErrors, KeyCheckError."""
    document = prepare.read(file)
    errors = unservable(document)
    if errors:
        raise ConfigErrors(errors)
    prepared = prepare.inline(document)
    errors = keyfiles.errors(document, prepared)
    if errors:
        raise ConfigErrors(errors)
    return Source(prepared.model, tuple(prepared.keys.values()), prepared.acme)


def unservable(document: prepare.Document) -> list[ConfigError]:
    """What a single machine without root cannot serve, and keys that the key server would miss."""
    errors = []
    model = document.model
    if not model.listeners:
        remedy = "add [[listeners]] with protocol, port and servers"
        errors.append(ConfigError(str(document.file), 0, "", "has no listeners, so nothing would be served", remedy))
    for listener in model.listeners.values():
        if listener.protocol in (Protocol.TCP, Protocol.UDP):
            why = f"{listener.protocol.value} listeners need the L4 tier, which `paifang up` does not start"
            remedy = "take it out here, and run `paifang l4` (root, XDP) on a node, or try `paifang lab up`"
            errors.append(document.error(Kind.LISTENERS, listener.name, "protocol", why, remedy))
    for certificate in model.certificates.values():
        if (certificate.chain or certificate.chain_file) and not certificate.key_file:
            why, remedy = "has a chain without key_file", "name the key's file: only the key server will read it"
            errors.append(document.error(Kind.CERTIFICATES, certificate.name, "", why, remedy))
    return errors
