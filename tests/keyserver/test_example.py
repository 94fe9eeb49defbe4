"""The page's example runs as printed, and its flags are those of the program."""

import re
from pathlib import Path

import pytest

import keyserver.__main__ as program
from certs.authority import Authority
from keyserver import options
from keyserver.keyfile import PrivateKey
from tests.keyserver.conftest import TLS13, StartServer
from tests.keyserver.test_store import verify

PAGE = (Path(program.__file__).parent.parent / "docs" / "key-server.md").read_text()


async def test_the_python_example(
    tmp_path: Path, start_server: StartServer, ca: Authority, keys: dict[str, PrivateKey]
) -> None:
    await start_server(tmp_path / "sock")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, object] = {}
    exec(code, names)
    sign = names["sign"]
    assert callable(sign)
    chain = ca.issue_leaf(keys["p256"].public_key(), ["a.test"]).decode()
    verify(keys["p256"], 0x0403, await sign(f"unix:{tmp_path / 'sock'}", chain, TLS13), TLS13)
    with pytest.raises(RuntimeError, match="no signature: refused shape"):
        await sign(f"unix:{tmp_path / 'sock'}", chain, b"a JWT")


def test_the_flags_are_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(["--help"])
    offered = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.M))
    assert set(re.findall(r"^\| `(--[a-z-]+)", PAGE, re.M)) == offered
    assert f"| {options.DEFAULT_RATE} |" in PAGE
    assert f"within {program.DRAIN_S:.0f} seconds" in PAGE
