"""Looks up the DNS names of availability groups, on each node for itself.

One task a name asks, waits for as long as `core.members` says, and asks again. dnspython does the asking: it follows
CNAMEs, tells the time to live, and turns to TCP where an answer is too long (docs/decisions/0090). Names are absolute.
Each question reads /etc/resolv.conf anew, unless the group has resolvers of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver

from control.node.tasks import Tasks
from core.endpoints import split
from core.members import Lookup, Record
from core.model import AvailabilityGroup, DnsName, DnsType, Model, Server

log = logging.getLogger(__name__)

QUESTION_S = 5.0
CONCURRENCY = 32
TARGETS_LIMIT = 64  # of the SRV records of a name
# Those of one name do not all come due in the same moment, on one node or on many.
SPREAD = 0.9

Key = tuple[DnsName, tuple[str, ...]]  # a name and who is asked


class Names:
    """The members that DNS has given. `on_change` is called when they, or the problems with them, have changed."""

    def __init__(self, on_change: Callable[[], None], tasks: Tasks) -> None:
        self._on_change, self._tasks = on_change, tasks
        self._lookups: dict[Key, Lookup] = {}
        self._asking: dict[Key, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._settled = asyncio.Event()

    def watch(self, *models: Model) -> None:
        """Looks after the names of these configurations from now on; those that it had before keep their answers."""
        wanted = {
            (name, group.resolvers): f"look up {name.name}"
            for model in models
            for group in model.availability_groups.values()
            for name in group.dns
        }
        for key in self._asking.keys() - wanted.keys():
            self._asking.pop(key).cancel()
            del self._lookups[key]
        for key, task in wanted.items():
            if key not in self._asking:
                self._settled.clear()
                self._lookups[key] = Lookup(key[0])
                self._asking[key] = self._tasks.spawn(self._ask_forever(key), task)
        self._settle()

    def found(self, group: AvailabilityGroup) -> list[tuple[Server, ...]]:
        """The members that each name of a group has given, which is of a configuration that is watched."""
        return [self._lookups[each, group.resolvers].servers for each in group.dns]

    def problems(self, model: Model) -> list[tuple[str, str]]:
        """Each name of a group whose last question had no good answer: the group, and what to say."""
        return [
            (name, problem)
            for name, group in model.availability_groups.items()
            for each in group.dns
            if (problem := self._lookups[each, group.resolvers].problem)
        ]

    async def first_answers(self, timeout_s: float) -> None:
        """Returns when each name has been asked once, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            return

    def _settle(self) -> None:
        if all(lookup.answered or lookup.problem for lookup in self._lookups.values()):
            self._settled.set()

    async def _ask_forever(self, key: Key) -> None:
        lookup = self._lookups[key]
        while True:
            before = lookup.servers, lookup.problem
            async with self._slots:
                wait_s = await _ask(lookup, key[1])
            if (lookup.servers, lookup.problem) != before:
                self._on_change()
            self._settle()
            await asyncio.sleep(wait_s * random.uniform(SPREAD, 1))  # noqa: S311 - not a secret


async def _ask(lookup: Lookup, resolvers: Iterable[str]) -> float:
    """Asks once; returns in how many seconds to ask again. Never raises but for cancellation."""
    try:
        async with asyncio.timeout(QUESTION_S):
            records, ttl_s = await _records(lookup.name, _resolver(resolvers))
    except dns.resolver.NXDOMAIN:
        return lookup.failed("there is no such name")
    except dns.resolver.NoAnswer:
        return lookup.failed("it has no such records")
    except (TimeoutError, dns.exception.Timeout):
        return lookup.failed("no answer in time")
    except (dns.exception.DNSException, OSError) as error:
        return lookup.failed(" ".join(str(error).split()) or type(error).__name__)
    return lookup.found(records, ttl_s)


def _resolver(resolvers: Iterable[str]) -> dns.asyncresolver.Resolver:
    """Raises dns.resolver.NoResolverConfiguration."""
    servers = [found for text in resolvers if (found := split(text)) is not None]
    made = dns.asyncresolver.Resolver(configure=not servers)
    if servers:
        made.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]
    made.lifetime = QUESTION_S
    return made


async def _records(name: DnsName, resolver: dns.asyncresolver.Resolver) -> tuple[list[Record], float]:
    """What a name leads to, and for how many seconds that holds."""
    if name.type is not DnsType.SRV:
        addresses, ttl_s = await _addresses(resolver, name.name, name.type)
        return [Record(address) for address in addresses], ttl_s
    answer = await resolver.resolve(f"{name.name}.", "SRV")
    found, ttl_s = list[Record](), float(answer.chaining_result.minimum_ttl)
    for each in list(answer)[:TARGETS_LIMIT]:
        target = each.target.to_text(omit_final_dot=True)
        for kind in (DnsType.A, DnsType.AAAA):
            try:
                addresses, live_s = await _addresses(resolver, target, kind)
            except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
                continue
            ttl_s = min(ttl_s, live_s)
            found += [Record(address, each.port, each.priority, each.weight) for address in addresses]
    return found, ttl_s


async def _addresses(resolver: dns.asyncresolver.Resolver, name: str, kind: DnsType) -> tuple[list[str], float]:
    answer = await resolver.resolve(f"{name}.", kind.value.upper())
    return [each.address for each in answer], float(answer.chaining_result.minimum_ttl)
