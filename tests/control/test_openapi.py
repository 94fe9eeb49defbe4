"""The OpenAPI document: sound, whole, and the one that is served and printed."""

import json
import subprocess
import sys
from typing import Annotated, Any

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from control.api import ROUTES, openapi
from control.openapi import document
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema
from core.fields import Kind, Range
from core.services import Ejection


async def handler(request: web.Request) -> web.Response:
    return web.json_response({})


def test_the_document_is_openapi() -> None:
    OpenAPIV31SpecValidator(openapi()).validate()
    wrong = {**openapi(), "paths": {"/v1/x": {"get": {"responses": 1}}}}
    with pytest.raises(OpenAPIValidationError):
        OpenAPIV31SpecValidator(wrong).validate()


def test_every_route_is_in_it() -> None:
    told = {(method.upper(), path) for path, item in openapi()["paths"].items() for method in item}
    assert told == {(route.method, route.path) for route in ROUTES}
    identifiers = [operation["operationId"] for item in openapi()["paths"].values() for operation in item.values()]
    assert len(set(identifiers)) == len(identifiers)
    assert {"/v1/" + kind for kind in Kind} <= openapi()["paths"].keys()


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(openapi())
    referred = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert referred <= openapi()["components"]["schemas"].keys()


BEGUN = Answer(
    "begun", Schema({"$ref": "Change"}), (Parameter("ETag", str, "of it"),), (Schema({"type": "string"}, "text/csv"),)
)


def test_a_route_as_an_operation() -> None:
    route = Route(
        "POST", "/v1/things/{name}/parts/{n}", handler, ApiRole.OPERATE, "Do it",
        (Parameter("limit", Annotated[int, Range(1, 9)], "how many", 5), Parameter("tag", str, "which", many=True)),
        Schema(Ejection), {202: BEGUN},
        parts=(Parameter("n", int, "number"),), problems=(404,), headers=(Parameter("If-Match", str, "what"),),
        tag="things", description="More of it.",
    )  # fmt: skip
    made: dict[str, Any] = document([route])["paths"]["/v1/things/{name}/parts/{n}"]["post"]
    assert made["operationId"] == "post_things_name_parts_n"
    assert made["security"] == [{"bearer": ["operate"]}]
    places = {(each["in"], each["name"]): each for each in made["parameters"]}
    assert list(places) == [
        ("path", "name"),
        ("path", "n"),
        ("query", "limit"),
        ("query", "tag"),
        ("header", "If-Match"),
    ]
    assert places["path", "name"]["schema"]["pattern"] == "^(?:[A-Za-z0-9][A-Za-z0-9._-]{0,79})$"
    assert places["query", "limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 5}
    assert places["query", "tag"]["schema"]["type"] == "array"
    assert sorted(made["responses"]) == ["202", "400", "401", "403", "404", "408", "421", "429", "500", "503"]
    assert made["responses"]["202"]["headers"]["ETag"]["schema"] == {"type": "string"}
    assert list(made["responses"]["202"]["content"]) == ["application/json", "text/csv"]
    assert list(made["responses"]["404"]["content"]) == ["application/problem+json"]
    body = made["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Ejection"}
    open_to_all = Route("GET", "/v1/x", handler, None, "x")
    assert document([open_to_all])["paths"]["/v1/x"]["get"]["security"] == []


def test_the_command_prints_it() -> None:
    done = subprocess.run([sys.executable, "-m", "control", "--openapi"], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == openapi()
