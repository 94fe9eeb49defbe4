"""What a cloud's API refuses: a status of HTTP, the API's own word for it, and a message. Pure."""

from __future__ import annotations


class CloudError(Exception):
    """A request that is refused."""

    def __init__(self, http: int, word: str, message: str) -> None:
        super().__init__(message)
        self.http, self.word, self.message = http, word, message
