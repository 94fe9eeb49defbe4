"""The process: `paifang control --alibaba`, an access key by the users' API, options that do not fit."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alibabacloud_slb20140515.client import Client
from alibabacloud_slb20140515.models import DescribeLoadBalancersRequest
from alibabacloud_tea_openapi.models import Config

from tests.control.cloud.processes import access_key, addresses, ended, refuses, started
from tests.control.conftest import Authority


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    process = await started("--state", str(tmp_path), "--api", "127.0.0.1:0", "--alibaba", "127.0.0.1:0")
    yield await addresses(process, "user", "alibaba")
    await ended(process)


def describe(key: dict[str, str], endpoint: str, **more: str) -> int:
    identity, secret = key["access_key_id"], key["access_key_secret"]
    config = Config(access_key_id=identity, access_key_secret=secret, **more)
    config.endpoint, config.region_id = endpoint, "paifang"
    request = DescribeLoadBalancersRequest(region_id="paifang")
    return int(Client(config).describe_load_balancers(request).body.total_count)


async def test_an_access_key_of_the_users_api_signs(running: dict[str, str], tmp_path: Path) -> None:
    token = (tmp_path / "token").read_text().strip()
    key = await access_key(f"http://{running['user']}", token)
    assert key["access_key_id"] == f"PFAK{token[4:14]}"
    assert await asyncio.to_thread(describe, key, running["alibaba"], protocol="HTTP") == 0
    assert (tmp_path / "access.key").stat().st_mode & 0o777 == 0o600


PAGE = (Path(__file__).parents[3] / "docs/alibaba.md").read_text()


async def test_the_page_is_right(tmp_path: Path) -> None:
    """How it is started, how the access key is got, and the example, as the page prints them."""
    start, *_ = re.findall(r"```\n(.*?)```", PAGE, re.S)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    program, role, *options = shlex.split(start)
    assert (program, role) == ("paifang", "control")
    options[options.index("--state") + 1] = str(tmp_path)
    options[options.index("--alibaba") + 1] = "127.0.0.1:0"
    process = await started(*options, "--api", "127.0.0.1:0")
    found = await addresses(process, "user", "alibaba")
    try:
        token = (tmp_path / "token").read_text().strip()
        told = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "control.cli", "token", "access-key", stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PAIFANG_API": f"http://{found['user']}", "PAIFANG_TOKEN": token},
        )  # fmt: skip
        identity, secret = (await told.communicate())[0].decode().split()
        for shown, real in (("PFAK7Jq0vN2xWc", identity), ("…", secret), ("127.0.0.1:8480", found["alibaba"])):
            assert shown in example
            example = example.replace(shown, real)
        names: dict[str, Any] = {}
        await asyncio.to_thread(lambda: exec(example, names))
        assert names["made"].body.address == "192.0.2.17"
    finally:
        await ended(process)


async def test_tls_with_the_identity_of_the_cluster(tmp_path: Path, authority: Authority) -> None:
    files = authority.issue_server("front")
    tls = ("--api-tls-cert", str(files / "cert.pem"), "--api-tls-key", str(files / "key.pem"))
    process = await started("--state", str(tmp_path / "s"), "--api", "127.0.0.1:0", "--alibaba", "127.0.0.1:0", *tls)
    found = await addresses(process, "user", "alibaba")
    try:
        token = (tmp_path / "s/token").read_text().strip()
        context = ssl.create_default_context(cafile=str(files / "ca.pem"))
        key = await access_key(f"https://{found['user']}", token, context)
        ca = str(files / "ca.pem")
        assert await asyncio.to_thread(describe, key, found["alibaba"], protocol="HTTPS", ca=ca) == 0
    finally:
        await ended(process)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--alibaba", "192.0.2.1:8480"], "--alibaba 192.0.2.1: others reach this address"),
        (["--alibaba-vips", "192.0.2.0/28"], "need --alibaba"),
        (["--alibaba", "127.0.0.1:0", "--alibaba-vips", "192.0.2.1/28"], "has host bits set"),
        (["--alibaba", "127.0.0.1:0", "--alibaba-region", "a b"], "give letters, digits"),
        (["--alibaba", "127.0.0.1:0", "--access-key-file", "/nowhere/key"], "the access keys' file /nowhere/key"),
    ],
    ids=["tls", "alone", "network", "region", "file"],
)
async def test_options_that_do_not_fit(tmp_path: Path, argv: list[str], told: str) -> None:
    await refuses(tmp_path, argv, told)
