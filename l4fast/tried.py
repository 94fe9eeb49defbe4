"""A file of a program's configuration, which takes the place of the one before once the program has found it good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from control.node.files import write_atomic
from l4fast.vip_errors import VipError


async def put_tried(path: Path, text: str, refusal: Callable[[Path], Awaitable[str]]) -> bool:
    """Whether the file has become another one. `refusal` says what the program has against a file, or nothing. Raises
    VipError and leaves the file as it was."""
    new = path.with_suffix(".new")
    try:
        if not await asyncio.to_thread(_write, path, new, text):
            return False
        if why := await refusal(new):
            raise VipError(why)
        new.replace(path)
    except OSError as error:
        raise VipError(f"{path}: cannot write it: {error.strerror}") from None
    return True


def _write(path: Path, new: Path, text: str) -> bool:
    if path.exists() and path.read_text() == text:
        return False
    write_atomic(new, text.encode())
    return True


async def ended(*argv: str) -> tuple[int, list[str]]:
    """Runs a program to its end; its exit code and the lines that it said. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode("utf-8", "replace").strip().splitlines()
