"""10,000 rules next to one: CPU per request of the proxy under the same load, and of the look-up alone.

For each kind of rule, two proxies get the same requests, in turns: one has a single rule that matches them all, the
other 10,000 rules of which each matches some. A request that found no rule would be a 404, which ends the run. The
look-up alone is some hundred nanoseconds, of which the memory's caches are the most: its rows have no goal.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import Row
from bench.l7.measures import interleaved, per_request_us
from bench.l7.proxies import Contender, backend, free_port
from control.node.tasks import Tasks
from core.config import from_dict, to_dict
from core.model import (
    BackendProtocol,
    BackendService,
    Condition,
    Instance,
    Listener,
    Model,
    Protocol,
    Rule,
    Server,
    ServerGroup,
)
from proxy.head import read_request
from proxy.message import RequestHead
from proxy.rules import Router
from proxy.server import Supervisor
from proxy.worker_process import Settings

RULES = 10_000
LOOKUPS = 100_000
SCRIPT = """
math.randomseed(7)
local requests = {}
for i = 1, 10000 do
  local n = math.random(0, 9999)
  requests[i] = wrk.format("GET", string.format("%PATH%", n), {
    ["Host"] = string.format("%HOST%", n), ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64)",%FIELD%
    ["Cookie"] = "session=" .. string.format("%08x", math.random(1, 1000000000)),
  })
end
local n = 0
request = function() n = n % 10000 + 1 return requests[n] end
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way in which rules differ: what request number n asks for (C formats), its rule, and one rule for all."""

    name: str
    host: str
    path: str
    one: Rule
    rule: Callable[[int], Rule]
    tenant: str = ""  # a field's value
    whole: bool = True  # whether whole requests are measured too

    @property
    def script(self) -> str:
        field = f'["X-Tenant"] = string.format("{self.tenant}", n),' if self.tenant else ""
        return SCRIPT.replace("%HOST%", self.host).replace("%PATH%", self.path).replace("%FIELD%", field)

    def request(self, number: int) -> RequestHead:
        texts = (self.path, self.host, self.tenant)
        path, host, tenant = (text % number if "%" in text else text for text in texts)
        head = read_request(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Tenant: {tenant}\r\n\r\n".encode())
        assert head is not None
        return head


BLANK = Rule("all", "web", "app")
KINDS = (
    Kind(
        "domains", "d%d.example.com", "/items?page=1",
        replace(BLANK, domain="*.example.com"), lambda n: replace(BLANK, name=f"r{n}", domain=f"d{n}.example.com"),
    ),
    Kind(
        "exact paths", "www.example.com", "/items/%d",
        replace(BLANK, url="/items"), lambda n: replace(BLANK, name=f"r{n}", path=f"/items/{n}"),
    ),
    Kind(
        "prefixes", "www.example.com", "/shops/%d/cart?page=1",
        replace(BLANK, url="/shops"), lambda n: replace(BLANK, name=f"r{n}", url=f"/shops/{n}"),
    ),
    Kind(
        "values of a field", "www.example.com", "/items",
        replace(BLANK, headers=(Condition("X-Tenant"),)),
        lambda n: replace(BLANK, name=f"r{n}", headers=(Condition("X-Tenant", (f"t{n}",)),)), "t%d",
    ),
    Kind(
        "priorities", "d%d.example.com", "/items/1",
        replace(BLANK, url="/items"),
        lambda n: replace(BLANK, name=f"r{n}", domain=f"d{n}.example.com", url="/items", priority=n + 1), whole=False,
    ),
)  # fmt: skip


def rules(kind: Kind) -> list[Rule]:
    return [kind.rule(number) for number in range(RULES)]


def model(port: int, backend: int, given: list[Rule]) -> Model:
    return Model(
        server_groups={"app": ServerGroup("app", (Server("127.0.0.1", backend),))},
        backend_services={"app": BackendService("app", BackendProtocol.HTTP, "app", health_check=None)},
        instances={"main": Instance("main")},
        listeners={"web": Listener("web", "main", Protocol.HTTP, port, idle_timeout_s=60)},
        rules={rule.name: rule for rule in given},
    )


@contextlib.asynccontextmanager
async def proxy(name: str, directory: Path, backend: int, given: list[Rule]) -> AsyncIterator[Contender]:
    """One worker with these rules and an access log."""
    tasks, port = Tasks(), free_port()
    supervisor = Supervisor(
        Settings("l7", 1, access_log=str(directory / f"{name}.log"), drain_s=1.0), tasks,
        lambda why: print(f"paifang: {why}", file=sys.stderr),
    )  # fmt: skip
    supervisor.start()
    try:
        await supervisor.apply(model(port, backend, given), 1)
        yield Contender(name, port, tuple(supervisor.pids))
    finally:
        await supervisor.drain()
        await tasks.close()


async def request_row(kind: Kind, directory: Path, backend: int, seconds: int, rounds: int) -> Row:
    script = directory / "rules.lua"
    script.write_text(kind.script)
    async with (
        proxy("one", directory, backend, [kind.one]) as one,
        proxy("many", directory, backend, rules(kind)) as many,
    ):
        await asyncio.to_thread(interleaved, [one, many], 1, lambda each: per_request_us(each, 1, str(script)))
        cost = await asyncio.to_thread(
            interleaved, [one, many], rounds, lambda each: per_request_us(each, seconds, str(script))
        )
    return Row(f"a request, 10,000 {kind.name}", "µs CPU", cost["many"], "one rule", cost["one"], 1.2)


def lookup_ns(router: Router, heads: list[RequestHead]) -> float:
    began = time.thread_time()
    for head in heads:
        router.route(head, head.target)
    return (time.thread_time() - began) / len(heads) * 1e9


def lookup_row(kind: Kind, rounds: int) -> Row:
    known = [kind.request(number) for number in range(RULES)]
    chosen = random.Random(7).choices(known, k=LOOKUPS)
    one, many = Router([kind.one], ""), Router(rules(kind), "")
    pairs = [(lookup_ns(one, chosen), lookup_ns(many, chosen)) for _ in range(rounds)]
    costs = [min(each) for each in zip(*pairs, strict=True)]
    return Row(f"the look-up alone, 10,000 {kind.name}", "ns CPU", costs[1], "one rule", costs[0])


def taking_rows() -> Iterator[Row]:
    """What it takes to read a configuration of so many rules, and to arrange them."""
    given = rules(KINDS[0])
    document = to_dict(model(80, 81, given))
    began = time.thread_time()
    from_dict(document)
    yield Row("10,000 rules read and checked", "ms CPU", (time.thread_time() - began) * 1e3, "bound", 2000.0, 1.0)
    began = time.thread_time()
    Router(given, "")
    yield Row("10,000 rules arranged, in each worker", "ms CPU", (time.thread_time() - began) * 1e3)


async def measure(directory: Path, quick: bool) -> list[Row]:
    seconds, rounds = (1, 3) if quick else (4, 7)
    with backend(directory) as behind:
        rows = [await request_row(kind, directory, behind.port, seconds, rounds) for kind in KINDS if kind.whole]
    return [*rows, *(lookup_row(kind, rounds) for kind in KINDS), *taking_rows()]


def run(quick: bool) -> list[Row]:
    """For `python -m bench rules`."""
    with TemporaryDirectory(prefix="paifang-bench-") as name:
        Path(name).chmod(0o755)
        return asyncio.run(measure(Path(name), quick))
