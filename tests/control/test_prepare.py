from pathlib import Path

import pytest

from control.prepare import FILE_LIMIT_BYTES, inline, read
from core.errors import ConfigErrors
from core.model import Certificate, Model


def test_chains_are_inlined_relative_to_the_file_and_keys_taken_out(tmp_path: Path, authority_chain: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.pem").write_text(authority_chain)
    model = Model(
        certificates={
            "c": Certificate("c", chain_file="sub/c.pem", key_file="k.pem"),
            "dev": Certificate("dev", domains=("a.example",)),
        }
    )
    inlined, keys = inline(model, tmp_path / "site.toml")
    assert inlined.certificates["c"] == Certificate("c", chain=authority_chain)
    assert inlined.certificates["dev"] == model.certificates["dev"]
    assert keys == {"c": tmp_path / "k.pem"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("garbage", "not a chain of X.509"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\n", "holds a private key"),
        ("schlüssel", "not PEM text"),
    ],
)
def test_chains_that_cannot_be_used(tmp_path: Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "c.pem").write_text(content)
    model = Model(certificates={"c": Certificate("c", chain_file="c.pem")})
    with pytest.raises(ConfigErrors, match=why) as caught:
        inline(model, tmp_path / "site.toml")
    assert caught.value.errors[0].path == str(tmp_path / "site.toml")
    assert caught.value.errors[0].object_path.startswith("certificates")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff", r"is not UTF-8 \(byte 0\)"),
        (b"#" * (FILE_LIMIT_BYTES + 1), "is longer than"),
        (b"x = ", "not TOML"),
        (b'[[certificates]]\nname = "c"\nchain = "-----BEGIN PRIVATE KEY-----"\n', "private key"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "f.toml").write_bytes(content)
    with pytest.raises(ConfigErrors, match=why):
        read(tmp_path / "f.toml")
