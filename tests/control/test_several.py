"""Several files as one: which, in which order, and where their errors are."""

from pathlib import Path

import pytest

from control.prepare import inline, read
from control.several import listed
from core.errors import ConfigErrors

GROUP = '[[server_groups]]\nname = "g"\nservers = [{ address = "192.0.2.1", port = 80 }]'
SERVICE = '# services\n\n[[backend_services]]\nname = "b"\nprotocol = "http"\nserver_group = "g"\n'
LISTENER = '[[listeners]]\nprotocol = "http"\nport = 80\nbackend_service = "b"\n'


def write(directory: Path, **texts: str) -> list[Path]:
    for name, text in texts.items():
        (directory / f"{name}.toml").write_text(text)
    return [directory / f"{name}.toml" for name in texts]


def errors(*paths: Path) -> str:
    with pytest.raises(ConfigErrors) as caught:
        inline(read(*paths))
    return str(caught.value)


def test_objects_may_stand_in_any_file(tmp_path: Path) -> None:
    files = write(tmp_path, c=LISTENER, a=SERVICE, b=GROUP)
    (tmp_path / "notes.txt").write_text("not read")
    model = read(tmp_path).model
    assert (list(model.server_groups), list(model.backend_services), list(model.listeners)) == (
        ["g"],
        ["b"],
        ["http-80"],
    )
    assert read(*files).model == model, "in any order"
    assert read(files[2]).model.server_groups == model.server_groups, "one alone is as it always was"


def test_a_directory_goes_by_name(tmp_path: Path) -> None:
    first, second = write(tmp_path, b='[[instances]]\nname = "b"\n', a='[[instances]]\nname = "a"\n')
    assert list(read(tmp_path).model.instances) == ["a", "b"]
    assert list(read(first, second).model.instances) == ["b", "a"]
    assert listed([tmp_path]) == [second, first]


def test_errors_name_their_own_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, a=GROUP, b=SERVICE.replace('"g"', '"h"'), c=LISTENER + "prot = 1\n")
    found = errors(tmp_path).splitlines()
    assert [line.split(": ")[0] for line in found] == [f"{tmp_path}/b.toml:6", f"{tmp_path}/c.toml:5"]


def test_the_same_object_in_two_files(tmp_path: Path) -> None:
    write(tmp_path, a=GROUP, b=f"\n{GROUP}")
    assert (
        errors(tmp_path)
        == f"{tmp_path}/b.toml:3: server_groups.g.name: another of the server groups is named 'g'; rename one"
    )


def test_what_is_no_toml_is_said_of_its_own_file(tmp_path: Path) -> None:
    write(tmp_path, a='[[instances]]\nname = """open\n', b='[[instances]]\nname = "b"\n')
    assert errors(tmp_path).startswith(f"{tmp_path}/a.toml:")
    write(tmp_path, a="", b="\n# only later\nnodes = []\n")
    (tmp_path / "c.toml").write_text("")
    assert errors(tmp_path) == f"{tmp_path}/b.toml:3: a key stands before the first table; begin with a line [[KIND]]"


def test_a_useless_chain_and_a_key_are_in_their_file(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")
    write(tmp_path, a=GROUP, b='\n[[certificates]]\nname = "c"\nchain_file = "c.pem"\n')
    assert errors(tmp_path).startswith(f"{tmp_path}/b.toml:4: certificates.c.chain_file: ")
    write(tmp_path, b='\n\n[[certificates]]\nname = "c"\nchain = "-----BEGIN PRIVATE KEY-----"\n')
    assert errors(tmp_path).startswith(f"{tmp_path}/b.toml:5: certificates[0].chain: holds a private key")


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    one, two = write(tmp_path, a=GROUP, b=SERVICE)
    (other,) = write(tmp_path / "d", a=GROUP)
    (tmp_path / "x.json").write_text("{}")
    assert "cannot be one of several; give files that end in .toml, or this one alone" in errors(
        one, tmp_path / "x.json"
    )
    assert "put the files into one directory" in errors(one, other)
    assert "is given twice" in errors(one, two, one)
    assert "d/empty: has no file that ends in .toml" in _empty(tmp_path / "d" / "empty")


def _empty(directory: Path) -> str:
    directory.mkdir()
    return errors(directory)
