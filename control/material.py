"""What must never reach the control plane: private keys, and paths that mean something on another machine only. Pure.

Certificates are public chains here. Their keys live in the key server; a key that is pasted anywhere into a
configuration is refused before anything else looks at it, and no message repeats any of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509

from certs.ca_bundle import inspect_bundle
from core.errors import ConfigError
from core.model import Listener, Model, Rule

_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY")
_PUT_IT = "keep it from here and give it to the key server (`paifang keyserver --keys PATH`)"
INLINE_KEY = ("holds a private key", _PUT_IT)
AUTHORITIES = "no client could be verified by it: give certificates of authorities, and lists that they have signed"
_INLINE = "give the chain's PEM text as `chain`; `paifang apply FILE` does so by itself"


def key_errors(data: object, path: str = "request") -> tuple[ConfigError, ...]:
    """An error for every string of a parsed document that holds a private key."""
    # What begins a key is written in JSON as it is: where the whole has none, no string of it has.
    if not _PRIVATE_KEY.search(json.dumps(data, default=str)):
        return ()
    return tuple(
        ConfigError(path, 0, place, *INLINE_KEY) for place, text in _strings(data, "") if _PRIVATE_KEY.search(text)
    )


def path_errors(model: Model, path: str = "request") -> tuple[ConfigError, ...]:
    """An error for every certificate that names a file: the control plane reads no files of its users."""
    errors = []
    for name, certificate in model.certificates.items():
        place = f"certificates.{name}"
        if certificate.chain_file:
            why = "is a path on your machine, which the control plane cannot read"
            errors.append(ConfigError(path, 0, f"{place}.chain_file", why, _INLINE))
        if certificate.key_file:
            why = "is the path of a private key, which the control plane must not know"
            errors.append(ConfigError(path, 0, f"{place}.key_file", why, _PUT_IT))
    for name, redirect_map in model.redirect_maps.items():
        if redirect_map.entries_file:
            why = "is a path on your machine, which the control plane cannot read"
            remedy = "give its lines as `entries`; `paifang apply FILE` does so by itself"
            errors.append(ConfigError(path, 0, f"redirect_maps.{name}.entries_file", why, remedy))
    owners: list[tuple[str, Listener | Rule]] = [(f"listeners.{name}", each) for name, each in model.listeners.items()]
    owners += [(f"rules.{name}", each) for name, each in model.rules.items()]
    for place, owner in owners:
        files = {f"error_pages[{index}]": page.body_file for index, page in enumerate(owner.error_pages)}
        if owner.maintenance is not None:
            files["maintenance"] = owner.maintenance.body_file
        for at, file in files.items():
            if file:
                why = "is a path on your machine, which the control plane cannot read"
                remedy = "give the page as `body`; `paifang apply FILE` does so by itself"
                errors.append(ConfigError(path, 0, f"{place}.{at}.body_file", why, remedy))
    for name, authorities in model.ca_certificates.items():
        for field in ("bundle", "crl"):
            if getattr(authorities, f"{field}_file"):
                why = "is a path on your machine, which the control plane cannot read"
                remedy = f"give its PEM text as `{field}`; `paifang apply FILE` does so by itself"
                errors.append(ConfigError(path, 0, f"ca_certificates.{name}.{field}_file", why, remedy))
    return tuple(errors)


def chain_errors(model: Model, path: str = "request") -> tuple[ConfigError, ...]:
    """An error for every certificate whose chain is not one or more X.509 certificates in PEM, and for authorities
    and revocation lists that no client could be verified by."""
    errors = []
    for name, certificate in model.certificates.items():
        if certificate.chain:
            try:
                x509.load_pem_x509_certificates(certificate.chain.encode())
            except ValueError:
                why, remedy = "is not a chain of X.509 certificates in PEM", "give the leaf first, then its issuers"
                errors.append(ConfigError(path, 0, f"certificates.{name}.chain", why, remedy))
    for name, authorities in model.ca_certificates.items():
        report = inspect_bundle(authorities.bundle, authorities.crl, datetime.now(UTC))
        for field, problems in (("bundle", report.problems), ("crl", report.problems_crl)):
            place = f"ca_certificates.{name}.{field}"
            errors += [ConfigError(path, 0, place, why, AUTHORITIES) for why in problems]
    return tuple(errors)


def _strings(data: object, place: str) -> Iterator[tuple[str, str]]:
    """Every string in JSON-like data with its place, keys included."""
    if isinstance(data, str):
        yield place, data
    elif isinstance(data, dict):
        for key, value in data.items():
            inner = f"{place}.{key}" if place else str(key)
            yield place, str(key)
            yield from _strings(value, inner if len(inner) < 200 else place)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _strings(value, f"{place}[{index}]")
