"""A route of the users' API as data: from it come the router, the check of roles and parameters, and the OpenAPI
document, so that none of them can say anything that the others do not.

A parameter says what it may hold as a field of the model does (`Annotated[int, Range(1, 100)]`); it is read by
`core.reader`, whose messages name the remedy. A parameter that no route knows is refused: whoever writes `?dryrun=1`
would otherwise make the change. Handlers take what was read from `asked(request)`.

    ROUTES = (Route("GET", "/v1/things/{name}", get_thing, ApiRole.READ, "One thing", answers={200: Answer("it")}),)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

from aiohttp import web

from control.roles import ApiRole
from core.errors import ConfigError, ConfigErrors, Problem
from core.fields import NAME
from core.reader import INVALID, did_you_mean, read, split

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON = "application/json"
PROBLEM = "application/problem+json"
_ASKED = web.RequestKey("asked", Mapping[str, object])


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, the path or the head. `default` is what handlers get where it is not given.

    With `many` it may be given several times, and handlers get a tuple.
    """

    name: str
    annotation: object
    what: str
    default: object = None
    many: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """A body. `form` is a JSON Schema (2020-12) or what a field of the model may be annotated with, such as a class."""

    form: object
    media_type: str = JSON
    example: object = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back with a status; without a `body` there is none. `others` are further forms that it may have."""

    what: str
    body: Schema | None = None
    headers: tuple[Parameter, ...] = ()
    others: tuple[Schema, ...] = ()


OK: Mapping[int, Answer] = MappingProxyType({200: Answer("done", Schema({"type": "object"}))})


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path, `/v1/things/{name}`. `role` is what a token needs; None: not even a token is needed.

    `parts` say what stands in the path's braces; those that are not listed are names. `problems` are the refusals that
    this route has besides 400, 401, 403 and 500. `bodies` are further forms in which the body may come. Requests
    other than GET are written into the audit log; those that are not `audited` where the handler notes a change.
    """

    method: str
    path: str
    handler: Handler
    role: ApiRole | None
    summary: str
    query: tuple[Parameter, ...] = ()
    body: Schema | None = None
    answers: Mapping[int, Answer] = field(default_factory=lambda: OK)
    description: str = ""
    parts: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    bodies: tuple[Schema, ...] = ()
    tag: str = ""
    audited: bool = True

    def part(self, name: str) -> Parameter:
        """What may stand in the braces `{name}`."""
        return next((part for part in self.parts if part.name == name), Parameter(name, Annotated[str, NAME], "name"))


ROUTES_BY_PLACE = web.AppKey("routes", dict[tuple[str, str], Route])


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Have `app` serve these; its middleware finds each by `route_of`."""
    table = app.setdefault(ROUTES_BY_PLACE, {})
    for route in routes:
        assert (route.method, route.path) not in table, f"{route.method} {route.path} is there twice"
        table[route.method, route.path] = route
        if route.method == "GET":
            app.router.add_get(route.path, route.handler)  # and HEAD
        else:
            app.router.add_route(route.method, route.path, route.handler)


def route_of(request: web.Request) -> Route | None:
    """The route that serves this request; None if none does."""
    resource = request.match_info.route.resource
    method = "GET" if request.method == "HEAD" else request.method
    return None if resource is None else request.app[ROUTES_BY_PLACE].get((method, resource.canonical))


def read_parameters(request: web.Request, route: Route) -> None:
    """Read the path and the query for `asked`. Raises HTTPBadRequest with everything that is wrong."""
    problems: list[Problem] = []
    found = {name: _read(route.part(name), text, problems) for name, text in request.match_info.items()}
    known = {parameter.name: parameter for parameter in route.query}
    for name in dict.fromkeys(request.query):
        if name in known:
            found[name] = _read_all(known[name], request.query.getall(name), problems)
        else:
            remedy = did_you_mean(name, known) or (f"known are {', '.join(known)}" if known else "there are none here")
            problems.append(Problem((name,), "is no parameter of this request", remedy))
    if problems:
        raise RequestError([ConfigError("query", 0, str(each.path[0]), each.why, each.suggestion) for each in problems])
    missing = {name: () if each.many else each.default for name, each in known.items()}
    request[_ASKED] = {**missing, **found}


class RequestError(ConfigErrors):
    """A request that cannot be read: parameters that are not what they should be, a body that is not JSON."""


def asked(request: web.Request) -> Mapping[str, object]:
    """The parameters of the path and the query by name, as their annotations say, or their defaults."""
    return request[_ASKED]


def text(request: web.Request, name: str) -> str:
    """A parameter that is a string."""
    return str(asked(request)[name])


def texts(request: web.Request, name: str) -> tuple[str, ...]:
    """A parameter that may be given several times."""
    found = asked(request)[name]
    assert isinstance(found, tuple)
    return found


def number(request: web.Request, name: str) -> int:
    """A parameter that is a whole number."""
    found = asked(request)[name]
    assert isinstance(found, int)
    return found


def flag(request: web.Request, name: str) -> bool:
    """A parameter that is true or false."""
    return asked(request)[name] is True


def _read_all(parameter: Parameter, given: list[str], problems: list[Problem]) -> object:
    if parameter.many:
        return tuple(_read(parameter, each, problems) for each in given)
    if len(given) > 1:
        problems.append(Problem((parameter.name,), f"is given {len(given)} times", "give it once"))
        return INVALID
    return _read(parameter, given[0], problems)


_FLAGS = {"1": True, "true": True, "0": False, "false": False}


def _read(parameter: Parameter, given: str, problems: list[Problem]) -> object:
    """A parameter's text as what its annotation wants."""
    bare, _ = split(parameter.annotation)
    value: object = given
    if bare is bool:
        if given not in _FLAGS:
            problems.append(Problem((parameter.name,), f"{given[:60]!r} is neither true nor false", "give 1 or 0"))
            return INVALID
        value = _FLAGS[given]
    elif bare is int and given.isascii() and given.isdigit() and len(given) < 20:
        value = int(given)
    return read(parameter.annotation, value, (parameter.name,), problems)
