"""`paifang certs list` and `paifang certs show`: the inventory of certificates, asked of the control plane."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from control import show
from control.client import ApiError, connect
from core.reader import did_you_mean

NAMES_SHOWN = 3
FACTS = (
    ("names", "names"),
    ("issuer", "issuer"),
    ("serial number", "serial_number"),
    ("key", "key_type"),
    ("key id", "key_id"),
    ("valid from", "begins"),
    ("valid until", "ends"),
    ("OCSP responder", "responder"),
    ("used by", "used_by"),
)


def list_all(options: argparse.Namespace) -> int:
    """Print all certificates, those that end first at the top."""
    found = _certificates(options)
    print(json.dumps(found, ensure_ascii=False) if options.json else table(found))
    return 0


def show_one(options: argparse.Namespace) -> int:
    """Print one certificate; 1 if something keeps it from being served."""
    found = {each["name"]: each for each in _certificates(options)}
    if options.name not in found:
        known = f"there are {', '.join(list(found)[:8])}" if found else "there are no certificates"
        raise ApiError(f"there is no certificate {options.name!r}; {did_you_mean(options.name, found) or known}")
    one = found[options.name]
    print(json.dumps(one, ensure_ascii=False) if options.json else facts(one))
    return 1 if one["problems"] else 0


def table(certificates: Sequence[Mapping[str, Any]]) -> str:
    """One line a certificate."""
    header = ("NAME", "NAMES", "ISSUER", "EXPIRES", "KEY", "USED BY", "REMARKS")
    rows = [
        (
            each["name"], _some(each.get("names", ())), each.get("issuer", "-"), each.get("ends", "-")[:10],
            each.get("key_type", "-"), ", ".join(each["used_by"]) or "-",
            "; ".join(_remarks(each)),
        )
        for each in certificates
    ]  # fmt: skip
    return show.table(rows, header) if rows else "there are no certificates"


def facts(one: Mapping[str, Any]) -> str:
    """All that is known of one, a fact a line, its chain and what is wrong below."""
    lines = [f"certificate {one['name']}"]
    for title, field in FACTS:
        value = one.get(field)
        text = ", ".join(value) if isinstance(value, list) else value
        if text and field == "responder" and one["must_staple"]:
            text += " (its answer must be stapled)"
        lines += [f"  {title:<15} {text}"] if text else []
    if (issuance := one.get("issuance")) is not None:
        lines.append(f"  {'issuance':<15} {issuance.get('text', '')}")
    for place, each in enumerate(one.get("links", ()), 1):
        lines.append(f"  chain {place:<9} {each['subject']}, until {each['ends'][:10]}")
    lines += [f"  ! {text}" for text in (one["warning"], *one["problems"]) if text]
    return "\n".join(lines)


def _remarks(each: Mapping[str, Any]) -> list[str]:
    own = f"certificate {each['name']!r} "
    return [text.removeprefix(own) for text in (each["warning"], *each["problems"]) if text]


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _certificates(options: argparse.Namespace) -> list[dict[str, Any]]:
    document = (
        connect(options.api, options.token, options.state, ca=options.ca).request("GET", "/v1/inventory").document
    )
    return cast("dict[str, list[dict[str, Any]]]", document)["certificates"]
