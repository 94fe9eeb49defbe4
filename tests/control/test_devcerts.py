from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import Authority
from control import devcerts
from control.devcerts import IssueError, fill, reason_to_issue
from core.model import Certificate, Model

NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("domains", "now", "reason"),
    [
        (["a.test", "*.a.test", "127.0.0.1"], NOW, ""),
        (["*.a.test", "127.0.0.1", "a.test"], NOW, ""),
        (["a.test"], NOW, "its domains have changed"),
        (["a.test", "*.a.test", "127.0.0.1"], NOW + timedelta(days=59), ""),
        (["a.test", "*.a.test", "127.0.0.1"], NOW + timedelta(days=61), "it expires soon"),
    ],
)
def test_when_a_leaf_is_needed(tmp_path: Path, domains: list[str], now: datetime, reason: str) -> None:
    authority = Authority.init(tmp_path / "ca")
    leaf = authority.issue_leaf(
        ec.generate_private_key(ec.SECP256R1()).public_key(), ["a.test", "*.a.test", "127.0.0.1"]
    )
    assert reason_to_issue(leaf, authority.certificate, domains, now) == reason


def test_what_is_no_leaf_of_this_ca(tmp_path: Path) -> None:
    ours, other = Authority.init(tmp_path / "ours"), Authority.init(tmp_path / "other")
    foreign = other.issue_leaf(ec.generate_private_key(ec.SECP256R1()).public_key(), ["a.test"])
    for chain in (foreign, b"", b"garbage"):
        assert reason_to_issue(chain, ours.certificate, ["a.test"], NOW) == "it is none of this CA"


def test_certificates_with_domains_alone_are_filled_and_kept(tmp_path: Path) -> None:
    ca, keys, chains = tmp_path / "ca", tmp_path / "keys", tmp_path / "chains"
    authority = Authority.init(ca)
    chains.mkdir()
    model = Model(
        certificates={"dev": Certificate("dev", domains=("a.test",)), "own": Certificate("own", chain="kept as it is")}
    )
    filled = fill(model, ca=ca, keys=keys, chains=chains)
    assert filled.certificates["own"].chain == "kept as it is"
    chain = filled.certificates["dev"].chain
    assert reason_to_issue(chain.encode(), authority.certificate, ["a.test"], NOW) == ""
    assert (keys / "dev.key").stat().st_mode & 0o777 == 0o600
    assert fill(model, ca=ca, keys=keys, chains=chains) == filled, "the same leaf is used again"
    key = (keys / "dev.key").read_bytes()
    changed = Model(certificates={"dev": Certificate("dev", domains=("b.test",))})
    assert fill(changed, ca=ca, keys=keys, chains=chains).certificates["dev"].chain != chain
    assert (keys / "dev.key").read_bytes() == key, "the key stays"
    (keys / "dev.key").unlink()
    fill(changed, ca=ca, keys=keys, chains=chains)
    assert (keys / "dev.key").exists()


def test_a_tool_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Authority.init(tmp_path / "ca")
    (tmp_path / "ca" / "ca-key.pem").unlink()
    model = Model(certificates={"dev": Certificate("dev", domains=("a.test",))})
    with pytest.raises(IssueError, match=r"certificates\.dev: paifang-keyserver: .*ca-key\.pem"):
        fill(model, ca=tmp_path / "ca", keys=tmp_path / "keys", chains=tmp_path)
    monkeypatch.setattr(devcerts, "ISSUE_TIMEOUT_S", 0.001)
    with pytest.raises(IssueError, match="timed out"):
        fill(model, ca=tmp_path / "ca", keys=tmp_path / "keys", chains=tmp_path)
