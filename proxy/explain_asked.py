"""`python -m proxy.explain_asked`: one question on standard input, one answer on standard output, both JSON.

For `paifang explain` and the control plane, which have no part of the proxy in themselves (docs/decisions/0151).
The question is {"config", "request": {…Wanted}, "facts": {…}}; the answer is what `core.explain.document` makes, or
{"wrong": TEXT} for a question that makes no sense.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from core.config import read_tables
from core.explain import ExplainError, Facts, document
from proxy.explain import Wanted, request
from proxy.explain_choice import Health
from proxy.explain_way import Known


def main() -> int:
    """Always 0: what is wrong with the question stands in the answer."""
    question = json.load(sys.stdin)
    try:
        answer = answered(question)
    except ExplainError as error:
        answer = {"wrong": str(error)}
    json.dump(answer, sys.stdout)
    return 0


def answered(question: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ExplainError."""
    asked, facts = question["request"], question["facts"]
    client = asked.get("client")
    wanted = Wanted(
        asked["url"], asked.get("method", "GET"), tuple(asked.get("fields", ())),
        (client[0], client[1]) if client else None, asked.get("to", ""), asked.get("sni"),
    )  # fmt: skip
    known = Known(
        Facts(facts["l4_down"], facts["seed"], facts["known"], (facts["said"][0], facts["said"][1])),
        Health(facts["down"], facts["ejected"], facts["differ"], facts["known"]),
        bytes.fromhex(facts["cookie_secret"]), facts["node"],
    )  # fmt: skip
    return document(request(read_tables(question["config"]), wanted, known))


if __name__ == "__main__":
    sys.exit(main())
