import os
from pathlib import Path

import pytest

from control.node.identity import Identity
from control.up_state import State, StateError


def test_a_state_directory_is_private_and_locked(tmp_path: Path) -> None:
    state = State(tmp_path / "d" / "state")
    assert state.root.stat().st_mode & 0o777 == 0o700
    with pytest.raises(StateError, match=rf"pid {os.getpid()}\); stop it, or give another --state"):
        State(tmp_path / "d" / "state")
    state.close()
    State(tmp_path / "d" / "state").close()


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    tmp_path.chmod(0o755)
    with pytest.raises(StateError, match="holds other files"):
        State(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    with pytest.raises(StateError, match="Not a directory"):
        State(tmp_path / "a" / "b")


def test_a_directory_that_we_may_not_look_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(StateError, match="Permission denied; give a directory of your own"):
        State(tmp_path)


def test_another_users_state_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    State(tmp_path / "state").close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StateError, match=rf"belongs to uid {os.getuid()}; run it as that user, or give another one"):
        State(tmp_path / "state")


def test_a_path_too_long_for_sockets(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="107 bytes"):
        State(tmp_path / ("x" * 90))


def test_the_ca_stays_and_identities_are_fresh(tmp_path: Path) -> None:
    state = State(tmp_path / "s")
    state.make_identities()
    ca, key = (state.root / "ca" / "ca.pem").read_bytes(), (state.root / "identities/l7/key.pem").read_bytes()
    state.make_identities()
    assert (state.root / "ca" / "ca.pem").read_bytes() == ca
    assert (state.root / "identities/l7/key.pem").read_bytes() != key
    for role, name in (("control", "control"), ("l7", "local")):
        identity = Identity.load(state.root / "identities" / role)
        assert (identity.role, identity.name) == (role, name)
    (state.root / "ca" / "ca-key.pem").unlink()
    with pytest.raises(StateError, match="ca-key"):
        state.make_identities()
    state.close()


def test_links_to_key_files_follow_the_configuration(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    keys = state.root / "keys"
    (keys / "own.key").write_text("")

    def links() -> set[str]:
        return {path.readlink().name for path in keys.iterdir() if path.is_symlink()}

    for wanted in ([], ["a.key"], ["a.key"], ["b.key", "a.key"], ["b.key"], []):
        state.link_keys(tmp_path / name for name in wanted)
        assert links() == set(wanted)
    assert [path.name for path in keys.iterdir()] == ["own.key"]
    state.close()
