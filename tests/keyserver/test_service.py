"""Gates, replies and audit lines of single requests, without sockets."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import Authority
from keyserver.audit import AuditLog
from keyserver.chains import Chain, Chains
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.grants import Grants, parse
from keyserver.keyfile import PrivateKey
from keyserver.policy import KeyType, Shape
from keyserver.protocol import Failed, Find, Found, Sign, Signed, Tickets, TicketSecrets
from keyserver.service import CHAIN_UNITS, TICKETS_UNITS, Service
from keyserver.store import Signer
from tests.keyserver.conftest import TLS12, TLS13, key_store
from tests.keyserver.test_store import verify
from tests.keyserver.test_tickets import MASTER

NOW = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)


class Bench:
    def __init__(self, tmp_path: Path, key_dir: Path, rate: float = 10, key_rate: float | None = None) -> None:
        self.path = tmp_path / "audit"
        self.refreshed: list[None] = []
        refresh: Callable[[], None] = lambda: self.refreshed.append(None)  # noqa: E731
        store, audit = key_store([key_dir]), AuditLog(self.path)
        self.service = Service(store, audit, rate=rate, key_rate=key_rate, refresh=refresh, clock=lambda: NOW)
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


def policy(*entries: str) -> Grants:
    return parse("\n".join(f"[[grants]]\n{entry}" for entry in entries))


@pytest.mark.parametrize(
    ("client", "key", "content", "code"),
    [
        ("l7:a", "p256", TLS13, None),
        ("l7:a", "p256", TLS12, ErrorCode.REFUSED_SHAPE),
        ("l7:a", "p384", TLS13, ErrorCode.REFUSED_CLIENT),
        ("l7:b", "p256", TLS13, ErrorCode.REFUSED_CLIENT),
        ("l7:b", "p384", TLS12, None),
    ],
)
def test_the_policy_decides_who_uses_what(
    bench: Bench, ids: dict[str, bytes], client: str, key: str, content: bytes, code: ErrorCode | None
) -> None:
    bench.service.grants = policy(
        'clients = ["l7:a"]\nkeys = ["p256"]\ntls = ["1.3"]', f'clients = ["l7:b"]\nkeys = ["{ids["p384"].hex()}"]'
    )
    request = Sign(7, ids[key], {"p256": 0x0403, "p384": 0x0503}[key], "", content)
    if code is None:
        assert bench.service.admit(client, request, 0)[0].key_id == ids[key]
    else:
        with pytest.raises(KeyServerError) as caught:
            bench.service.admit(client, request, 0)
        assert caught.value.code is code


def codes(service: Service, client: str, request: Sign, now: float, count: int) -> list[ErrorCode | None]:
    found: list[ErrorCode | None] = []
    for _ in range(count):
        try:
            service.admit(client, request, now)
            found.append(None)
        except KeyServerError as error:
            found.append(error.code)
    return found


def test_rates_of_grants_and_keys(tmp_path: Path, key_dir: Path, ids: dict[str, bytes]) -> None:
    service = Bench(tmp_path, key_dir, rate=1000, key_rate=5).service
    service.grants = policy('clients = ["l7:a"]\nkeys = ["*"]\nrate = 3', 'clients = ["*"]\nkeys = ["*"]')
    request, limited = Sign(7, ids["p256"], 0x0403, "", TLS13), ErrorCode.RATE_LIMITED
    assert codes(service, "l7:a", request, 0, 4) == [None, None, None, limited]
    assert codes(service, "l7:b", request, 0, 3) == [None, None, limited], "the key's rate is for all clients"
    assert codes(service, "l7:b", request._replace(key_id=ids["ed25519"], scheme=0x0807), 0, 1) == [None]
    bad = request._replace(content=b"x")
    assert codes(service, "l7:b", bad, 0.2, 9) == [ErrorCode.REFUSED_SHAPE] * 9
    assert codes(service, "l7:b", request, 0.2, 2) == [None, limited], "what is refused takes nothing of the rate"


def test_buckets_and_answers_go_with_their_keys(tmp_path: Path, key_dir: Path, ids: dict[str, bytes]) -> None:
    service = Bench(tmp_path, key_dir, rate=1000, key_rate=1).service
    service.grants = policy('clients = ["*"]\nkeys = ["shop"]')
    request = Sign(7, ids["p256"], 0x0403, "", TLS13)
    assert codes(service, "l7:a", request, 0, 1) == [ErrorCode.REFUSED_CLIENT]
    held = {ids["p256"]: service.store.get(ids["p256"])}
    service.store.replace(held, {ids["p256"]: {"shop"}})  # type: ignore[arg-type]
    service.keys_changed()
    assert codes(service, "l7:a", request, 0, 2) == [None, ErrorCode.RATE_LIMITED]
    service.keys_changed()
    assert codes(service, "l7:a", request, 0, 1) == [ErrorCode.RATE_LIMITED]
    service.store.replace({})
    service.keys_changed()
    service.store.replace(held, {ids["p256"]: {"shop"}})  # type: ignore[arg-type]
    service.keys_changed()
    assert codes(service, "l7:a", request, 0, 1) == [None]


def test_a_chain_whose_key_the_client_may_not_use(
    bench: Bench, ca: Authority, keys: dict[str, PrivateKey], ids: dict[str, bytes]
) -> None:
    chain = ca.issue_leaf(keys["p256"].public_key(), ["a.test"], now=NOW).decode()
    report = bench.service.check_chain(chain)
    assert bench.service.judged("l7:a", report, 0) is report
    bench.service.grants = policy('clients = ["l7:a"]\nkeys = ["p256"]')
    assert bench.service.judged("l7:a", report, 0) is report
    (problem,) = bench.service.judged("l7:b", report, 0).problems
    assert problem == "the key server's policy does not let l7:b use its key"
    stranger = ca.issue_leaf(ec.generate_private_key(ec.SECP256R1()).public_key(), ["b.test"], now=NOW).decode()
    assert len(bench.service.judged("l7:b", bench.service.check_chain(stranger), 0).problems) == 1


def test_finding_keys_by_name(bench: Bench, ids: dict[str, bytes]) -> None:
    service = bench.service
    chains = Chains(Chain(ids[name], ("a.test",), 1, name) for name in ("p256", "rsa"))
    service.store.replace({key: service.store.get(key) for key in ids.values()}, {ids["rsa"]: {"rsa"}}, chains)  # type: ignore[misc]
    assert service.find("l7:a", Find(7, "a.test"), 0) == Found(7, ((ids["p256"], "p256"), (ids["rsa"], "rsa")))
    assert service.find("l7:a", Find(7, "b.test"), 0) == Failed(7, ErrorCode.UNKNOWN_KEY)
    service.grants = policy('clients = ["l7:a"]\nkeys = ["rsa"]')
    assert service.find("l7:a", Find(7, "a.test"), 0) == Found(7, ((ids["rsa"], "rsa"),))
    assert service.find("l7:b", Find(7, "a.test"), 0) == Failed(7, ErrorCode.UNKNOWN_KEY), "names are no secret to leak"
    assert service.counters == {"found": 2, "not_found": 2}
    for _ in range(20):
        last = service.find("l7:a", Find(7, "a.test"), 0)
    assert last == Failed(7, ErrorCode.RATE_LIMITED)


def test_secrets_of_session_tickets(tmp_path: Path, key_dir: Path) -> None:
    bench = Bench(tmp_path, key_dir, rate=2.5 * TICKETS_UNITS)
    bench.service = Service(
        bench.service.store, AuditLog(bench.path), rate=2.5 * TICKETS_UNITS, tickets=MASTER, clock=lambda: NOW
    )
    expected = TicketSecrets(7, MASTER.secrets(int(NOW.timestamp())))
    assert bench.service.ticket_secrets("l7:a", Tickets(7), 0) == expected
    assert bench.service.ticket_secrets("l7:a", Tickets(7), 0) == expected
    assert bench.service.ticket_secrets("l7:a", Tickets(7), 0) == Failed(7, ErrorCode.RATE_LIMITED)
    lines = [json.loads(line) for line in bench.path.read_text().splitlines()]
    assert [(line["event"], line["client"]) for line in lines] == [("ticket_secrets", "l7:a")] * 2
    assert MASTER.secrets(int(NOW.timestamp()))[1][1].hex() not in bench.path.read_text()
    own = [Bench(tmp_path, key_dir).service.ticket_secrets("l7:a", Tickets(7), 0) for _ in range(2)]
    assert own[0] != own[1], "without a master secret each process has its own"
