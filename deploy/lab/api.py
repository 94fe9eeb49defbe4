"""Talking to the lab's control plane, whose REST API listens on the loopback interface of its own namespace."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from deploy.lab.errors import LabError
from deploy.lab.namespaces import inside

API_PORT = 8470
TIMEOUT_S = 10.0

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Api:
    """The REST API of one lab. Every call raises LabError where there is no answer, or the answer is an error."""

    netns: str
    token_file: Path
    port: int = API_PORT

    def apply(self, configuration: object) -> None:
        """Replace the whole configuration."""
        self.request("PUT", "/v1/config", configuration)

    def put(self, kind: str, name: str, value: object) -> None:
        """Replace one object."""
        self.request("PUT", f"/v1/{kind}/{name}", value)

    def status(self) -> Json:
        """What every node reports."""
        return cast(Json, self.request("GET", "/v1/status"))

    def listeners(self) -> list[Json]:
        """Every listener, as its object stands in the configuration."""
        return cast(list[Json], self.request("GET", "/v1/listeners"))

    def request(self, method: str, path: str, body: object = None) -> object:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
            with inside(self.netns):
                connection.connect()
            data = None if body is None else json.dumps(body).encode()
            if data is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"the control plane does not answer: {error}") from None
        finally:
            connection.close()
        if response.status >= 400:
            raise LabError(f"{method} {path}: {response.status}: {answer.decode(errors='replace').strip()}")
        return json.loads(answer) if answer else None
