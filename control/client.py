"""The command line's side of the REST API: blocking, without aiohttp, so that `paifang get` starts at once.

Where the API is and with which token is found in this order: options, $PAIFANG_API and $PAIFANG_TOKEN, then what
`paifang up` has noted in its state directory, last the default address and token file of a control plane started there.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from control import client_tls
from control.node.patience import patience
from control.token_format import PREFIX
from control.token_format import fault as token_fault

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

    def __init__(
        self,
        url: str,
        token: str,
        origin: str = "that was given",
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`origin` tells the user where the token is from, should it be refused. `tls` is for https."""
        self.url = url.rstrip("/")
        self._token = token
        self._origin = origin
        self._timeout_s = timeout_s
        # Never by a proxy of the environment: the token is for the control plane alone.
        handlers = [urllib.request.ProxyHandler({}), _NoRedirects(), urllib.request.HTTPSHandler(context=tls)]
        self._opener = urllib.request.build_opener(*handlers)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str | Sequence[str]] | None = None,
        if_version: int | None = None,
    ) -> Answer:
        """One request; with `if_version`, only if that is still the current version (else ApiError, status 412)."""
        url = self.url + path + (f"?{urllib.parse.urlencode(query, doseq=True)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        if if_version is not None:
            headers["If-Match"] = f'"{if_version}"'
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - checked by `connect`
        try:
            with (
                patience(f"paifang: waiting for {self.url} ({self._timeout_s:g} s at most)"),
                self._opener.open(request, timeout=self._timeout_s) as response,
            ):
                document = json.loads(response.read(ANSWER_LIMIT_BYTES) or "null")  # 204 has no body
                etag = response.headers.get("ETag", '"0"').strip('"')
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ApiError(
                f"{self.url}: {_unreachable(error, self.url, self._timeout_s)} (--api, $PAIFANG_API)"
            ) from None
        return Answer(document, int(etag) if etag.isdigit() else 0)

    def events(
        self, path: str, query: Mapping[str, str | Sequence[str]], timeout_s: float
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """A stream of server-sent events: name, id (empty without one) and data, until the control plane ends it."""
        url = f"{self.url}{path}?{urllib.parse.urlencode(query, doseq=True)}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._token}"})  # noqa: S310
        try:
            with self._opener.open(request, timeout=timeout_s) as response:
                fields: dict[str, str] = {}
                while line := response.readline(ANSWER_LIMIT_BYTES).decode():
                    name, _, value = line.rstrip("\n").partition(": ")
                    if name:
                        fields[name] = value
                    elif line == "\n" and "data" in fields:
                        yield fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
                        fields = {}
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ApiError(f"{self.url}: {_unreachable(error, self.url, timeout_s)} (--api, $PAIFANG_API)") from None

    def _refusal(self, error: urllib.error.HTTPError) -> ApiError:
        try:
            problem = json.loads(error.read(1 << 20))
            detail = str(problem["detail"])
        except (ValueError, KeyError, TypeError, OSError):
            why = f"{error.code} {error.reason}, as no control plane does; is this its REST API?"
            return ApiError(f"{self.url} answers {why} (--api, $PAIFANG_API)", error.code)
        if error.code == HTTPStatus.UNAUTHORIZED:
            return ApiError(f"{self.url} does not know the token {self._origin}: {detail}", error.code, problem)
        listed = [str(entry.get("text")) for entry in problem.get("errors", ())]
        return ApiError("\n".join([*listed, detail]), error.code, problem)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """No control plane redirects; whatever does would be sent the token."""

    def redirect_request(self, *_: object) -> None:
        return None


def connect(
    url: str | None, token: str | None, state: Path, *, ca: str | None = None, timeout_s: float = TIMEOUT_S
) -> Api:
    """The API that the options, the environment or the state directory name. Raises ApiError."""
    note = _note(state)
    url = url or os.environ.get("PAIFANG_API") or note.get("api") or DEFAULT_API
    if not url.startswith(("http://", "https://")):
        host = url.rpartition("://")[2]
        raise ApiError(f"{url}: give a URL, such as {f'http://{host}' if ':' in host else DEFAULT_API}")
    token, origin = _token(token, Path(note.get("token_file") or state / "control" / "token"))
    if not re.fullmatch("[!-~]+", token):
        raise ApiError(f"the token {origin} is not one word of ASCII")
    if token.startswith(PREFIX) and (wrong := token_fault(token)):
        raise ApiError(f"the token {origin} {wrong}")
    if why := client_tls.unencrypted(url):
        raise ApiError(f"{why} (--api, $PAIFANG_API)")
    try:
        tls = client_tls.context(ca) if url.startswith("https://") else None
    except client_tls.CaError as error:
        raise ApiError(str(error)) from None
    return Api(url, token, origin, timeout_s, tls)


def _token(option: str | None, file: Path) -> tuple[str, str]:
    """The token, and where it is from. Raises ApiError."""
    if option:
        return option, "of --token"
    if token := os.environ.get("PAIFANG_TOKEN"):
        return token, "of $PAIFANG_TOKEN"
    try:
        return file.read_text(errors="replace").strip(), f"of {file}; give its own by --token or $PAIFANG_TOKEN"
    except OSError as error:
        raise ApiError(f"no token: {file}: {error.strerror}; give --token or $PAIFANG_TOKEN") from None


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
    return note if isinstance(note, dict) else {}


def _unreachable(error: Exception, url: str, timeout_s: float) -> str:
    """What went wrong on the way to the API, and what may help."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLError):
        return client_tls.fault(reason, url)
    hung_up = isinstance(reason, http.client.BadStatusLine | ConnectionResetError)
    if hung_up and url.startswith("http://") and client_tls.speaks_tls(url):
        return f"it speaks TLS: give https://{url.removeprefix('http://')}"
    if isinstance(reason, TimeoutError):
        return f"no answer within {timeout_s:g} s; is the control plane running?"
    if isinstance(reason, OSError) and reason.strerror:
        return f"{reason.strerror}; is the control plane running?"
    return f"{reason}; is the control plane running?"
