import asyncio
import json
import stat
from pathlib import Path

import pytest

from control.node import admin


def _double(request: dict[str, object]) -> object:
    value = request["value"]
    assert isinstance(value, int)
    return value * 2


async def _raw(path: Path, data: bytes) -> list[dict[str, object]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return [json.loads(line) for line in answer.splitlines()]


async def test_a_command_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    server = await admin.serve(path, {"double": _double})
    async with server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await asyncio.to_thread(admin.ask, path, "double", value=21) == 42


async def test_errors_reach_the_client(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with await admin.serve(path, {"double": _double, "list": lambda _: []}):
        with pytest.raises(admin.AdminError, match="unknown command 'halve'; known: double, list"):
            await asyncio.to_thread(admin.ask, path, "halve")
        with pytest.raises(admin.AdminError, match="double: 'value'"):
            await asyncio.to_thread(admin.ask, path, "double")


async def test_several_requests_on_one_connection_and_nonsense_between(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with await admin.serve(path, {"double": _double}):
        replies = await _raw(path, b'{"command":"double","value":1}\nnonsense\n[]\n{"command":"double","value":2}\n')
    assert replies == [
        {"ok": 2},
        {"error": "not a JSON object"},
        {"error": 'a request is a JSON object with "command"'},
        {"ok": 4},
    ]


async def test_an_oversized_request_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REQUEST_LIMIT_BYTES", 100)
    path = tmp_path / "admin.sock"
    async with await admin.serve(path, {}):
        assert await _raw(path, b"x" * 300 + b"\n") == [{"error": "a request may have 100 bytes"}]


async def test_a_stale_socket_is_replaced_and_a_live_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with await admin.serve(path, {}):
        with pytest.raises(admin.AdminError, match="another process listens"):
            await admin.serve(path, {})
    assert path.exists()
    async with await admin.serve(path, {"double": _double}):
        assert await asyncio.to_thread(admin.ask, path, "double", value=1) == 2


def test_no_process_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(admin.AdminError, match="is the process running"):
        admin.ask(tmp_path / "none.sock", "x")


async def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 110)
    with pytest.raises(admin.AdminError, match="107 bytes"):
        await admin.serve(path, {})
    with pytest.raises(admin.AdminError, match="107 bytes"):
        admin.ask(path, "x")


def test_who_may_not_ask_is_told_who_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_socket: object, _address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(admin.socket.socket, "connect", refuse)
    with pytest.raises(admin.AdminError, match="Permission denied; only the process's own user and root may ask"):
        admin.ask(tmp_path / "admin.sock", "status")
