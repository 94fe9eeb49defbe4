"""The OpenAPI 3.1 document of the users' API, from the routes that serve it and the model that validates. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version

from control.forms import FORMS
from control.problem import TITLES
from control.routes import PROBLEM, Answer, Parameter, Route, Schema
from core.model import CLASSES
from core.schema import Json, reference, schema

OPENAPI = "3.1.0"
BEARER = "bearer"
EVERYWHERE = (421, 429, 500, 503)  # whoever asks, whatever for
DESCRIPTION = (
    "Load balancer cluster. Every write is checked against the whole configuration, stored as a whole under the next "
    "version number and handed out as a whole; `dry_run=1` answers with the plan alone. Errors name all that is wrong."
)


def document(routes: Iterable[Route]) -> Json:
    """The document of an API that has these routes."""
    components: Json = {}
    for cls in CLASSES.values():
        schema(cls, components)
    for name, form in FORMS.items():
        components[name] = schema(form, components)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, components)
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "Paifang",
            "version": version("paifang"),
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8470", "description": "the control plane's own machine"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {BEARER: {"type": "http", "scheme": "bearer", "description": "a token"}},
        },
    }


def _operation(route: Route, components: Json) -> Json:
    placed = {"path": [route.part(name) for name in _names(route.path)], "query": route.query, "header": route.headers}
    parameters = [_parameter(each, place, components) for place, listed in placed.items() for each in listed]
    made: Json = {
        "operationId": _identifier(route),
        "summary": route.summary,
        "responses": _responses(route, components),
        "security": [] if route.role is None else [{BEARER: [route.role.value]}],
    }
    if route.tag:
        made["tags"] = [route.tag]
    if route.description:
        made["description"] = route.description
    if parameters:
        made["parameters"] = parameters
    if route.body is not None:
        content = _content((route.body, *route.bodies), components)
        made["requestBody"] = {"content": content, "required": True}
    return made


def _parameter(parameter: Parameter, place: str, components: Json) -> Json:
    form = schema(parameter.annotation, components)
    made: Json = {"name": parameter.name, "in": place, "description": parameter.what, "schema": form}
    if place == "path":
        made["required"] = True
    elif parameter.many:
        made |= {"schema": {"type": "array", "items": form}, "style": "form", "explode": True}
    elif parameter.default not in (None, ""):
        made["schema"] = {**form, "default": parameter.default}
    return made


def _responses(route: Route, components: Json) -> Json:
    made = {str(status): _answer(answer, components) for status, answer in sorted(route.answers.items())}
    refusals = {400, *EVERYWHERE, *route.problems} | ({401, 403} if route.role is not None else set())
    if route.method in ("POST", "PUT", "PATCH"):
        refusals.add(408)
    body = {PROBLEM: {"schema": reference("Problem")}}
    return made | {str(each): {"description": TITLES[each], "content": body} for each in sorted(refusals)}


def _answer(answer: Answer, components: Json) -> Json:
    made: Json = {"description": answer.what}
    if answer.body is not None:
        made["content"] = _content((answer.body, *answer.others), components)
    if answer.headers:
        made["headers"] = {
            each.name: {"description": each.what, "schema": schema(each.annotation, components)}
            for each in answer.headers
        }
    return made


def _content(bodies: Iterable[Schema], components: Json) -> Json:
    made: Json = {}
    for body in bodies:
        made[body.media_type] = {"schema": schema(body.form, components)}
        if body.example is not None:
            made[body.media_type]["example"] = body.example
    return made


def _names(path: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", path)


def _identifier(route: Route) -> str:
    """get_listeners_name: unique, since method and path are."""
    words = re.findall(r"\w+", route.path.removeprefix("/v1"))
    return "_".join([route.method.lower(), *words])
