"""Weights of servers, and of the parts of a split, which whoever operates a cluster may set without the right to change
anything else: a server of weight 0 drains, and a canary grows or ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from aiohttp import web

from control.edit import Edit, MissingError, Op
from control.handling import CHANGED, CHANGING, CONDITIONS, after_edits, body_of, change
from control.roles import ApiRole
from control.routes import Route, Schema, text
from core.config import to_table
from core.endpoints import endpoint
from core.fields import Address, Kind, Range, Ref
from core.model import AvailabilityGroup, Model, Server, ServerGroup

SHOWN = 8


@dataclass(frozen=True, slots=True)
class Weight:
    """A server of the group, and the weight that it is to have; the others keep theirs."""

    address: Annotated[str, Address(unix=True)]
    weight: Annotated[int, Range(0, 100)]
    port: Annotated[int, Range(0, 65535)] = 0


@dataclass(frozen=True, slots=True)
class Weights:
    """Several servers' weights, set at once."""

    servers: tuple[Weight, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a rule's split, and the weight that it is to have; the others keep theirs."""

    backend_service: Annotated[str, Ref(Kind.BACKEND_SERVICES)]
    weight: Annotated[int, Range(0, 100)]


@dataclass(frozen=True, slots=True)
class Parts:
    """Several parts' weights, set at once."""

    split: tuple[Part, ...]


async def post_parts(request: web.Request) -> web.Response:
    name = text(request, "name")
    wanted = {each.backend_service: each.weight for each in (await body_of(request, Parts)).split}

    def make(model: Model) -> Model:
        rule = model.rules.get(name)
        if rule is None:
            raise MissingError(f"there is no rules/{name}")
        known = [share.backend_service for share in rule.split]
        if missing := [each for each in wanted if each not in known]:
            has = ", ".join(known[:SHOWN]) or "none"
            raise MissingError(f"the split of rules/{name} has no part {missing[0]}; it has {has}")
        weighed = [
            dataclasses.replace(share, weight=wanted.get(share.backend_service, share.weight)) for share in rule.split
        ]
        table = to_table(dataclasses.replace(rule, split=tuple(weighed)))
        return after_edits(model, [Edit(Op.PATCH, Kind.RULES, name, {"split": table["split"]})])

    told = ", ".join(f"{service} → {weight}" for service, weight in [*wanted.items()][:SHOWN])
    return await change(request, make, (Kind.RULES, name), comment=f"weights of rules/{name}: {told}")


async def post_weights(kind: Kind, request: web.Request) -> web.Response:
    name = text(request, "name")
    wanted = {(each.address, each.port): each.weight for each in (await body_of(request, Weights)).servers}

    def make(model: Model) -> Model:
        group = model.of(kind).get(name)
        if group is None:
            raise MissingError(f"there is no {kind.value}/{name}")
        field, servers = _servers(group)
        known = {(each.address, each.port) for each in servers}
        if missing := [each for each in wanted if each not in known]:
            has = ", ".join(endpoint(*each) for each in sorted(known)[:SHOWN]) or "none"
            raise MissingError(f"{kind.value}/{name} has no server {endpoint(*missing[0])}; it has {has}")
        weighed = [
            dataclasses.replace(each, weight=wanted.get((each.address, each.port), each.weight)) for each in servers
        ]
        body = {field: [_table(each) for each in weighed]}
        return after_edits(model, [Edit(Op.PATCH, kind, name, body)])

    told = ", ".join(f"{endpoint(*server)} → {weight}" for server, weight in [*wanted.items()][:SHOWN])
    return await change(request, make, (kind, name), comment=f"weights of {kind.value}/{name}: {told}")


def _servers(group: object) -> tuple[str, tuple[Server, ...]]:
    if isinstance(group, AvailabilityGroup):
        return "members", group.members
    assert isinstance(group, ServerGroup)
    return "servers", group.servers


def _table(server: Server) -> dict[str, object]:
    given = {field.name: getattr(server, field.name) for field in dataclasses.fields(server)}
    defaults = {field.name: field.default for field in dataclasses.fields(server)}
    return {name: value for name, value in given.items() if value != defaults[name]}


def _routes() -> Iterator[Route]:
    for kind in (Kind.SERVER_GROUPS, Kind.AVAILABILITY_GROUPS):
        yield Route(
            "POST", f"/v1/{kind.value}/{{name}}/weights", partial(post_weights, kind), ApiRole.OPERATE,
            "Weigh or drain servers", CHANGING, Schema(Weights), {200: CHANGED}, headers=CONDITIONS,
            problems=(404, 409, 412, 413, 422), tag=kind.value,
        )  # fmt: skip
    yield Route(
        "POST", "/v1/rules/{name}/weights", post_parts, ApiRole.OPERATE, "Weigh the parts of a split", CHANGING,
        Schema(Parts), {200: CHANGED}, headers=CONDITIONS, problems=(404, 409, 412, 413, 422), tag=Kind.RULES.value,
    )  # fmt: skip


ROUTES = tuple(_routes())
