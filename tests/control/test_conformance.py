"""The running API against its own OpenAPI document: schemathesis makes requests, sound ones and others.

No request makes an internal error; every answer is one that the document tells of; what the document forbids is
refused. That what it allows is accepted cannot be asked: references have to lead somewhere, and more of the kind.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks

from control import api
from control.access import Access, Limits
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from control.tokens import set_token
from core.fields import Kind


@schemathesis.serializer("application/toml")
def as_text(context: schemathesis.SerializationContext, value: object) -> bytes:
    return str(value).encode(errors="surrogatepass")


# Of a request that is wrong and comes with a condition that does not hold, the condition may be looked at first (412).
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "412", "415", "422", "428", "429", "5xx"]


def without_tokens(document: dict[str, Any]) -> dict[str, Any]:
    """Nothing about tokens: the session adds one to every request, which would not be wrong any more for lacking it."""
    paths = {
        path: {method: {key: value for key, value in operation.items() if key != "security"}
               for method, operation in operations.items()}
        for path, operations in document["paths"].items()
    }  # fmt: skip
    return document | {"paths": paths}


SCHEMA = schemathesis.openapi.from_dict(
    without_tokens(api.openapi()),
    config=SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}}),
)
POSITIVE = GenerationMode.POSITIVE
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.allow_header_conformance,
]
SITE: dict[str, Any] = {
    "server_groups": [{"name": "g", "servers": [{"address": "192.0.2.1", "port": 80}]}],
    "backend_services": [{"name": "b", "protocol": "http", "server_group": "g"}],
    "instances": [{"name": "i"}],
    "listeners": [{"name": "web", "instance": "i", "protocol": "http", "port": 80, "backend_service": "b"}],
}
NO_END = ("/v1/watch", "/v1/token/rotation")  # an answer without end; and what would end the token that it asks with


def operations(modes: Iterable[GenerationMode], shown: Callable[[str, str], bool]) -> list[Any]:
    """Every operation that is shown, with each mode; those that take nothing cannot be asked for anything wrong."""
    found = []
    for result in SCHEMA.get_all_operations():
        operation = result.ok()
        document = api.openapi()["paths"][operation.path][operation.method]
        for mode in modes:
            takes = "requestBody" in document or any(each["in"] != "header" for each in document.get("parameters", ()))
            if operation.path not in NO_END and shown(operation.method, operation.path) and (takes or mode is POSITIVE):
                found.append(pytest.param(operation, mode, id=f"{operation.label} {mode.value}"))
    return found


def is_quick(method: str, path: str) -> bool:
    """One kind stands for all, whose routes are alike; a whole configuration takes long to make up."""
    kinds = {kind.value for kind in Kind} - {Kind.LISTENERS.value}
    return path.split("/")[2] not in kinds and (method, path) != ("put", "/v1/config")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    """The API on a port of its own, in a thread; a session that has the token and knows where it is."""
    started, ended = threading.Event(), asyncio.Event()
    found: list[Any] = []

    async def serve() -> None:
        store = await SqliteStore.open(tmp_path_factory.mktemp("conformance") / "control.db")
        app = api.application(await ControlPlane.load(store), Access.of(store, Limits(1e6, 1e6)))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.extend((asyncio.get_running_loop(), runner.addresses[0][1], await set_token(store, "ann")))
        started.set()
        await ended.wait()
        await runner.cleanup()
        await store.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(60)
    loop, port, token = found
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {token}"
        session.base_url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
        assert session.put(f"{session.base_url}/v1/config", json=SITE).status_code == 200  # type: ignore[attr-defined]
        yield session
    loop.call_soon_threadsafe(ended.set)
    thread.join(60)
    assert not thread.is_alive()


def ask(operation: Any, mode: GenerationMode, session: requests.Session, **how: Any) -> None:
    """Ask for one operation again and again."""

    @settings(suppress_health_check=list(HealthCheck), deadline=None, database=None, phases=(Phase.generate,), **how)
    @given(case=operation.as_strategy(generation_mode=mode))
    def once(case: Case) -> None:
        case.call_and_validate(session.base_url, session, checks=CHECKS)  # type: ignore[attr-defined]

    once()


@pytest.mark.parametrize(("operation", "mode"), operations(GenerationMode, is_quick))
def test_what_is_answered_is_what_the_document_says(
    operation: Any, mode: GenerationMode, session: requests.Session
) -> None:
    ask(operation, mode, session, max_examples=3, derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("operation", "mode"), operations(GenerationMode, lambda *_: True))
def test_the_same_at_length(operation: Any, mode: GenerationMode, session: requests.Session) -> None:
    ask(operation, mode, session, max_examples=100)


def test_it_is_asked_for_both_sound_and_unsound() -> None:
    found = {each.id for each in operations(GenerationMode, is_quick)}
    for label in ("PATCH /v1/listeners/{name}", "POST /v1/changes"):
        assert {f"{label} {mode.value}" for mode in GenerationMode} <= found
    assert len(found) > 30, "each has an id of its own, by which processes share them"
