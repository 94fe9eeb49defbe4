"""Certificates by ACME under `paifang up`: the issuer as a child, and what comes of it.

    FILE with [acme] ──► model + what leads challenges to the issuer ──► control plane ──► node
                                                                            ▲    │
                     the issuer's state directory ◄── chain ── issuer ──────┘    └──► noticed here

The issuer gives chains to the control plane, as in a cluster, and keeps them in its state directory, one for each CA.
From there they are taken when a configuration is made. Until there is one, a development certificate with the same key
stands in, which the issuer is told to replace.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from certs import inventory
from control.client import Api
from control.ports import free_port
from control.up_source import Source
from core import acme
from core.acme import Acme, AcmeChallenge
from core.endpoints import endpoint
from core.model import Certificate, Model

FAILED = "failed: "
AGAIN = re.compile(r"; again in \d+ min$")


class Issuing:
    """The issuer's side of one `paifang up`. `root`: its state directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._address = ("127.0.0.1", free_port())
        self._failures: dict[str, str] = {}  # told of already, by certificate

    @property
    def failing(self) -> bool:
        """Whether some certificate could not be got, and the issuer waits before it asks again."""
        return bool(self._failures)

    def argv(self, source: Source, api: str, token_file: Path) -> list[str]:
        """How the issuer is started; empty without `acme`."""
        settings = source.acme
        if settings is None:
            return []
        is_http = acme.challenge_of(settings, source.model) is AcmeChallenge.HTTP_01
        argv = [
            "keyserver", "acme", "--keys", str(self._root / "keys"), "--state", str(self._state(settings)),
            "--listen" if is_http else "--listen-tls", endpoint(*self._address), "--api", api,
            "--token-file", str(token_file), "--directory", settings.directory, "--email", settings.email,
            "--agree-tos", "--stand-in-ca", str(self._root / "ca" / "ca.pem"),
        ]  # fmt: skip
        return [*argv, "--directory-ca", settings.directory_ca_file] if settings.directory_ca_file else argv

    def lead(self, source: Source) -> Model:
        """The model, with what leads the CA's challenges to the issuer."""
        return source.model if source.acme is None else acme.lead(source.acme, source.model, self._address)

    def got(self, source: Source, model: Model) -> Model:
        """The model with the chains that were got before, in place of those that stand in for them."""
        if source.acme is None:
            return model
        certificates = dict(model.certificates)
        for wanted in acme.wanted(source.model):
            certificates[wanted.name] = self._kept(source.acme, model.certificates[wanted.name])
        return replace(model, certificates=certificates)

    def _kept(self, settings: Acme, stand_in: Certificate) -> Certificate:
        """A certificate with the chain that was got for it, if that is valid, for its key and for one of its names.

        (Not for all: while a name that is new is proved, the others keep what browsers trust.)
        """
        path = self._state(settings) / f"{stand_in.name}.pem"
        text = path.read_text("ascii", "replace") if path.exists() else ""
        found, own = inventory.read(text) if text else None, inventory.read(stand_in.chain)
        if found is None or own is None or found.key_id != own.key_id or found.ends <= datetime.now(UTC):
            return stand_in
        return replace(stand_in, chain=text) if {*found.names} & {*stand_in.domains} else stand_in

    def news(self, api: Api, source: Source, model: Model) -> tuple[Model, list[str]]:
        """The model with the chains that the issuer has put in, and what there is to tell. Raises ApiError."""
        names = {each.name for each in acme.wanted(source.model)}
        served = cast(list[dict[str, Any]], api.request("GET", "/v1/certificates").document)
        chains = {table["name"]: table.get("chain", "") for table in served}
        certificates, told = dict(model.certificates), []
        for name in names & certificates.keys():
            chain = chains.get(name, "")
            if chain and chain != certificates[name].chain:
                certificates[name] = replace(certificates[name], chain=chain)
                told.append(_arrival(name, chain))
        looked = cast(dict[str, Any], api.request("GET", "/v1/inventory").document)
        told += self._failed({entry["name"]: entry["issuance"] for entry in looked["certificates"]}, names)
        return replace(model, certificates=certificates) if told else model, told

    def _failed(self, issuance: dict[str, dict[str, str] | None], names: set[str]) -> Iterator[str]:
        for name in sorted(names):
            text = (issuance.get(name) or {}).get("text", "")
            why = AGAIN.sub("", text) if text.startswith(FAILED) else ""
            if why and self._failures.get(name) != why:
                yield f"certificate {name}: {text}"
            if why:
                self._failures[name] = why
            elif text:
                self._failures.pop(name, None)

    def forget(self) -> None:
        """The issuer begins anew."""
        self._failures.clear()

    def _state(self, settings: Acme) -> Path:
        """Of one CA: an account is good there only, and its chains are not to be taken for another's."""
        host = re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(settings.directory).hostname or "")
        return self._root / "acme" / f"{host[:60]}-{hashlib.sha256(settings.directory.encode()).hexdigest()[:8]}"


def missing_library() -> str:
    """Why the issuer cannot run here; empty if it can."""
    found = importlib.util.find_spec("acme") and importlib.util.find_spec("josepy")
    return "" if found else "the file has [acme], and its library is missing: pip install 'paifang[acme]'"


def _arrival(name: str, chain: str) -> str:
    found = inventory.read(chain)
    assert found is not None, "the control plane takes none that cannot be read"
    return f"certificate {name}: from {found.issuer}, until {found.ends:%Y-%m-%d}; served from now on"
