"""Whole L7 nodes, started by their command line."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from core.config import to_dict
from core.model import Model
from tests.proxy.support import free_port
from tests.waiting import until


def state_of(identity: Path) -> Path:
    """The state directory of the node with this identity."""
    return identity.parent / "state"


def command(identity: Path, *more: str, ready: str = "") -> list[str]:
    """The command line of a node whose control plane is away."""
    argv = [sys.executable, "-m", "proxy", "--name", "l7-1", "--control", "https://127.0.0.1:1", "--workers", "1"]
    argv += ["--identity", str(identity), "--state", str(state_of(identity)), "--metrics", "off"]
    return [*argv, "--ready", ready or f"127.0.0.1:{free_port()}", *more]


def keep(identity: Path, model: Model, version: int = 1) -> None:
    """A configuration to start with."""
    state_of(identity).mkdir(exist_ok=True)
    kept = {"version": version, "config": to_dict(model)}
    (state_of(identity) / "config.json").write_text(json.dumps(kept))


def refused(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


@asynccontextmanager
async def running(identity: Path, port: int, *more: str, ready: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """A node that serves `port`, by the configuration that was kept."""
    argv = command(identity, *more, ready=ready)
    process = await asyncio.create_subprocess_exec(*argv, stderr=subprocess.DEVNULL)
    try:
        await until(lambda: not refused(port), limit_s=30)
        while not (await asked(identity, "status"))["ready"]:
            pass
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def asked(identity: Path, *words: str) -> Any:
    """The answer to `paifang l7 ask`."""
    argv = [sys.executable, "-m", "proxy", "ask", *words, "--state", str(state_of(identity)), "--json"]
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)
