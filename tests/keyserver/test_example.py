"""The page's example runs as printed, and its flags are those of the program."""

import re
from pathlib import Path

import pytest

import keyserver.__main__ as program
from certs.authority import Authority
from keyserver import options
from keyserver.client import KeyClient
from keyserver.keyfile import PrivateKey
from tests.keyserver.conftest import TLS13, StartServer
from tests.keyserver.test_store import verify

PAGE = (Path(program.__file__).parent.parent / "docs" / "key-server.md").read_text()


async def test_the_python_example(
    tmp_path: Path, start_server: StartServer, key_dir: Path, ca: Authority, keys: dict[str, PrivateKey]
) -> None:
    chain = ca.issue_leaf(keys["p256"].public_key(), ["a.test"])
    (key_dir / "a.pem").write_bytes(chain)
    await start_server(tmp_path / "sock")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, object] = {}
    exec(code, names)
    sign = names["sign"]
    assert callable(sign)
    endpoint = f"unix:{tmp_path / 'sock'}"
    shown, signature = await sign(endpoint, "a.test", TLS13)
    assert shown == chain.decode()
    verify(keys["p256"], 0x0403, signature, TLS13)
    with pytest.raises(RuntimeError, match="no signature: refused shape"):
        await sign(endpoint, "a.test", b"a JWT")
    with pytest.raises(RuntimeError, match="no signature: unknown key"):
        await sign(endpoint, "b.test", TLS13)


def test_the_clients_methods_are_those_of_the_page() -> None:
    table = PAGE.partition("| of `KeyClient` | |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(?:await )?(\w+)(?:\(|`)", table)) - {"KeyClient"}
    internal = {"next_id", "answered", "opened", "retired", "orphaned"}  # for its own links
    offered = {name for name in vars(KeyClient) if not name.startswith("_")} - internal
    assert offered <= named


def test_the_flags_are_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(["--help"])
    offered = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.M))
    assert set(re.findall(r"^\| `(--[a-z-]+)", PAGE, re.M)) == offered
    assert f"| {options.DEFAULT_RATE} |" in PAGE
    assert f"within {program.DRAIN_S:.0f} seconds" in PAGE
