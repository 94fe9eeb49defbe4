"""The requests that are sent: `requests.http` with what differs filled in, from one seed for all."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).parent / "requests.http"
SEED = 7
COUNT = 5000
USERS = 500


class Kind(NamedTuple):
    """One kind of request. `share` of a thousand are such."""

    share: int
    name: str
    text: str


def kinds() -> list[Kind]:
    """The kinds in the file."""
    _, *parts = re.split(r"^### ", FILE.read_text(), flags=re.MULTILINE)
    found = []
    for part in parts:
        title, _, text = part.partition("\n")
        share, _, name = title.partition(" ")
        head, _, body = text.strip("\n").partition("\n\n")
        found.append(Kind(int(share), name, head.replace("\n", "\r\n") + "\r\n\r\n" + body))
    return found


def requests(count: int = COUNT, *, fields: str = "") -> list[bytes]:
    """So many whole requests, the same ones each time. `fields` are added to each head."""
    choice = random.Random(SEED)
    found = kinds()
    chosen = choice.choices(found, [kind.share for kind in found], k=count)
    return [_filled(kind.text, choice).replace("\r\n\r\n", f"\r\n{fields}\r\n", 1).encode() for kind in chosen]


def _filled(text: str, choice: random.Random) -> str:
    user = random.Random(choice.randrange(USERS))
    values = {
        "path": f"/items/{choice.randrange(1_000_000)}",
        "page": f"/list/{choice.randrange(2000)}",
        "query": f"page={choice.randrange(50)}&sort=price&q=a%20b",
        "id": f"{choice.randrange(100_000)}",
        "visitor": f"{user.randrange(10**9)}",
        "session": f"{user.getrandbits(128):032x}",
        "token": f"{user.getrandbits(512):0128x}",
        "tag": f"{choice.getrandbits(64):016x}",
        "day": f"Mon, {choice.randrange(10, 29)} Oct 2026 07:28:00 GMT",
        "trace": f"{choice.getrandbits(128):032x}",
    }
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)


def script(found: list[bytes]) -> str:
    """A script for wrk that sends these in their order, over and over."""
    lines = "\n".join(f"requests[{number}] = {_quoted(each)}" for number, each in enumerate(found, 1))
    return f"""local requests = {{}}
{lines}
local n = 0
request = function() n = n % {len(found)} + 1 return requests[n] end
"""


def _quoted(data: bytes) -> str:
    text = data.decode("ascii").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\r", "\\r").replace("\n", "\\n") + '"'
