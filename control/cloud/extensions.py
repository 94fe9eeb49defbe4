"""Further certificates of an https listener, each for a name that clients ask for, as clouds' APIs have them. Pure.

Here a listener has a list of certificates, the first for names that none covers, and each is served for the names that
stand in it. An extension names one of these names and its certificate; it is kept in a tag of the listener, so that it
is told as it was made. A certificate that came into the list in another way is told with each of its names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from control.cloud.certificates import names_of
from control.cloud.draft import identity_of
from control.cloud.marks import OWN, Tags
from core.model import Listener, Model


@dataclass(frozen=True, slots=True)
class Extension:
    """One of them."""

    id: str
    domain: str
    certificate: str


@dataclass(frozen=True, slots=True)
class Extensions:
    """Those of an API, whose IDs begin with `kind` and a hyphen."""

    kind: str

    def of_listener(self, model: Model, listener: Listener) -> Iterator[Extension]:
        told = set()
        for identity, value in self._kept(listener.tags).items():
            domain, _, certificate = value.rpartition(" ")
            if certificate in listener.certificates:
                told.add(certificate)
                yield Extension(identity, domain, certificate)
        for certificate in listener.certificates[1:]:
            if certificate not in told:
                for domain in names_of(model.certificates[certificate]):
                    yield Extension(identity_of(self.kind, listener.name, domain, certificate), domain, certificate)

    def put(self, listener: Listener, new: Extension) -> Listener:
        """The listener with one more, or with another in the place of the one that has this ID."""
        tags = {**dict(listener.tags), OWN + new.id: f"{new.domain} {new.certificate}"}
        listed = (*listener.certificates, *({new.certificate} - set(listener.certificates)))
        return self._with(listener, tuple(sorted(tags.items())), listed)

    def remove(self, listener: Listener, gone: Extension) -> Listener:
        """The listener without it."""
        left = self.without_alone(listener, gone)
        tags = tuple(each for each in left.tags if each[0] != OWN + gone.id)
        return self._with(left, tags, left.certificates)

    def without_alone(self, listener: Listener, gone: Extension) -> Listener:
        """The listener without the certificate of an extension that stands in the list alone: all of its names go."""
        if gone.id in self._kept(listener.tags):
            return listener
        left = tuple(each for each in listener.certificates if each != gone.certificate)
        return dataclasses.replace(listener, certificates=left)

    def _with(self, before: Listener, tags: Tags, listed: tuple[str, ...]) -> Listener:
        """The listener with these, less the certificates that an extension was for and none is any more."""
        was, still = self._certificates(before.tags), self._certificates(tags)
        kept = [each for each in listed[1:] if each in still or each not in was]
        return dataclasses.replace(before, tags=tags, certificates=(listed[0], *kept))

    def _kept(self, tags: Tags) -> Mapping[str, str]:
        """By ID, what stands in tags."""
        return {key.removeprefix(OWN): value for key, value in tags if key.startswith(f"{OWN}{self.kind}-")}

    def _certificates(self, tags: Tags) -> set[str]:
        return {value.rpartition(" ")[2] for value in self._kept(tags).values()}
