"""Gates, replies and audit lines of single requests, without sockets."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import Authority
from keyserver.audit import AuditLog
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.keyfile import PrivateKey
from keyserver.policy import KeyType, Shape
from keyserver.protocol import Failed, Sign, Signed
from keyserver.service import CHAIN_UNITS, Service
from keyserver.store import Signer
from tests.keyserver.conftest import TLS13, key_store
from tests.keyserver.test_store import verify

NOW = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)


class Bench:
    def __init__(self, tmp_path: Path, key_dir: Path, rate: float = 10) -> None:
        self.path = tmp_path / "audit"
        self.refreshed: list[None] = []
        refresh: Callable[[], None] = lambda: self.refreshed.append(None)  # noqa: E731
        store, audit = key_store([key_dir]), AuditLog(self.path)
        self.service = Service(store, audit, rate=rate, refresh=refresh, clock=lambda: NOW)
        self.service.begin_turn()

    def lines(self) -> list[dict[str, str]]:
        self.service.end_turn()
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path, key_dir: Path) -> Bench:
    return Bench(tmp_path, key_dir)


def test_a_signature_and_its_line(bench: Bench, keys: dict[str, PrivateKey], ids: dict[str, bytes]) -> None:
    request = Sign(7, ids["p256"], 0x0403, "a.test", TLS13)
    signer, shape = bench.service.admit("l7:a", request, 0)
    assert isinstance(signer, Signer)
    assert (signer.key_type, shape) == (KeyType.EC_P256, Shape.TLS13)
    reply = bench.service.sign("l7:a", request, signer, shape)
    assert isinstance(reply, Signed)
    verify(keys["p256"], 0x0403, reply.signature, TLS13)
    (line,) = bench.lines()
    assert line == {
        "time": "2026-11-20T05:00:00.000+00:00",
        "client": "l7:a",
        "key": ids["p256"].hex()[:16],
        "sni": "a.test",
        "scheme": "0x0403",
        "shape": "tls13-server",
        "result": "ok",
    }
    assert bench.service.counters == {"ec-p256": 1}


@pytest.mark.parametrize(
    ("key", "scheme", "content", "code"),
    [
        (None, 0x0403, TLS13, ErrorCode.UNKNOWN_KEY),
        ("p256", 0x0403, TLS13[1:], ErrorCode.REFUSED_SHAPE),
        ("p256", 0x0804, TLS13, ErrorCode.REFUSED_SCHEME),
        ("rsa", 0x0401, TLS13, ErrorCode.REFUSED_SCHEME),
    ],
)
def test_gates(
    bench: Bench, ids: dict[str, bytes], key: str | None, scheme: int, content: bytes, code: ErrorCode
) -> None:
    request = Sign(7, ids[key] if key else bytes(32), scheme, "a.test", content)
    with pytest.raises(KeyServerError) as caught:
        bench.service.admit("l7:a", request, 0)
    assert caught.value.code is code
    assert bench.service.refuse("l7:a", request, code) == Failed(7, code)
    (line,) = bench.lines()
    assert (line["result"], line["shape"]) == (code.name.lower(), "")
    assert content.hex() not in json.dumps(line)


def test_a_flood_is_counted_and_not_logged(bench: Bench, ids: dict[str, bytes]) -> None:
    request = Sign(7, ids["p256"], 0x0403, "", TLS13)
    for _ in range(10):
        bench.service.admit("l7:a", request, 0)
    for _ in range(50):
        with pytest.raises(KeyServerError) as caught:
            bench.service.admit("l7:a", request, 0)
        bench.service.refuse("l7:a", request, caught.value.code)
    assert caught.value.code is ErrorCode.RATE_LIMITED
    assert bench.service.counters["rate_limited"] == 50
    assert bench.lines() == []
    bench.service.admit("l7:b", request, 0)
    bench.service.admit("l7:a", request, 0.11)


def test_a_signature_that_fails_is_internal(
    bench: Bench, ids: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    request = Sign(7, ids["ed25519"], 0x0403, "", TLS13)
    signer = bench.service.store.get(ids["ed25519"])
    assert isinstance(signer, Signer)
    assert bench.service.sign("l7:a", request, signer, Shape.TLS13) == Failed(7, ErrorCode.INTERNAL)
    assert "cannot sign with 0x0403" in caplog.text
    assert [line["result"] for line in bench.lines()] == ["internal"]


def test_chain_checks_draw_on_the_rate(tmp_path: Path, key_dir: Path) -> None:
    service = Bench(tmp_path, key_dir, rate=2.5 * CHAIN_UNITS).service
    service.admit_chain("l7:a", 0)
    service.admit_chain("l7:a", 0)
    with pytest.raises(KeyServerError) as caught:
        service.admit_chain("l7:a", 0)
    assert caught.value.code is ErrorCode.RATE_LIMITED
    Bench(tmp_path, key_dir, rate=1).service.admit_chain("l7:a", 0)


def test_chains(bench: Bench, ca: Authority, ids: dict[str, bytes], keys: dict[str, PrivateKey]) -> None:
    chain = ca.issue_leaf(keys["p256"].public_key(), ["a.test"], now=NOW).decode()
    report = bench.service.check_chain(chain)
    assert (report.key_id, report.names, report.problems) == (ids["p256"], ("a.test",), ())
    assert not bench.refreshed
    stranger = ca.issue_leaf(ec.generate_private_key(ec.SECP256R1()).public_key(), ["b.test"], now=NOW).decode()
    assert "holds no private key" in bench.service.check_chain(stranger).problems[0]
    assert len(bench.refreshed) == 1, "it may have been put there a moment ago"


def test_what_a_worker_signed_is_recorded(bench: Bench, ids: dict[str, bytes]) -> None:
    request = Sign(7, ids["rsa"], 0x0804, "a.test", TLS13)
    assert bench.service.signed("l7:a", request, KeyType.RSA, Shape.TLS13, b"signature") == Signed(7, b"signature")
    (line,) = bench.lines()
    assert (line["key"], line["result"]) == (ids["rsa"].hex()[:16], "ok")
    assert bench.service.counters == {"rsa": 1}
