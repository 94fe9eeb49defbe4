"""The process as its users see it: flags, messages, signals, readiness."""

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families

from certs.authority import key_id, private_pem
from control.node.children import Child, ChildError
from control.node.files import write_atomic
from control.node.identity import Identity
from keyserver.client import KeyClient
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.keyring import Sources
from keyserver.options import parse
from keyserver.passphrases import NONE, Passphrases
from keyserver.tickets import Master
from keyserver.token_keys import Token
from tests.keyserver import hsm
from tests.keyserver.conftest import TLS13, audited, events
from tests.keyserver.test_store import verify
from tests.waiting import until

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONASYNCIODEBUG": "0"}
SECONDS = 20.0

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path, key_dir: Path) -> Iterator[Start]:
    children: list[Child] = []

    def run(*arguments: str | Path) -> Child:
        argv = [sys.executable, "-m", "keyserver", "--keys", str(key_dir), *map(str, arguments)]
        argv += [] if "--metrics" in arguments else ["--metrics", "off"]
        child = Child.start("keyserver", argv, log=tmp_path / "log", notify_dir=tmp_path, env=ENVIRONMENT)
        children.append(child)
        child.wait_ready(SECONDS)
        return child

    yield run
    for child in children:
        child.terminate(SECONDS)


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and stderr of a process that is expected to end by itself."""
    argv = [sys.executable, "-m", "keyserver", *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}, timeout=SECONDS)
    return done.returncode, done.stderr


async def test_it_serves_and_drains(
    start: Start, tmp_path: Path, ids: dict[str, bytes], identity: Callable[[str, str], Identity]
) -> None:
    server = identity("keyserver", "k")
    child = start(
        *("--socket", tmp_path / "sock", "--audit-log", tmp_path / "audit"),
        *("--listen", "127.0.0.1:0", "--identity", server.directory),
    )
    (port,) = [line.split(":")[-1].split()[0] for line in child.log.read_text().splitlines() if "127.0.0.1:" in line]
    client = KeyClient([f"unix:{tmp_path / 'sock'}"])
    remote = KeyClient([f"127.0.0.1:{port}"], identity=identity("l7", "l7-1"))
    for each in (client, remote):
        await each.start()
        assert await each.sign(ids["p256"], 0x0403, TLS13, "a.test")
    clients = [line["client"] for line in audited(tmp_path / "audit")]
    assert clients == [f"uid:{os.getuid()}", "l7:l7-1"]
    for each in (client, remote):
        await each.close()
    assert child.terminate(SECONDS) == 0
    assert not (tmp_path / "sock").exists()
    log = child.log.read_text()
    assert "draining; so far: ec-p256 2" in log
    assert "Traceback" not in log


async def test_sighup_and_polling(start: Start, tmp_path: Path, key_dir: Path, ids: dict[str, bytes]) -> None:
    child = start("--socket", tmp_path / "sock", "--audit-log", tmp_path / "audit")
    client = KeyClient([f"unix:{tmp_path / 'sock'}"])
    await client.start()
    await client.sign(ids["p256"], 0x0403, TLS13, "a.test")
    fresh = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "audit").rename(tmp_path / "audit.1")
    write_atomic(key_dir / "fresh.key", private_pem(fresh))
    child.signal(signal.SIGHUP)
    await until(lambda: "1 added, 0 removed, 5 held" in child.log.read_text())
    await client.sign(key_id(fresh.public_key()), 0x0403, TLS13, "b.test")
    assert [len(audited(tmp_path / name)) for name in ("audit.1", "audit")] == [1, 1]
    assert [(line["event"], line["key"]) for line in events(tmp_path / "audit.1")] == [
        ("key_added", each.hex()) for each in sorted(ids.values())
    ]
    (added,) = events(tmp_path / "audit")
    assert (added["event"], added["key"]) == ("key_added", key_id(fresh.public_key()).hex())
    assert added["names"] == ["fresh"]
    (key_dir / "p384.key").chmod(0o644)
    await until(lambda: "the keys stay as they were" in child.log.read_text())
    assert "p384.key: others than its owner may use it (mode 0644); chmod 600" in child.log.read_text()
    await client.sign(ids["p384"], 0x0503, TLS13, "c.test")
    (key_dir / "p384.key").unlink()
    await until(lambda: "0 added, 1 removed, 4 held" in child.log.read_text())
    with pytest.raises(KeyServerError) as caught:
        await client.sign(ids["p384"], 0x0503, TLS13, "c.test")
    assert caught.value.code is ErrorCode.UNKNOWN_KEY
    await client.close()


async def test_it_says_when_it_has_read_its_keys_anew(start: Start, tmp_path: Path, key_dir: Path) -> None:
    child = start("--socket", tmp_path / "sock", "--audit-log", tmp_path / "audit")
    write_atomic(key_dir / "fresh.key", private_pem(ec.generate_private_key(ec.SECP256R1())))
    child.signal(signal.SIGHUP)
    await until(child.said_ready)
    assert "1 added, 0 removed, 5 held" in child.log.read_text()
    (key_dir / "fresh.key").chmod(0o644)
    child.signal(signal.SIGHUP)
    await until(child.said_ready)
    assert "the keys stay as they were" in child.log.read_text()
    write_atomic(key_dir / "fresh.key", private_pem(ec.generate_private_key(ec.SECP256R1())))
    await until(lambda: "1 added, 1 removed, 5 held" in child.log.read_text())
    assert not child.said_ready()  # nobody has asked for that


async def test_keys_become_encrypted_while_it_serves(
    start: Start, tmp_path: Path, key_dir: Path, ids: dict[str, bytes]
) -> None:
    write_atomic(tmp_path / "old", b"the old passphrase")
    write_atomic(tmp_path / "new", b"the new passphrase")
    old, new = ("--passphrase-file", tmp_path / "old"), ("--passphrase-file", tmp_path / "new")
    child = start("--socket", tmp_path / "sock", *old, *new)
    clear = "4 key files are not encrypted ("
    assert clear + str(key_dir / "ed25519.key") in child.log.read_text()
    client = KeyClient([f"unix:{tmp_path / 'sock'}"])
    await client.start()
    for number, arguments in enumerate([old, (*new, "--old-passphrase-file", tmp_path / "old")], 1):
        argv = [sys.executable, "-m", "keyserver", "encrypt", *map(str, arguments), "--", str(key_dir)]
        await asyncio.to_thread(subprocess.run, argv, check=True, env={**os.environ, **ENVIRONMENT}, timeout=SECONDS)
        child.said_ready()
        child.signal(signal.SIGHUP)
        await until(child.said_ready)
        assert child.log.read_text().count("0 added, 0 removed, 4 held") >= number
        assert await client.sign(ids["rsa"], 0x0804, TLS13, "a.test")
    await client.close()
    log = child.log.read_text()
    assert log.count(clear) == 1
    assert "passphrase" not in log


async def test_keys_of_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hsm").mkdir()
    token = hsm.make(tmp_path / "hsm", monkeypatch)
    flags = ["--pkcs11-module", hsm.MODULE, "--pkcs11-token", "pft"]
    write_atomic(tmp_path / "policy", b'[[grants]]\nclients = ["*"]\nkeys = ["shop"]')
    argv = [sys.executable, "-m", "keyserver", *flags, "--socket", str(tmp_path / "sock")]
    right = [*argv, "--pkcs11-pin-file", str(token.pin_file), "--policy", str(tmp_path / "policy")]
    child = Child.start("keyserver", right, log=tmp_path / "log", notify_dir=tmp_path, env=ENVIRONMENT)
    try:
        child.wait_ready(SECONDS)
        client = KeyClient([f"unix:{tmp_path / 'sock'}"])
        await client.start()
        verify(token.keys["shop"], 0x0403, await client.sign(token.id_of("shop"), 0x0403, TLS13, ""), TLS13)
        with pytest.raises(KeyServerError) as caught:
            await client.sign(token.id_of("shop-rsa"), 0x0804, TLS13, "")
        assert caught.value.code is ErrorCode.REFUSED_CLIENT, "labels are names"
        await client.close()
        assert "3 keys held" in child.log.read_text()
    finally:
        child.terminate(SECONDS)
    monkeypatch.setenv("PFT_PIN", "0000")
    code, text = await asyncio.to_thread(run, *argv[3:], "--pkcs11-pin-env", "PFT_PIN")
    assert code == 2
    assert "token pft: the PIN is refused (PinIncorrect); mend it" in text.splitlines()[-1]


async def test_key_servers_with_the_same_ticket_secret_agree(start: Start, tmp_path: Path) -> None:
    write_atomic(tmp_path / "secret", b"0123456789abcdef0123456789abcdef\n")
    given = []
    for name in ("a", "b"):
        child = start("--socket", tmp_path / name, "--ticket-secret", tmp_path / "secret")
        client = KeyClient([f"unix:{tmp_path / name}"])
        await client.start()
        given.append(await client.ticket_secrets())
        await client.close()
        assert "0123456789abcdef" not in child.log.read_text()
    assert set(given[0]) & set(given[1]), "two of three at least, if a period ended in between"
    assert set(given[0]) <= set(Master(b"0123456789abcdef0123456789abcdef").secrets(given[0][1][0]))


async def test_metrics_and_ping(start: Start, tmp_path: Path, key_dir: Path, ids: dict[str, bytes]) -> None:
    child = start("--socket", tmp_path / "sock", "--metrics", "127.0.0.1:0")
    client = KeyClient([f"unix:{tmp_path / 'sock'}"])
    await client.start()
    for name, scheme, count in (("p256", 0x0403, 3), ("rsa", 0x0804, 2)):
        for _ in range(count):
            await client.sign(ids[name], scheme, TLS13, "")
    with pytest.raises(KeyServerError):
        await client.sign(ids["p256"], 0x0403, b"x", "")
    (url,) = re.findall(r"metrics at (\S+)", child.log.read_text())

    def scrape() -> dict[str, float]:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            found = text_string_to_metric_families(answer.read().decode())
            return {",".join((s.name, *s.labels.values())): s.value for family in found for s in family.samples}

    numbers, us = await asyncio.to_thread(scrape), f"uid:{os.getuid()}"
    prefix = "paifang_keyserver"
    expected = {
        "keys,rsa": 1, "keys,ec-p256": 1, "signatures_total,ec-p256": 3, "signatures_total,rsa": 2, "connections": 1,
        f"requests_total,{us},ok": 5, f"requests_total,{us},refused_shape": 1, "workers_ready,rsa": 1, "workers,rsa": 1,
        "waiting_requests,rsa": 0, "worker_restarts_total,rsa": 0, "clear_key_files": 4, "stale": 0,
    }  # fmt: skip
    assert {name: numbers[f"{prefix}_{name}"] for name in expected} == expected
    assert numbers["process_cpu_seconds_total"] > 0
    write_atomic(key_dir / "bad.key", b"x")
    child.signal(signal.SIGHUP)
    await until(child.said_ready)
    assert (await asyncio.to_thread(scrape))[f"{prefix}_stale"] == 1
    (key_dir / "bad.key").unlink()
    child.signal(signal.SIGHUP)
    await until(child.said_ready)
    assert (await asyncio.to_thread(scrape))[f"{prefix}_stale"] == 0
    again = ("--keys", key_dir, "--socket", tmp_path / "2", "--metrics", url.split("/")[2])
    code, text = await asyncio.to_thread(run, *again)
    assert code == 2
    assert "cannot serve metrics on" in text
    await client.close()


async def test_the_policy_is_followed(start: Start, tmp_path: Path, ids: dict[str, bytes]) -> None:
    policy, me = tmp_path / "policy.toml", f"uid:{os.getuid()}"
    write_atomic(policy, f'[[grants]]\nclients = ["{me}"]\nkeys = ["p256", "typo"]'.encode())
    child = start("--socket", tmp_path / "sock", "--policy", policy, "--audit-log", tmp_path / "audit")
    assert f"{policy}: no key 'typo' is held" in child.log.read_text()
    client = KeyClient([f"unix:{tmp_path / 'sock'}"], deadline_s=0.5)
    await client.start()
    assert await client.sign(ids["p256"], 0x0403, TLS13, "")
    with pytest.raises(KeyServerError) as caught:
        await client.sign(ids["ed25519"], 0x0807, TLS13, "")
    assert caught.value.code is ErrorCode.REFUSED_CLIENT
    results = [line["result"] for line in audited(tmp_path / "audit")]
    assert results == ["ok", "refused_client"]
    write_atomic(policy, b"nonsense")
    await until(lambda: "the policy stays as it was" in child.log.read_text())
    assert await client.sign(ids["p256"], 0x0403, TLS13, "")
    write_atomic(policy, b'[[grants]]\nclients = ["l7:*"]\nkeys = ["*"]')
    child.signal(signal.SIGHUP)
    await until(lambda: f"{me}: cut off" in child.log.read_text())
    digests = [line["sha256"] for line in events(tmp_path / "audit") if line["event"] == "policy"]
    assert len(set(digests)) == len(digests) == 2
    assert digests[1] == hashlib.sha256(policy.read_bytes()).hexdigest()
    assert {"client_cut_off", "client_refused"} & {line["event"] for line in events(tmp_path / "audit")}
    with pytest.raises(KeyServerError):
        await client.sign(ids["p256"], 0x0403, TLS13, "")
    await client.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_that_dies_or_hangs_costs_no_signature(
    start: Start, tmp_path: Path, ids: dict[str, bytes], number: signal.Signals
) -> None:
    child = start("--socket", tmp_path / "sock", "--rsa-workers", "2")
    client = KeyClient([f"unix:{tmp_path / 'sock'}"], deadline_s=10)
    await client.start()
    await client.sign(ids["rsa"], 0x0804, TLS13, "")
    at_once = asyncio.Semaphore(32)  # both windows twice: who waits in a long queue of a slow machine gets BUSY

    async def sign() -> bytes:
        async with at_once:
            return await client.sign(ids["rsa"], 0x0804, TLS13, "")

    signatures = asyncio.gather(*(sign() for _ in range(400)))
    await client.sign(ids["p256"], 0x0403, TLS13, "")
    workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    assert len(workers) == 2, workers
    os.kill(int(workers[0]), number)
    assert len(set(await signatures)) == 400
    assert await client.sign(ids["p256"], 0x0403, TLS13, "")
    await until(lambda: child.log.read_text().count("is ready") == 3)
    assert f"worker rsa {workers[0]} has ended; starting another" in child.log.read_text()
    assert not Path(f"/proc/{workers[0]}").exists(), "it was reaped"
    await client.close()
    assert child.terminate(SECONDS) == 0


def test_audit_lines_go_to_standard_output(start: Start, tmp_path: Path) -> None:
    child = start("--socket", tmp_path / "sock")
    assert child.terminate(SECONDS) == 0


def test_it_starts_without_keys_and_says_so(tmp_path: Path, start: Start, key_dir: Path) -> None:
    for path in key_dir.iterdir():
        path.unlink()
    child = start("--socket", tmp_path / "sock")
    assert "WARNING keyserver keyserver: 0 keys held" in child.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "no keys: give --keys PATH, --pkcs11-module PATH or both"),
        (["--pkcs11-module", "M", "--socket", "S"], "--pkcs11-module, --pkcs11-token and one of --pkcs11-pin-…"),
        (["--keys", "KEYS", "--pkcs11-pin-file", "P", "--socket", "S"], "--pkcs11-pin-… belong together"),
        (["--keys", "KEYS", "--socket", "S", "--pkcs11-workers", "65"], "--pkcs11-workers: give 1 to 64"),
        (["--keys", "KEYS"], "nothing to listen on"),
        (["--keys", "KEYS", "--listen", "127.0.0.1:0"], "--listen and --identity belong together"),
        (["--keys", "KEYS", "--socket", "S", "--identity", "X"], "--listen and --identity belong together"),
        (["--keys", "KEYS", "--listen", "8473", "--identity", "X"], "give ADDR:PORT"),
        (["--keys", "KEYS", "--listen", "h:99999", "--identity", "X"], "give ADDR:PORT"),
        (["--keys", "KEYS", "--listen", "h:1", "--identity", "X", "--allow-uid", "1"], "are for --socket"),
        (["--keys", "KEYS", "--socket", "S", "--allow-node", "a"], "--allow-node is for --listen"),
        (["--keys", "KEYS", "--socket", "S", "--rate", "0"], "--rate: give 1 or more"),
        (["--keys", "KEYS", "--socket", "S", "--rsa-workers", "0"], "--rsa-workers: give 1 to 64"),
        (["--keys", "KEYS", "--socket", "S", "--key-rate", "nan"], "--key-rate: give 1 or more"),
        (["--keys", "KEYS", "--socket", "S", "--bogus"], "unrecognized arguments"),
        (["--keys", "KEYS", "--socket", "S", "--allow-uid", "ann"], "'ann': give a number; `id -u ann`"),
        (["--keys", "KEYS", "--socket", "S", "--metrics", "8476"], "--metrics '8476': give ADDR:PORT"),
        (["isue", "--keys", "KEYS"], "'isue' is unknown; give options, or issue, check, encrypt, ping"),
    ],
)
def test_flags_that_do_not_fit(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert why in capsys.readouterr().err


def test_flags() -> None:
    settings = parse(["--keys", "a", "b", "--socket", "s", "--allow-uid", "33", "--allow-uid", "34"])
    assert settings.keys.paths == (Path("a"), Path("b"))
    assert settings.access.uids == {33, 34}
    assert settings.audit_log == Path("-")
    plain = parse(["--keys", "a", "--socket", "s"])
    assert plain.access.uids == {os.geteuid()}
    assert plain.keys == Sources((Path("a"),), NONE, False)
    assert plain.rsa_workers == 1
    assert plain.token is None
    assert (plain.metrics, plain.metrics_asked) == (("127.0.0.1", 8476), False)
    off = parse(["--keys", "a", "--socket", "s", "--metrics", "off"])
    assert (off.metrics, off.metrics_asked) == (None, True)
    token = parse(["--pkcs11-module", "m", "--pkcs11-token", "t", "--pkcs11-pin-file", "p", "--socket", "s"])
    assert (token.token, token.pin, token.token_workers) == (Token("m", "t"), Passphrases((Path("p"),)), 1)
    assert token.keys.paths == ()
    more = parse(["--keys", "a", "--socket", "s", "--encrypted-only", "--passphrase-file", "p"])
    assert more.keys == Sources((Path("a"),), Passphrases((Path("p"),)), True)
    tcp = parse(["--keys", "a", "--listen", "[::1]:8473", "--identity", "i"])
    assert tcp.listen == ("::1", 8473)
    assert tcp.access.nodes is None
    named = parse(["--keys", "a", "--listen", "h:1", "--identity", "i", "--allow-node", "x", "--allow-node", "y"])
    assert named.access.nodes == {"x", "y"}


def test_mistakes_are_one_line_with_a_remedy(
    tmp_path: Path, key_dir: Path, identity: Callable[[str, str], Identity]
) -> None:
    socket = ("--socket", tmp_path / "sock")
    (key_dir / "rsa.key").chmod(0o640)
    code, text = run("--keys", key_dir, *socket)
    assert code == 2
    expected = f"others than its owner may use it (mode 0640); chmod 600 {key_dir}/rsa.key"
    assert [line for line in text.splitlines() if line.startswith("paifang-keyserver:")] == [
        f"paifang-keyserver: {key_dir}/rsa.key: {expected}"
    ]
    (key_dir / "rsa.key").chmod(0o600)
    short = tmp_path / "short"
    write_atomic(short, b"short\n")
    keys, missing = ("--keys", key_dir), tmp_path / "no"
    issue = ("issue", *keys, "--ca", missing, "--name", "a", "--domain", "a.test", "--chain-out", missing)
    for arguments, why in {
        ("--keys", missing, *socket): "no: No such file or directory; check the path",
        (*keys, "--socket", missing / "sock"): "cannot listen on",
        (*keys, *socket, "--audit-log", missing / "log"): "cannot open the audit log",
        (*keys, "--listen", "127.0.0.1:0", "--identity", missing): "makes an identity",
        (*keys, "--listen", "127.0.0.1:0", "--identity", identity("l7", "l7-1").directory): "is for l7 l7-1; `paifang",
        (*keys, "--listen", "192.0.2.1:0", "--identity", identity("keyserver", "k").directory): "`ip address` lists",
        (*keys, "--socket", tmp_path / ("x" * 100)): "AF_UNIX path too long; use a shorter one",
        (*keys, *socket, "--socket-group", "nobodies"): "there is no group nobodies; `getent group` lists them",
        (*keys, *socket, "--passphrase-file", missing): "no: No such file or directory; check the path",
        (*keys, *socket, "--passphrase-env", "PFT_UNSET"): "$PFT_UNSET is unset or empty",
        (*keys, *socket, "--encrypted-only"): "it is not encrypted; `paifang keyserver encrypt",
        (*keys, *socket, "--ticket-secret", missing): "no: No such file or directory; check the path",
        (*keys, *socket, "--ticket-secret", short): "a secret of 5 bytes; 32 or more are wanted; `openssl rand",
        (*keys, *socket, "--policy", missing): "no: No such file or directory; check the path",
        issue: "paifang certs init",
    }.items():
        code, text = run(*arguments)
        assert code == 2, text
        assert why in text.splitlines()[-1]
        assert "Traceback" not in text


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert "--socket /run/paifang/keys.sock --allow-uid 33" in capsys.readouterr().out


def test_a_child_that_fails_is_quoted(tmp_path: Path, start: Start) -> None:
    with pytest.raises(ChildError, match="nothing to listen on"):
        start()
