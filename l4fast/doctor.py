"""Whether this machine can run the data plane at all: `paifang doctor` asks, in a process of its own.

The XDP program is compiled and loaded, with small tables, which is all that the verifier needs; it is attached to
nothing, and gone when the process ends.
"""

from __future__ import annotations

import os
import time

from l4fast.errors import LoadError


def look() -> dict[str, object]:
    """`bcc`: why it is missing, or empty. `program`: why it does not load, empty, or None where only root can tell."""
    from l4fast.compiler import library

    try:
        library()
    except LoadError as error:
        return {"bcc": str(error), "program": None, "seconds": 0.0}
    if os.geteuid() != 0:
        return {"bcc": "", "program": None, "seconds": 0.0}
    from l4fast.loader import DataPlane

    began = time.monotonic()
    try:
        DataPlane.load(sessions=1024, half_open=1024, fragments=64, listeners=16, members=64, clients=64).close()
    except (LoadError, OSError) as error:
        return {"bcc": "", "program": str(error)[:2000], "seconds": 0.0}
    return {"bcc": "", "program": "", "seconds": round(time.monotonic() - began, 3)}
