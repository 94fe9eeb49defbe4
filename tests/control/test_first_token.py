"""The first administrator's token: where it goes, when it is made again, and that nobody else sees it."""

import io
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.audit import Audit
from control.first_token import STDOUT, Destination, TokenFileError, ensure, reset
from control.node.children import Child
from control.roles import ApiRole
from control.store import Store
from control.store_sqlite import SqliteStore
from control.token_record import Token
from control.tokens import Tokens, set_token


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await SqliteStore.open(tmp_path / "db")
    yield store
    await store.close()


async def name_of(store: Store, text: str) -> str | None:
    found = await Tokens(store).find(text.strip())
    return found.name if isinstance(found, Token) else None


async def test_it_is_made_on_the_first_start_and_never_again(store: Store, tmp_path: Path) -> None:
    out = io.StringIO()
    destination, file = Destination.of(tmp_path, None, out), tmp_path / "token"
    await ensure(store, Audit(store), destination)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await name_of(store, file.read_text()) == "admin"
    assert out.getvalue() == "", "what is no terminal may be a log"
    file.unlink()  # by somebody who keeps it elsewhere
    await ensure(store, Audit(store), destination)
    assert not file.exists()
    assert len(await Tokens(store).all()) == 1
    (entry,) = await Audit(store).range(1, 10)
    assert (entry["who"], entry["method"], entry["result"]) == ("paifang control", "START", "done")


async def test_a_terminal_is_shown_it_once(store: Store, tmp_path: Path) -> None:
    out = Terminal()
    for _ in range(2):
        await ensure(store, Audit(store), Destination.of(tmp_path, None, out))
    assert out.getvalue().count((tmp_path / "token").read_text().strip()) == 1
    assert "shown this once; it is in" in out.getvalue()


async def test_stdout_alone_gets_it_where_that_is_asked_for(store: Store, tmp_path: Path) -> None:
    out = io.StringIO()
    for _ in range(2):
        await ensure(store, Audit(store), Destination.of(tmp_path, STDOUT, out))
    (text,) = [line.strip() for line in out.getvalue().splitlines() if line.strip().startswith("pft_")]
    assert await name_of(store, text) == "admin"
    assert not (tmp_path / "token").exists()


async def test_a_file_that_is_named_is_kept_good(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "t"
    destination = Destination.of(tmp_path, file, io.StringIO())
    other = Destination.of(tmp_path, tmp_path / "other", io.StringIO())
    await ensure(store, Audit(store), other)
    await ensure(store, Audit(store), destination)
    first = file.read_text()
    await ensure(store, Audit(store), destination)
    assert file.read_text() == first
    file.unlink()
    await ensure(store, Audit(store), destination)
    assert await name_of(store, first) is None, "the one that was lost is good for nothing"
    file.write_text(first)  # of a database that is gone
    await ensure(store, Audit(store), destination)
    assert await name_of(store, file.read_text()) == "admin"
    assert await name_of(store, other.file.read_text()) == "admin", "another place's is left alone"


async def test_another_token_in_the_file_is_left_alone(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "t"
    file.write_text(await set_token(store, "ci", ApiRole.READ))
    with pytest.raises(TokenFileError, match="has 'ci', of role read; give another file"):
        await ensure(store, Audit(store), Destination.of(tmp_path, file, io.StringIO()))


async def test_the_way_back_in_makes_another_in_its_place(store: Store, tmp_path: Path) -> None:
    destination = Destination.of(tmp_path, None, io.StringIO())
    await ensure(store, Audit(store), destination)
    first = destination.file.read_text()
    ann = await set_token(store, "ann")
    await reset(store, Audit(store), destination)
    assert await name_of(store, first) is None
    assert await name_of(store, destination.file.read_text()) == "admin"
    assert await name_of(store, ann) == "ann"
    assert (await Audit(store).range(2, 1))[0]["method"] == "RESET"


async def test_when_all_have_ended_the_log_says_what_helps(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await set_token(store, "ann", ApiRole.READ)
    await ensure(store, Audit(store), Destination.of(tmp_path, None, io.StringIO()))
    assert "--reset-admin-token" in caplog.text
    assert not (tmp_path / "token").exists()


def test_it_is_reset_beside_a_control_plane_that_runs(tmp_path: Path) -> None:
    """By the command line; neither log has the token."""
    state = tmp_path / "state"
    argv = [sys.executable, "-m", "control", "--state", str(state), "--api", "127.0.0.1:0"]
    child = Child.start("control", argv, log=tmp_path / "log", notify_dir=tmp_path)
    try:
        child.wait_ready(60)
        first = (state / "token").read_text()
        again = subprocess.run([*argv, "--reset-admin-token"], capture_output=True, text=True, timeout=60)
        assert again.returncode == 0, again.stderr
        second = (state / "token").read_text()
        assert second != first
    finally:
        assert child.terminate(20) == 0
    for token in (first, second):
        assert token.strip() not in (tmp_path / "log").read_text() + again.stdout + again.stderr
    assert "the administrator's token is in" in again.stderr
