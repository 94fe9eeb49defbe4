"""The process: `paifang control --jdcloud` as the page has it, both clouds at once, options that do not fit."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.control.alibaba.test_serving import describe
from tests.control.cloud.processes import access_key, addresses, ended, refuses, started
from tests.proxy.tls_support import certificate, new_key

PAGE = (Path(__file__).parents[3] / "docs/jdcloud.md").read_text()


async def test_the_page_is_right(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """How it is started, and the example, as the page prints them; with the other cloud's API beside it."""
    start, *_ = re.findall(r"```\n(.*?)```", PAGE, re.S)
    example = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S))
    program, role, *options = shlex.split(start)
    assert (program, role) == ("paifang", "control")
    options[options.index("--state") + 1] = str(tmp_path)
    options[options.index("--jdcloud") + 1] = "127.0.0.1:0"
    process = await started(*options, "--api", "127.0.0.1:0", "--alibaba", "127.0.0.1:0")
    found = await addresses(process, "user", "alibaba", "jdcloud")
    try:
        token = (tmp_path / "token").read_text().strip()
        key = await access_key(f"http://{found['user']}", token)
        identity, secret = key["access_key_id"], key["access_key_secret"]
        for shown, real in (("PFAK7Jq0vN2xWc", identity), ("…", secret), ("127.0.0.1:8481", found["jdcloud"])):
            assert shown in example
            example = example.replace(shown, real)
        (tmp_path / "chain.pem").write_text(certificate(new_key("P-256"), ["web.test"]).chain)
        example = example.replace("chain.pem", str(tmp_path / "chain.pem"))
        names: dict[str, Any] = {}
        await asyncio.to_thread(lambda: exec(example, names))
        assert names["made"].error is names["uploaded"].error is None
        told = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "control.cli", "get", "instances", names["made"].result["loadBalancerId"],
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PAIFANG_API": f"http://{found['user']}", "PAIFANG_TOKEN": token},
        )  # fmt: skip
        assert b"192.0.2.33" in (await told.communicate())[0]
        assert await asyncio.to_thread(describe, key, found["alibaba"], protocol="HTTP") == 1
        capfd.readouterr()  # the SDK prints what it signs
    finally:
        await ended(process)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--jdcloud", "192.0.2.1:8481"], "--jdcloud 192.0.2.1: others reach this address"),
        (["--jdcloud-vips", "192.0.2.0/28"], "need --jdcloud"),
        (["--jdcloud", "127.0.0.1:0", "--access-key-file", "/nowhere/key"], "the access keys' file /nowhere/key"),
        (["--access-key-file", "/nowhere/key"], "need --alibaba or --jdcloud"),
    ],
    ids=["tls", "alone", "file", "none"],
)
async def test_options_that_do_not_fit(tmp_path: Path, argv: list[str], told: str) -> None:
    await refuses(tmp_path, argv, told)
