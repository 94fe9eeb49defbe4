"""The control nodes that a node may follow: one is followed at a time, and the next where it does not answer. Pure."""

from __future__ import annotations


class ControlsError(ValueError):
    """A URL that no control node can have; the text has the remedy."""


class Controls:
    """The node APIs of one control plane, as `--control` gives them: URLs with commas between. Raises ControlsError."""

    def __init__(self, text: str) -> None:
        self.urls = tuple(url.strip().rstrip("/") for url in text.split(","))
        for url in self.urls:
            if not url.startswith("https://") or url == "https://":
                raise ControlsError(f"{url or text}: the control plane's node API is reached by https://HOST:8471")
        if len(set(self.urls)) < len(self.urls):
            raise ControlsError(f"{text}: give each control node once")
        self._at = 0
        self._failed = 0

    @property
    def url(self) -> str:
        """The one that is followed."""
        return self.urls[self._at]

    def answered(self) -> None:
        self._failed = 0

    def failed(self) -> bool:
        """Turn to the next; whether all have failed, one after the other, so that it is time to wait."""
        self._at = (self._at + 1) % len(self.urls)
        self._failed += 1
        return self._failed % len(self.urls) == 0
