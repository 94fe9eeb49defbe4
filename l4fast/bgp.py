"""What BIRD is told, and what it says. Pure.

BIRD has the addresses as static routes that go to no kernel, and tells them to each router that it is given, with
itself as the next hop. All nodes tell of the VIPs alike, so that the routers spread flows over them (ECMP). An address
of a source pool is for its own node; the others lengthen the AS path by their rank, so that their routes serve when
that node is gone. A session carries the IP version of its neighbour's address. BFD finds a dead neighbour in 300 ms.

BIRD answers on a unix socket, in lines that begin with a number of four digits (bird-2.0.12, doc/reply_codes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.endpoints import version
from l4fast.shares import Share

BFD_INTERVAL_MS: Final = 100
BFD_MULTIPLIER: Final = 3
HOLD_S: Final = 9  # for routers without BFD
PREPENDS_MOST: Final = 8
ESTABLISHED: Final = "Established"

_CODE = re.compile(r"(\d{4})([ -])")
_ROUTE = re.compile(r"^    route ([0-9a-f.:]+)/(?:32|128) blackhole", re.MULTILINE)
_PROTOCOL = re.compile(r"(\S+)\s+BGP\s+\S+\s+(\S+)\s+\S+(?: \S+)?(?:\s+(.*))?")
_SESSION = re.compile(r"([0-9a-fA-F.:]+)\s+\S+\s+(Up|Down|Init|AdminDown)\s")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A router that hears of the addresses."""

    address: str
    number: int  # of its autonomous system


def configuration(
    shares: Sequence[Share], pools: frozenset[str], *, router_id: str, local_as: int, neighbours: Sequence[Neighbour],
    password: str = "",
) -> str:  # fmt: skip
    """bird.conf. `pools`: those of the addresses that belong to one node."""
    parts = [
        "# Written by paifang l4, and overwritten.",
        "log stderr { info, remote, warning, error, auth, fatal, bug };",
        f"router id {router_id};",
        "protocol device { scan time 1; }",
        f'protocol bfd {{ interface "*" {{ interval {BFD_INTERVAL_MS} ms; multiplier {BFD_MULTIPLIER}; }}; }}',
    ]
    for ip in (4, 6):
        parts.append(f"protocol static vips{ip} {{\n    ipv{ip};")
        parts += [_route(share, pools, local_as) for share in shares if version(share.address) == ip]
        parts.append("}")
    for name, neighbour in names(neighbours).items():
        parts += _session(name, neighbour, local_as, password)
    return "\n".join(parts) + "\n"


def _route(share: Share, pools: frozenset[str], local_as: int) -> str:
    route = f"    route {share.address}/{32 if version(share.address) == 4 else 128} blackhole"
    longer = min(share.rank, PREPENDS_MOST) if share.address in pools else 0
    return route + (f" {{ {f'bgp_path.prepend({local_as}); ' * longer}}};" if longer else ";")


def _session(name: str, neighbour: Neighbour, local_as: int, password: str) -> list[str]:
    return [
        f"protocol bgp {name} {{",
        f"    local as {local_as};",
        f"    neighbor {neighbour.address} as {neighbour.number};",
        *([f'    password "{password}";'] if password else []),
        f"    hold time {HOLD_S};",
        "    connect delay time 1;",
        "    error wait time 1, 5;",
        "    bfd on;",
        "    graceful restart off;",
        f"    ipv{version(neighbour.address)} {{",
        "        import none;",
        "        export where source = RTS_STATIC;",
        "        next hop self;",
        "    };",
        "}",
    ]


def configured(text: str) -> tuple[str, ...]:
    """The addresses that a configuration of ours announces."""
    return tuple(_ROUTE.findall(text))


def names(neighbours: Sequence[Neighbour]) -> dict[str, Neighbour]:
    """What the sessions are called in the configuration and in BIRD's answers."""
    return {f"router{number}": neighbour for number, neighbour in enumerate(neighbours, 1)}


def protocols(lines: Sequence[str]) -> dict[str, str]:
    """`show protocols`: the state of each BGP session in BIRD's words: `Established`, `Active`, `Connect`, …, with the
    reason for the last failure where there is one."""
    matches = (_PROTOCOL.fullmatch(line.strip()) for line in lines)
    return {match[1]: " ".join((match[3] or match[2]).split()) for match in matches if match}


def bfd_sessions(lines: Sequence[str]) -> dict[str, str]:
    """`show bfd sessions`: the state of each by the neighbour's address."""
    matches = (_SESSION.match(line.strip() + " ") for line in lines)
    return {match[1]: match[2] for match in matches if match}


class Answers:
    """The answer to one command, however it is cut: complete with a line whose number is followed by a space."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.code = -1  # of the last line, once it is there
        self._rest = ""

    def receive_data(self, data: bytes) -> bool:
        """Returns whether the answer is complete."""
        *lines, self._rest = (self._rest + data.decode("utf-8", "replace")).split("\n")
        for line in lines:
            match = _CODE.match(line)
            self.lines.append(line[5:] if match else line.removeprefix(" "))
            if match and match[2] == " ":
                self.code = int(match[1])
        return self.code >= 0
