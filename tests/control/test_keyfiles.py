"""Keys are compared with chains by the key server's tool, never by the control plane's own process."""

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import Authority, private_pem
from control import keyfiles, prepare
from control.keyfiles import KeyCheckError
from control.node.files import write_atomic

CERTIFICATE = '[[certificates]]\nname = "{0}"\nchain_file = "{0}.pem"\nkey_file = "{0}.key"\n'


@pytest.fixture
def site(tmp_path: Path) -> prepare.Document:
    """A file with the certificates `good`, whose key fits, and `bad`, whose key is of another chain."""
    authority = Authority.init(tmp_path / "ca")
    for name in ("good", "bad"):
        key = ec.generate_private_key(ec.SECP256R1())
        (tmp_path / f"{name}.pem").write_bytes(authority.issue_leaf(key.public_key(), ["a.test"]))
        kept = key if name == "good" else ec.generate_private_key(ec.SECP256R1())
        write_atomic(tmp_path / f"{name}.key", private_pem(kept))
    (tmp_path / "site.toml").write_text("".join(map(CERTIFICATE.format, ("good", "bad"))))
    return prepare.read(tmp_path / "site.toml")


def test_a_key_of_another_chain_is_named_with_its_line(site: prepare.Document) -> None:
    (error,) = keyfiles.errors(site, prepare.inline(site))
    where = f"{site.file}:8: certificates.bad.key_file: {site.file.parent}/bad.key: "
    assert str(error).startswith(f"{where}not the private key of this chain; give")
    assert keyfiles.errors(site, prepare.inline(site), without={"bad"}) == []
    assert keyfiles.problems({}, {}) == {}


def test_keys_that_are_not_here(site: prepare.Document, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = prepare.inline(site).keys
    assert keyfiles.elsewhere(keys) == {}
    (site.file.parent / "good.key").unlink()
    assert list(keyfiles.elsewhere(keys)) == ["good"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert list(keyfiles.elsewhere(keys)) == ["good", "bad"]


def test_a_tool_that_fails_is_quoted(site: prepare.Document, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare.inline(site)
    monkeypatch.setattr(
        subprocess, "run", lambda argv, **_: subprocess.CompletedProcess(argv, 2, "", "no dumps forbidden\n")
    )
    with pytest.raises(KeyCheckError, match=r"cannot check the keys: no dumps forbidden$"):
        keyfiles.errors(site, prepared)
    monkeypatch.undo()
    monkeypatch.setattr(keyfiles, "CHECK_TIMEOUT_S", 0.001)
    with pytest.raises(KeyCheckError, match="timed out"):
        keyfiles.errors(site, prepared)


def test_modules_of_the_current_directory_are_not_run(
    site: prepare.Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keyserver.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    assert len(keyfiles.errors(site, prepare.inline(site))) == 1
