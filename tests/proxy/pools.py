"""Pools of up to three servers, for the tests of picking and of connections."""

from __future__ import annotations

from core.model import BackendProtocol, BackendService, Ejection, Scheduler, Server
from proxy.pool import Pool

A, B, C = ("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80)


def pool(*weights: int, scheduler: Scheduler = Scheduler.RR) -> Pool[str, str]:
    pool: Pool[str, str] = Pool()
    pool.update(servers(*weights), service(scheduler), 0)
    return pool


def service(
    scheduler: Scheduler = Scheduler.RR, ejection: Ejection | None = None, slow_start_s: int = 0
) -> BackendService:
    return BackendService(
        "app", BackendProtocol.HTTP, "app", scheduler=scheduler, ejection=ejection, slow_start_s=slow_start_s
    )


def servers(*weights: int) -> list[Server]:
    return [Server(address, port, weight) for (address, port), weight in zip((A, B, C), weights, strict=False)]
