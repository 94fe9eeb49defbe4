"""Where passphrases come from, and what is said where they do not."""

import argparse
import os
from pathlib import Path

import pytest

from control.node.files import write_atomic
from keyserver import passphrases
from keyserver.errors import KeyFilesError, StartError
from keyserver.passphrases import NONE, Passphrases


def parsed(*arguments: str) -> Passphrases:
    parser = argparse.ArgumentParser()
    passphrases.add_arguments(parser)
    passphrases.add_arguments(parser, "old-passphrase")
    return passphrases.from_options(parser.parse_args(arguments))


def test_all_sources_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", b"from a file\n")
    (tmp_path / "credential").write_bytes(b"from systemd\r\n")
    (tmp_path / "credential").chmod(0o440)  # an access list looks so
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("WORD", "from the environment")
    found = parsed(
        *("--passphrase-credential", "credential", "--passphrase-env", "WORD"),
        *("--passphrase-file", str(tmp_path / "file"), "--old-passphrase-file", "/none"),
    )
    assert found
    assert found.read() == (b"from the environment", b"from a file", b"from systemd")
    assert found.paths == (tmp_path / "file", tmp_path / "credential")
    assert "WORD" not in os.environ, "no child process inherits it"
    assert "from the environment" not in repr(found)
    write_atomic(tmp_path / "file", b"changed")
    assert found.read()[1] == b"changed"


def test_none() -> None:
    assert not parsed()
    assert NONE.read() == ()


def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartError, match=r"no credential word: \$CREDENTIALS_DIRECTORY is unset"):
        parsed("--passphrase-credential", "word")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name in ("../word", "", ".."):
        with pytest.raises(StartError, match="is no credential's name"):
            parsed("--passphrase-credential", name)
    for value in ("", "\n"):
        monkeypatch.setenv("WORD", value)
        with pytest.raises(StartError, match=r"\$WORD is unset or empty"):
            parsed("--passphrase-env", "WORD")
    write_atomic(tmp_path / "empty", b"\n")
    write_atomic(tmp_path / "open", b"word")
    (tmp_path / "open").chmod(0o640)
    with pytest.raises(KeyFilesError) as caught:
        Passphrases((tmp_path / "empty", tmp_path / "open"), (tmp_path / "missing",)).read()
    assert [(Path(bad.path).name, bad.why) for bad in caught.value.files] == [
        ("empty", "no passphrase in it"),
        ("open", "others than its owner may use it (mode 0640)"),
        ("missing", "No such file or directory"),
    ]
