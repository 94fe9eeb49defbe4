"""What nodes are sent of a version: what has changed since the one they have, or all of it. Each is encoded once.

A node says which version it has by the tag that it came with. A tag is this process's own: a version number alone says
nothing, since a control plane that was restored from a backup counts the same numbers again. So a delta is only ever
given for a base that this very process has handed out. The tag also says when the version was made, which is the same
for all processes: so a node that missed how a backup was brought back is told that its version is another.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping

from control.service import Current
from core.delta import difference
from core.model import Model

KEPT_VERSIONS = 4  # of 10,000 listeners, rules and servers, each takes some 20 MB


class Distribution:
    """The last versions and their encodings. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._nonce = secrets.token_hex(8)
        self._models: dict[int, Model] = {}  # by version, the newest last
        self._tags: dict[int, str] = {}
        self._encoded: dict[tuple[int, int], bytes] = {}  # by version and base, 0: the whole

    def note(self, current: Current) -> None:
        """Keep this version, so that it may be the base of the next ones."""
        if self._models.get(current.version) is current.model:
            return
        if self._models and current.version <= max(self._models):  # a store that was restored counts again
            self._forget()
        self._models[current.version] = current.model
        self._tags[current.version] = f"{self._nonce}.{current.version}.{current.made}"
        while len(self._models) > KEPT_VERSIONS:
            oldest = next(iter(self._models))
            del self._models[oldest], self._tags[oldest]
        self._encoded = {key: data for key, data in self._encoded.items() if key[0] == current.version}

    def answer(self, current: Current, tag: str, besides: Mapping[str, object]) -> bytes:
        """The body for a node that has what came with `tag`. `besides` are further members of the answer."""
        self.note(current)
        version = current.version
        base = next((known for known in self._models if self._tags[known] == tag), 0)
        head = {**besides, "version": version, "tag": self._tags[version]}
        return b"%b, %b}" % (json.dumps(head).encode()[:-1], self._encode(current, base))

    def _encode(self, current: Current, base: int) -> bytes:
        """The member `config` or `changes`."""
        key = (current.version, base)
        if key not in self._encoded:
            changes = difference(self._models[base], current.model) if base else None
            if changes is not None:
                self._encoded[key] = b'"changes": ' + json.dumps(changes).encode()
            elif base:
                self._encoded[key] = self._encode(current, 0)
            else:
                self._encoded[key] = b'"config": ' + json.dumps(current.document).encode()
        return self._encoded[key]


def made_of(tag: str) -> str:
    """When the version was made that a tag of whatever process came with; empty where it does not say."""
    return tag.split(".", 2)[2] if tag.count(".") == 2 else ""
