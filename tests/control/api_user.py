"""A user of the REST API, and a site to begin with."""

import io
import json
from typing import Any

from aiohttp.test_utils import TestClient

from control.api_watch import WATCH
from control.service import ControlPlane

SITE: dict[str, Any] = {
    "server_groups": [{"name": "g", "servers": [{"address": "192.0.2.1", "port": 80}]}],
    "backend_services": [{"name": "b", "protocol": "http", "server_group": "g"}],
    "instances": [{"name": "i"}],
    "listeners": [{"name": "web", "instance": "i", "protocol": "http", "port": 80, "backend_service": "b"}],
}


class User:
    """Sends requests with a token and checks what every answer has."""

    def __init__(self, client: TestClient[Any, Any], plane: ControlPlane, token: str) -> None:
        self.client, self.plane, self.token = client, plane, token

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        status: int = 200,
        data: bytes | io.BytesIO | None = None,
        **headers: str,
    ) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        payload = data if data is not None else None if body is None else json.dumps(body).encode()
        async with self.client.request(method, path, data=payload, headers=headers) as response:
            document = json.loads(await response.read())
            assert response.status == status, document
            if status >= 400:
                assert response.content_type == "application/problem+json"
                assert document["status"] == status
                assert document["title"]
            self.etag = response.headers.get("ETag")
            self.headers = response.headers
            return document

    def readers(self) -> int:
        """How many watch."""
        return self.client.app[WATCH].readers  # type: ignore[index, no-any-return]
