"""Who finds out who sends requests, in one worker: an authenticator for each authentication of the configuration.

One whose configuration stays the same stays, with its keys, with what it remembers and with whom it keeps out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import time

from core import model
from core.model import Model
from proxy.auth_basic import BasicAuth, Thread
from proxy.auth_certificate import CertificateAuth
from proxy.auth_forward import ForwardAuth
from proxy.auth_jwt import JwtAuth
from proxy.errors import ApplyError
from proxy.hub import Hub

Kind = BasicAuth | CertificateAuth | JwtAuth | ForwardAuth


class Authenticators:
    """Those of `hub`, where requests find them. A thread is begun when the first password comes."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._made_of: dict[str, model.Authentication] = {}
        self._here: Mapping[str, Kind] = {}
        self._executor = ThreadPoolExecutor(1, "passwords")
        self._thread = Thread(self._executor)

    def made(self, model: Model) -> dict[str, Kind]:
        """Those of a configuration, which `take` takes. Raises ApplyError."""
        return {
            name: self._here[name] if self._made_of.get(name) == each else self._make(each)
            for name, each in model.authentications.items()
        }

    def take(self, model: Model, made: Mapping[str, Kind]) -> None:
        """From now on these. Keys are fetched in time."""
        self._made_of, self._here = dict(model.authentications), made
        self._hub.means.authenticators = made
        self.look()

    def _make(self, each: model.Authentication) -> Kind:
        if each.basic is not None:
            return BasicAuth(each, self._thread)
        if each.certificate is not None:
            return CertificateAuth(each)
        if each.jwt is None:
            return ForwardAuth(each, self._hub)
        try:
            return JwtAuth(each, self._hub, time)
        except ValueError as error:
            raise ApplyError(f"authentication {each.name!r}: jwks: {error}") from None

    def look(self) -> None:
        """Files may have changed, keys may be old. To be called every few seconds."""
        for each in self._here.values():
            each.look()

    def problems(self) -> list[str]:
        """Why somebody is not admitted who might be, or still is."""
        return list(self._problems())

    def _problems(self) -> Iterator[str]:
        for name, each in self._here.items():
            if each.problem:
                yield f"authentication {name!r}: {each.problem}"

    def close(self) -> None:
        """Nobody waits any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)
