"""The policy file: when it is read again, and when it is not believed."""

from pathlib import Path

import pytest

from control.node.files import write_atomic
from keyserver.grants import GrantsError
from keyserver.grants_file import GrantsFile

TEXT = b'[[grants]]\nclients = ["*"]\nkeys = ["*"]\n'


def test_it_is_read_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    write_atomic(path, TEXT)
    file = GrantsFile(path)
    assert file.read() is not None
    assert file.read(always=False) is None
    assert file.read() is not None
    write_atomic(path, TEXT + TEXT)
    changed = file.read(always=False)
    assert changed is not None
    assert len(changed.grants) == 2
    path.unlink()
    with pytest.raises(GrantsError, match=r"policy\.toml: No such file or directory; check the path"):
        file.read(always=False)
    assert file.read(always=False) is None, "the same mistake is reported once"
    write_atomic(path, TEXT)
    assert file.read(always=False) is not None


@pytest.mark.parametrize(
    ("data", "mode", "why"),
    [
        (TEXT, 0o620, "others may change it; chmod go-w"),
        (TEXT, 0o602, "others may change it; chmod go-w"),
        (b"\xff", 0o600, "can't decode"),
        (b"grants = []", 0o600, "no grants"),
    ],
)
def test_files_that_are_not_believed(tmp_path: Path, data: bytes, mode: int, why: str) -> None:
    path = tmp_path / "policy.toml"
    write_atomic(path, data)
    path.chmod(mode)
    with pytest.raises(GrantsError, match=why) as caught:
        GrantsFile(path).read()
    assert str(path) in str(caught.value)
