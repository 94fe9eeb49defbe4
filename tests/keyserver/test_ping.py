"""Whether a key server answers, and what is said when it does not."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from control.node.identity import Identity
from keyserver import ping
from keyserver.errors import StartError
from tests.keyserver.conftest import StartServer


async def test_servers_that_answer(
    tmp_path: Path,
    start_server: StartServer,
    identity: Callable[[str, str], Identity],
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = await start_server(tmp_path / "sock")
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k"))
    here, there = f"unix:{tmp_path / 'sock'}", f"127.0.0.1:{port}"
    arguments = [here, there, "--identity", str(identity("l7", "l7-1").directory)]
    assert await asyncio.to_thread(ping.main, arguments) == 0
    assert [line.split(": answers in ")[0] for line in capsys.readouterr().out.splitlines()] == [here, there]
    (tmp_path / "nothing").touch()
    for bad in (tmp_path / "none", tmp_path / "nothing"):
        assert await asyncio.to_thread(ping.main, [here, f"unix:{bad}"]) == 1
        assert f"unix:{bad}: does not answer: " in capsys.readouterr().err


async def test_servers_that_hang_close_or_refuse(
    tmp_path: Path,
    start_server: StartServer,
    identity: Callable[[str, str], Identity],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ping, "TIMEOUT_S", 0.3)
    server = await start_server()
    port = await server.listen_tcp("127.0.0.1", 0, identity("keyserver", "k"))
    stranger = ["--identity", str(identity("control", "c").directory)]
    assert await asyncio.to_thread(ping.main, [f"127.0.0.1:{port}", *stranger]) == 1
    assert "refused client" in capsys.readouterr().err

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1 if hangs else 100)
        writer.close()

    for hangs, why in ((True, "nothing within 0.3 s"), (False, "it closed the connection")):
        async with await asyncio.start_unix_server(serve, tmp_path / f"{hangs}"):
            assert await asyncio.to_thread(ping.main, [f"unix:{tmp_path / str(hangs)}"]) == 1
        assert why in capsys.readouterr().err


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StartError, match="give unix:PATH or HOST:PORT"):
        ping.main(["8473"])
    with pytest.raises(SystemExit):
        ping.main(["127.0.0.1:8473"])
    assert "127.0.0.1:8473 needs --identity" in capsys.readouterr().err
