"""What one machine without root can serve, and what it refuses to start with."""

from pathlib import Path

import pytest

from control.up_source import Source, read
from core.errors import ConfigErrors

HTTP = '[[listeners]]\nprotocol = "http"\nport = 8080\nservers = ["127.0.0.1:1"]\n'


def refused(directory: Path, text: str) -> str:
    """The one message for a file of this text, without the directory."""
    (directory / "f.toml").write_text(text)
    with pytest.raises(ConfigErrors) as caught:
        read(directory / "f.toml")
    (error,) = caught.value.errors
    return str(error).removeprefix(f"{directory}/")


def test_a_file_that_can_be_served(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(HTTP)
    source = read(tmp_path / "f.toml")
    assert list(source.model.listeners) == ["http-8080"]
    assert source == Source(source.model, ())


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_layer_4_listeners_are_refused_with_an_explanation(tmp_path: Path, protocol: str) -> None:
    text = '[[instances]]\nname = "i"\ntype = "nlb"\nvips = ["192.0.2.1"]\n[[listeners]]\nname = "x"\ninstance = "i"\n'
    text += f'protocol = "{protocol}"\nport = 53\nservers = ["192.0.2.2:53"]\n'
    why = f"f.toml:8: listeners.x.protocol: {protocol} listeners need the L4 tier, which `paifang up` does not start; "
    assert refused(tmp_path, text).startswith(why)
    assert "paifang l4" in refused(tmp_path, text)


def test_a_chain_without_its_key_cannot_be_served(tmp_path: Path) -> None:
    text = HTTP + '[[certificates]]\nname = "c"\nchain_file = "c.pem"\n'
    why = (
        "f.toml:5: certificates.c: has a chain without key_file; name the key's file: only the key server will read it"
    )
    assert refused(tmp_path, text) == why


@pytest.mark.parametrize("text", ["", '[[instances]]\nname = "i"\n'])
def test_a_file_without_listeners_would_serve_nothing(text: str, tmp_path: Path) -> None:
    why = "f.toml: has no listeners, so nothing would be served; add [[listeners]] with protocol, port and servers"
    assert refused(tmp_path, text) == why
