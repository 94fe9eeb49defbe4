"""The documents of the users' API that are no objects of the model, as JSON Schema. `{"$ref": "Name"}` is one of these
or a class of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.happenings import EventKind
from control.series import FIELDS as SERIES_FIELDS
from control.series import QUANTILES
from core.fields import NAME, Kind
from core.model import CLASSES
from core.plan import Operation

TEXT = {"type": "string"}
WHOLE = {"type": "integer", "minimum": 0}
NUMBER = {"type": "number"}
KIND = {"type": "string", "enum": [kind.value for kind in Kind]}
NAMED = {"type": "string", "maxLength": 80}


def table(properties: Mapping[str, object], *optional: str, description: str = "", closed: bool = False) -> Any:
    """The schema of a JSON object, all of whose members are there but for the optional ones."""
    made: dict[str, object] = {"type": "object", "properties": dict(properties)}
    if required := [name for name in properties if name not in optional]:
        made["required"] = required
    if description:
        made["description"] = description
    return made | {"additionalProperties": False} if closed else made


def items(form: object) -> Mapping[str, object]:
    """The schema of a list."""
    return {"type": "array", "items": form}


def nullable(form: object) -> Mapping[str, object]:
    """The schema of what may be null."""
    return {"anyOf": [form, {"type": "null"}]}


ENTRY = {
    "version": WHOLE,
    "created": {**NUMBER, "description": "Unix time in seconds"},
    "author": {**TEXT, "description": "the name of the token"},
    "comment": TEXT,
}
_CHANGES = items({"$ref": "Change"})
_GROUP = table({"kind": {"enum": ["server_groups", "availability_groups"]}, "name": TEXT})
_END = table(
    {
        "kind": {"enum": ["clients", "vip", "l4", "l7", "group"]},
        "name": TEXT,
        "group_kind": {"enum": ["server_groups", "availability_groups"], "description": "of groups"},
    },
    "group_kind",
)


def _of(kind: Kind) -> object:
    """An object of a configuration: its name stands in it, but for a listener's, which its protocol and port make."""
    form = {"$ref": CLASSES[kind].__name__}
    return form if kind is Kind.LISTENERS else {"allOf": [form], "required": ["name"]}


