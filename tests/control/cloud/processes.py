"""`paifang control` as a process of its own, where its APIs listen, and an access key of it."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
from pathlib import Path

import aiohttp

WAIT_S = 30


async def started(*argv: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "control", *argv, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


async def addresses(process: asyncio.subprocess.Process, *names: str) -> dict[str, str]:
    """Where each API listens, as the log says."""
    assert process.stderr is not None
    found: dict[str, str] = {}
    async with asyncio.timeout(WAIT_S):
        while set(names) - found.keys():
            line = (await process.stderr.readline()).decode()
            assert line, "it has ended"
            if match := re.search(r"(\w+) API on (\S+?)(, TLS)?$", line):
                found[match[1]] = match[2]
    return found


async def ended(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    async with asyncio.timeout(WAIT_S):
        await process.communicate()


async def access_key(api: str, token: str, context: ssl.SSLContext | bool = True) -> dict[str, str]:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
        session.post(f"{api}/v1/token/access-key", ssl=context) as answer,
    ):
        assert answer.status == 200
        found: dict[str, str] = json.loads(await answer.text())
        return found


async def refuses(directory: Path, argv: list[str], told: str) -> None:
    """It ends for options that do not fit, and says why."""
    process = await started("--state", str(directory), "--api", "127.0.0.1:0", *argv)
    async with asyncio.timeout(WAIT_S):
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert told in errors.decode()
