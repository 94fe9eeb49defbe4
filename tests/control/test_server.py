"""The control plane's process, from outside: both doors, its token, its end."""

import asyncio
import os
import signal
import ssl
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from control.listening import Files
from control.node.children import Child, ChildError
from control.ports import free_port
from control.server import ServeError, Settings, _lock, serve
from control.store_sqlite import SqliteStore
from core.config import from_dict
from tests.certs.test_chain import leaf, pem
from tests.control.conftest import Authority
from tests.control.test_api import SITE


def test_both_doors_open_and_sigterm_ends_it_while_a_node_waits(authority: Authority, tmp_path: Path) -> None:
    api, nodes = free_port(), free_port()
    argv = [sys.executable, "-m", "control", "--state", str(tmp_path / "state"), "--api", f"127.0.0.1:{api}"]
    argv += ["--nodes", f"127.0.0.1:{nodes}", "--identity", str(authority.issue("control", "c"))]
    child = Child.start("control", argv, log=tmp_path / "log", notify_dir=tmp_path)
    try:
        child.wait_ready(30)
        with urllib.request.urlopen(f"http://127.0.0.1:{api}/v1/healthz", timeout=10) as response:
            assert response.status == 200
        node = authority.issue("l4", "l4-1")
        context = ssl.create_default_context(cafile=str(node / "ca.pem"))
        context.check_hostname = False
        context.load_cert_chain(node / "cert.pem", node / "key.pem")
        poll = urllib.request.Request(f"https://127.0.0.1:{nodes}/v1/node/config?after=0")

        async def wait_and_end() -> tuple[int, int]:
            def long_poll() -> int:
                with urllib.request.urlopen(poll, context=context, timeout=30) as response:
                    return int(response.status)

            polling = asyncio.create_task(asyncio.to_thread(long_poll))
            while "node API" not in (tmp_path / "log").read_text():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            child.signal(signal.SIGTERM)
            status = await polling
            while (code := child.poll()) is None:
                await asyncio.sleep(0.01)
            return status, code

        assert asyncio.run(asyncio.wait_for(wait_and_end(), 20)) == (204, 0)
    finally:
        child.terminate(1)


def test_the_identity_has_to_be_that_of_the_control_plane(authority: Authority, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "control", "--state", str(tmp_path / "state"), "--api", "127.0.0.1:0"]
    argv += ["--nodes", "127.0.0.1:0", "--identity", str(authority.issue("l7", "x"))]
    child = Child.start("control", argv, log=tmp_path / "log", notify_dir=tmp_path)
    with pytest.raises(ChildError, match="is the identity of the l7 x; `paifang certs issue CADIR --role control"):
        child.wait_ready(30)
    assert child.terminate(1) == 2


async def test_one_process_at_a_time_has_the_state(tmp_path: Path) -> None:
    """A second one would hand out configurations that know nothing of the changes made by the first."""
    first = _lock(tmp_path)
    with pytest.raises(ServeError, match="another control plane uses it; stop that one, or give another"):
        await serve(Settings(tmp_path, ("127.0.0.1", 0)))
    os.close(first)
    os.close(_lock(tmp_path))


@pytest.mark.parametrize("state", ["file", "file/below", "/proc/none"])
async def test_a_state_directory_that_cannot_be(state: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServeError, match=f"--state .*{state}: .*; give a directory that this user may write to"):
        await serve(Settings(tmp_path / state, ("127.0.0.1", 0)))


@pytest.mark.parametrize("token", [".", "none/token"])
async def test_a_token_file_that_cannot_be(token: str, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "state", ("127.0.0.1", 0), token_file=tmp_path / token)
    with pytest.raises(ServeError, match=r"the token file .*: .*; give a file of this user by --token-file"):
        await serve(settings)


async def test_names_are_not_asked_for_with_tls(authority: Authority, tmp_path: Path) -> None:
    directory = authority.issue("control", "c")
    files = Files(directory / "cert.pem", directory / "key.pem")
    with pytest.raises(ServeError, match="--api-host is for an API without TLS"):
        await serve(Settings(tmp_path / "state", ("127.0.0.1", 0), tls=files, api_hosts=("lb.example",)))


async def test_the_users_api_is_not_left_without_tls(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="it has to have TLS: give --api-tls-cert and --api-tls-key, or --identity"):
        await serve(Settings(tmp_path / "state", ("0.0.0.0", 0)))


def test_the_log_tells_of_certificates_that_end_soon(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    listener = {**SITE["listeners"][0], "protocol": "https", "certificates": ["web"]}
    certificate = {"name": "web", "chain": pem(leaf(days=(-3000, -1)))}

    async def fill() -> None:
        store = await SqliteStore.open(tmp_path / "state" / "control.db")
        await store.put(from_dict({**SITE, "listeners": [listener], "certificates": [certificate]}), "a", "", 0)
        await store.close()

    asyncio.run(fill())
    argv = [sys.executable, "-m", "control", "--state", str(tmp_path / "state"), "--api", "127.0.0.1:0"]
    child = Child.start("control", argv, log=tmp_path / "log", notify_dir=tmp_path)
    try:
        child.wait_ready(30)
        while "certificate 'web' expired on" not in (text := (tmp_path / "log").read_text()):
            time.sleep(0.05)
        assert "(used by web)" in text
    finally:
        assert child.terminate(10) == 0
