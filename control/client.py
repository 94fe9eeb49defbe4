"""The command line's side of the REST API: blocking, standard library only, so that `paifang get` starts at once.

Where the API is and with which token is found in this order: options, $PAIFANG_API and $PAIFANG_TOKEN, then what
`paifang up` has noted in its state directory, last the default address and token file of a control plane started there.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_API = "http://127.0.0.1:8470"
NOTE = "up.json"
TIMEOUT_S = 30.0
ANSWER_LIMIT_BYTES = 1 << 27


class ApiError(Exception):
    """The API cannot be reached or says no; `status` is 0 or that of HTTP, `problem` the document of the answer."""

    def __init__(self, text: str, status: int = 0, problem: Mapping[str, object] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.problem = problem or {}


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: its document and the version of the configuration that it is about."""

    document: object
    version: int


class Api:
    """A control plane's REST API. Methods raise ApiError."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._token = token
        # Never by a proxy of the environment: the token is for the control plane alone.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        if_version: int | None = None,
    ) -> Answer:
        """One request; with `if_version`, only if that is still the current version (else ApiError, status 412)."""
        url = self.url + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        if if_version is not None:
            headers["If-Match"] = f'"{if_version}"'
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - checked by `connect`
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                document = json.loads(response.read(ANSWER_LIMIT_BYTES))
                etag = response.headers.get("ETag", '"0"').strip('"')
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ApiError(f"{self.url}: {reason}; is the control plane running? (--api, $PAIFANG_API)") from None
        return Answer(document, int(etag) if etag.isdigit() else 0)


def connect(url: str | None, token: str | None, state: Path) -> Api:
    """The API that the options, the environment or the state directory name. Raises ApiError."""
    note = _note(state)
    url = url or os.environ.get("PAIFANG_API") or note.get("api") or DEFAULT_API
    if not url.startswith(("http://", "https://")):
        raise ApiError(f"{url}: give http://HOST:PORT")
    token = token or os.environ.get("PAIFANG_TOKEN")
    if token is None:
        file = Path(note.get("token_file") or state / "control" / "token")
        try:
            token = file.read_text().strip()
        except OSError as error:
            raise ApiError(f"no token: {file}: {error.strerror}; give --token or $PAIFANG_TOKEN") from None
    return Api(url, token)


def default_state() -> Path:
    """The state directory of `paifang up`."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "paifang"


def _note(state: Path) -> dict[str, str]:
    """What a running `paifang up` has written down; empty without one."""
    try:
        note: dict[str, str] = json.loads((state / NOTE).read_text())
    except (OSError, ValueError):
        return {}
    return note


def _refusal(error: urllib.error.HTTPError) -> ApiError:
    try:
        problem = json.loads(error.read(1 << 20))
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return ApiError(f"the control plane answers {error.code} {error.reason}", error.code)
    listed = [str(entry.get("text")) for entry in problem.get("errors", ())]
    return ApiError("\n".join([*listed, detail]), error.code, problem)