FORMS: Mapping[str, object] = {
    "Configuration": {
        **table({kind.value: items(_of(kind)) for kind in Kind}, *(kind.value for kind in Kind), closed=True),
        "description": "A whole configuration. What stands at its default may be left out, and is in answers.",
    },
    "Change": table(
        {
            "op": {"type": "string", "enum": [operation.value for operation in Operation]},
            "kind": KIND,
            "name": NAMED,
            "old": nullable({"type": "object"}),
            "new": nullable({"type": "object"}),
        },
        description="What happens to one object; `old` and `new` are as they stand in a configuration.",
    ),
    "Changed": table({"version": WHOLE, "dry_run": {"type": "boolean"}, "changes": _CHANGES}),
    "Edits": table({"changes": {**items({"$ref": "Edit"}), "maxItems": 10_000}}, closed=True),
    "Edit": table(
        {
            "op": {
                "type": "string",
                "enum": ["create", "update", "put", "patch", "delete"],
                "description": "`put` creates or replaces; `create` needs that it is not there, the others that it is",
            },
            "kind": KIND,
            "name": {"type": "string", "pattern": f"^(?:{NAME.regex})$"},
            "object": {
                "type": "object",
                "description": "as in a PUT or, with `patch`, a PATCH; none to delete",
            },
            "if_match": {**TEXT, "description": "the ETag that the object has to have"},
        },
        "object",
        "if_match",
        closed=True,
    ),
    "Versions": table({"versions": items(table({**ENTRY, "changes": nullable(_CHANGES)}, "changes"))}),
    "Diff": table({"from": WHOLE, "to": WHOLE, "changes": _CHANGES}),
    "Version": table({**ENTRY, "config": {"$ref": "Configuration"}, "changes": nullable(_CHANGES)}),
    "Problem": table(
        {
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "errors": items({"$ref": "Fault"}),
            "current_version": WHOLE,
            "current_etag": TEXT,
        },
        "errors",
        "current_version",
        "current_etag",
        description="What is wrong, all of it (RFC 9457).",
    ),
    "Fault": table(
        {
            "object": {**TEXT, "description": "where: listeners.web.port"},
            "why": TEXT,
            "suggestion": {**TEXT, "description": "what would be right"},
            "line": {**WHOLE, "description": "of the body; 0 where it has no lines"},
            "text": {**TEXT, "description": "all of it in one line"},
        }
    ),
    "Health": table({"status": {"const": "ok"}, "version": WHOLE}),
    "Status": table(
        {
            "version": WHOLE,
            "nodes": items({"$ref": "NodeStatus"}),
            "warnings": items(TEXT),
            "groups": items({"$ref": "ZoneOfGroup"}),
        }
    ),
    "ZoneOfGroup": table(
        {
            "group": TEXT,
            "zone": {**TEXT, "description": "empty: members that name none"},
            "racks": items(TEXT),
            "members": WHOLE,
            "percent": {**NUMBER, "description": "of the group's weight"},
            "down": {**WHOLE, "description": "members that some node holds for unhealthy"},
        }
    ),
    "NodeStatus": table(
        {
            "role": TEXT,
            "name": TEXT,
            "step": {"type": "string", "enum": ["in step", "lagging", "silent"]},
            "why": {**TEXT, "description": "what is not in step; else empty"},
            "version": nullable(WHOLE),
            "age_s": nullable(NUMBER),
            "facts": {"type": "object", "description": "what the node reports"},
            "listed": {"type": "boolean", "description": "whether it stands in the configuration"},
            "since_s": nullable({**NUMBER, "description": "for how long it has not been in step"}),
            "member": {**TEXT, "description": "revoked, where its identity is refused; else empty"},
        }
    ),
    "Rates": table(
        dict.fromkeys(
            (
                "bytes_in_per_s",
                "bytes_out_per_s",
                "packets_in_per_s",
                "connections_per_s",
                "connections",
                "requests_per_s",
                "errors_per_s",
            ),
            nullable(NUMBER),
        ),
        description="In a second, and connections (L4: sessions) that are open. Null: not counted there, not yet "
        "known. Errors are answers of 5xx; of servers failures as well.",
    ),
    "Topology": table(
        {
            "version": WHOLE,
            "at": NUMBER,
            "window_s": NUMBER,
            "clients": table(
                dict.fromkeys(
                    ("bytes_in_per_s", "bytes_out_per_s", "connections_per_s", "requests_per_s", "connections"),
                    nullable(NUMBER),
                )
            ),
            "instances": items(table({"name": TEXT, "type": TEXT, "vips": items(TEXT)})),
            "instances_total": WHOLE,
            "listeners": items(
                table(
                    {
                        "name": TEXT,
                        "instance": TEXT,
                        "protocol": TEXT,
                        "port": WHOLE,
                        "enabled": {"type": "boolean"},
                        "tier": {"enum": ["l4", "l7"]},
                        "groups": items(_GROUP),
                        "rates": {"$ref": "Rates"},
                    }
                )
            ),
            "listeners_total": WHOLE,
            "nodes": items(
                table(
                    {
                        "role": TEXT,
                        "name": TEXT,
                        "step": TEXT,
                        "why": TEXT,
                        "version": nullable(WHOLE),
                        "age_s": nullable(NUMBER),
                        "draining": {"type": "boolean"},
                        "software": nullable(TEXT),
                        "rates": {"$ref": "Rates"},
                        "sessions": nullable(WHOLE),
                    }
                )
            ),
            "groups": items(
                table(
                    {
                        **_GROUP["properties"],
                        "backend_services": items(TEXT),
                        "rates": {"$ref": "Rates"},
                        "servers_total": WHOLE,
                        "servers_by_state": table(dict.fromkeys(("up", "down", "draining", "unknown"), WHOLE)),
                        "servers": items(
                            table(
                                {
                                    "address": TEXT,
                                    "port": WHOLE,
                                    "weight": WHOLE,
                                    "zone": TEXT,
                                    "rack": TEXT,
                                    "state": {"enum": ["up", "down", "draining", "unknown"]},
                                    "down_on": {**items(TEXT), "description": "nodes that hold it for down"},
                                    "why": TEXT,
                                    "rates": {"$ref": "Rates"},
                                }
                            )
                        ),
                    }
                )
            ),
            "groups_total": WHOLE,
            "links": items(
                table(
                    {
                        "from": _END,
                        "to": _END,
                        "bytes_per_s": nullable(NUMBER),
                        "requests_per_s": nullable(NUMBER),
                        "connections_per_s": nullable(NUMBER),
                    }
                )
            ),
        }
    ),
    "Series": table(
        {
            "of": TEXT,
            "start": {**WHOLE, "description": "Unix time at which the first slot begins"},
            "step_s": WHOLE,
            "kept": {"type": "boolean", "description": "false: it has just come, or is one too many"},
            "series": table(dict.fromkeys((*SERIES_FIELDS, *QUANTILES), items(nullable(NUMBER)))),
            "dropped": {"type": "object", "description": "how many of each kind are not kept"},
        }
    ),
    "Talkers": table(
        {
            "tier": {"enum": ["l4", "l7"]},
            "by": {"enum": ["client", "flow", "server"]},
            "nodes": {**WHOLE, "description": "that were asked"},
            "ready": {"type": "boolean", "description": "false: they have begun to count; ask again"},
            "window_s": NUMBER,
            "share": {**WHOLE, "description": "one in so many sessions was looked at"},
            "talkers": items({"type": "object"}),
            "sessions": items(table({"listener": TEXT, "state": TEXT, "sessions": WHOLE})),
            "silent": {"type": "object", "description": "who did not answer, and why"},
        }
    ),
    "Events": table(
        {
            "events": items(
                table(
                    {
                        "id": WHOLE,
                        "at": NUMBER,
                        "kind": {"enum": [kind.value for kind in EventKind]},
                        "severity": {"enum": ["info", "warning", "error"]},
                        "object": TEXT,
                        "text": TEXT,
                        "fields": {"type": "object"},
                    }
                )
            ),
            "next": {**WHOLE, "description": "what `after` gets for those that come after these"},
        }
    ),
    "Inventory": table({"certificates": items(table({"name": TEXT, "problems": items(TEXT)}))}),
    "Issuance": table(
        {"issuer": {"type": "string", "minLength": 1}, "certificates": {"type": "object"}},
        description="What the issuer of certificates does for each, by name.",
    ),
}
