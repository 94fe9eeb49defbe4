"""Chains and keys that fit, and all the ways in which they do not."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from certs.authority import Authority, private_pem
from control.node.files import write_atomic
from keyserver import check
from keyserver.errors import StartError
from keyserver.passphrases import Passphrases

NOW = datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.init(tmp_path / "ca")


def pair(directory: Path, authority: Authority, now: datetime = NOW, domains: tuple[str, ...] = ("a.test",)) -> str:
    """Writes `key` and `chain` into the directory; the chain's text."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_atomic(directory / "key", private_pem(key))
    chain = authority.issue_leaf(key.public_key(), domains, now)
    (directory / "chain").write_bytes(chain)
    return chain.decode()


def test_a_pair_that_fits(tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    chain = pair(tmp_path, authority)
    assert check.problems(chain, tmp_path / "key") == ([], [])
    assert check.main([str(tmp_path / "chain"), str(tmp_path / "key")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/chain and {tmp_path}/key fit\n"


def test_the_key_of_another(tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    chain = pair(tmp_path, authority)
    write_atomic(tmp_path / "key", private_pem(ec.generate_private_key(ec.SECP256R1())))
    assert check.problems(chain, tmp_path / "key") == (
        [], ["not the private key of this chain; give the one that its leaf was made with"],
    )  # fmt: skip
    assert check.main([str(tmp_path / "chain"), str(tmp_path / "key")]) == 1
    assert f"{tmp_path}/key: not the private key of this chain" in capsys.readouterr().err


def test_keys_that_cannot_be_used(tmp_path: Path, authority: Authority) -> None:
    chain = pair(tmp_path, authority)
    key = tmp_path / "key"
    key.chmod(0o644)
    assert check.problems(chain, key) == ([], [f"others than its owner may use it (mode 0644); chmod 600 {key}"])
    write_atomic(key, b"garbage")
    assert check.problems(chain, key)[1][0].startswith("no private key in it")
    secret = ec.generate_private_key(ec.SECP256R1())
    write_atomic(key, secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    assert check.problems(chain, key)[1][0].startswith("it is encrypted; give the key server --passphrase-file")
    assert check.problems(chain, key, Passphrases(fixed=(b"x",)))[1][0].startswith("not the private key of this chain")
    assert check.problems(chain, tmp_path)[1] == ["is a directory; give the file of its private key"]
    key.unlink()
    assert check.problems(chain, key)[1] == ["No such file or directory; check the path"]


def test_a_chain_has_problems_of_its_own(tmp_path: Path, authority: Authority) -> None:
    chain = pair(tmp_path, authority, NOW - timedelta(days=400))
    (expired,), of_key = check.problems(chain, tmp_path / "key")
    assert "expired on" in expired
    assert of_key == []
    of_chain, of_key = check.problems("garbage", tmp_path / "key")
    assert "not a chain of PEM certificates" in of_chain[0]
    assert of_key == [], "nothing is said of a key whose chain cannot be read"


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("ß", "not PEM text")])
def test_a_chain_file_that_cannot_be_read(tmp_path: Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "chain").write_text(content)
    with pytest.raises(StartError, match=f"{why}.*; give a file of PEM certificates"):
        check.check([(tmp_path / "chain", tmp_path / "key")])


def test_the_process_prints_json(tmp_path: Path, authority: Authority) -> None:
    pair(tmp_path, authority)
    files = [str(tmp_path / "chain"), str(tmp_path / "key"), str(tmp_path / "chain"), str(tmp_path / "none")]
    argv = [sys.executable, "-m", "keyserver", "check", "--json", *files]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout) == [[[], []], [[], ["No such file or directory; check the path"]]]
    done = subprocess.run(argv[:-1], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "files come in pairs: CHAIN KEY" in done.stderr
