"""Certificates from a real ACME server (pebble), for a real control plane."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import Authority, key_id
from certs.chain import inspect
from control import api
from control.node.children import Child
from control.node.tasks import Tasks
from control.service import ISSUER_AWAY_S, ControlPlane
from control.store_sqlite import SqliteStore
from control.tokens import set_token
from core.config import from_dict, to_dict
from core.config import load as load_config
from core.resolve import l7_listeners
from keyserver import acme, acme_plan
from keyserver.__main__ import main as keyserver_main
from keyserver.acme import Control, ControlError, Issuer, Settings, responder
from keyserver.acme_order import OrderError, Orders
from keyserver.acme_plan import Challenge
from keyserver.errors import StartError
from keyserver.issue import key_for
from keyserver.keyfile import load
from keyserver.passphrases import NONE
from proxy.actions import Forward
from proxy.head import read_request
from proxy.rules import Router
from proxy.server import Supervisor
from tests.keyserver import pebble
from tests.keyserver.pebble import Pebble
from tests.proxy.test_server import node, with_key_server
from tests.waiting import until

DOCUMENT = Path(acme.__file__).parents[1] / "docs" / "certificates.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    path = tmp_path_factory.mktemp("pebble")
    with pebble.running(path, Authority.init(path / "ca")) as found:
        yield found


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Cluster:
    plane: ControlPlane
    issuer: Issuer
    settings: Settings
    clock: Clock
    answers: TestServer

    async def configure(self, **domains: list[str]) -> None:
        """Certificates with these domains and without a chain, as `paifang apply` leaves them."""
        tables = [{"name": name, "domains": names} for name, names in domains.items()]
        config = from_dict({"certificates": tables})
        await self.plane.change(lambda _: config, author="t", comment="", expected=None)

    def chain(self, name: str) -> str:
        return self.plane.current.model.certificates[name].chain


@pytest.fixture
async def cluster(tmp_path: Path, server: Pebble) -> AsyncIterator[Cluster]:
    store, clock = await SqliteStore.open(tmp_path / "control.db"), Clock()
    plane = await ControlPlane.load(store, clock)
    (tmp_path / "token").write_text(await set_token(store, "acme"))
    (tmp_path / "state").mkdir(mode=0o700)
    control = TestServer(api.application(plane))
    await control.start_server()
    settings = Settings(
        tmp_path / "keys", NONE, tmp_path / "state", ("127.0.0.1", server.http_port), str(control.make_url("")),
        tmp_path / "token", server.directory, server.ca_file, "",
    )  # fmt: skip
    issuer = Issuer(settings, Control(settings.api, settings.token_file))
    answers = TestServer(responder(issuer), port=server.http_port)
    await answers.start_server()
    yield Cluster(plane, issuer, settings, clock, answers)
    await answers.close()
    await control.close()
    await store.close()


def held(settings: Settings, name: str) -> bytes:
    found: Any = load(settings.keys / f"{name}.key", True, ())
    return key_id(found.keys[0].public_key())


async def test_a_certificate_is_got_and_kept(cluster: Cluster) -> None:
    await cluster.configure(shop=["shop.test", "www.shop.test"])
    await cluster.issuer.turn()
    chain = cluster.chain("shop")
    report = inspect(chain, datetime.now(UTC), lambda key: key == held(cluster.settings, "shop"))
    assert report.problems == ()
    assert {*report.names} == {"shop.test", "www.shop.test"}
    assert cluster.plane.current.model.certificates["shop"].domains == ("shop.test", "www.shop.test")
    assert (cluster.settings.keys / "shop.key").stat().st_mode & 0o777 == 0o600
    assert (cluster.settings.state / "account.key").stat().st_mode & 0o777 == 0o600
    assert cluster.issuer.tokens == {}
    version = cluster.plane.current.version
    await cluster.issuer.turn()
    assert cluster.plane.current.version == version, "what is fine is left alone"
    assert "by ACME; renewed on 20" in str(cluster.plane.issuance)
    await cluster.configure(shop=["shop.test", "www.shop.test"])
    fresh = Issuer(cluster.settings, Control(cluster.settings.api, cluster.settings.token_file))
    await fresh.turn()
    assert cluster.chain("shop") == chain, "no order for what was got before"
    await cluster.configure(shop=["shop.test"])
    await cluster.issuer.turn()
    assert inspect(cluster.chain("shop"), datetime.now(UTC)).names == ("shop.test",)


async def test_renewal_is_a_third_before_the_end(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await cluster.configure(shop=["shop.test"])
    await cluster.issuer.turn()
    first = cluster.chain("shop")
    due = acme_plan.renewal(first)
    assert due is not None

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return moment

    monkeypatch.setattr(acme, "datetime", Later)
    monkeypatch.setattr(acme, "inspect", lambda chain, now, holds: inspect(chain, datetime.now(UTC), holds))
    moment = due - timedelta(seconds=1)
    await cluster.issuer.turn()
    await cluster.issuer.turn()
    assert cluster.chain("shop") == first
    moment = due
    await cluster.issuer.turn()
    assert cluster.chain("shop") != first


async def test_a_failure_is_told_and_not_tried_again_at_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.issuer.tokens = Forgetful()
    await cluster.configure(shop=["shop.test"], wild=["*.shop.test"])
    await cluster.issuer.turn()
    await cluster.issuer.turn()
    assert cluster.chain("shop") == cluster.chain("wild") == ""
    failures = [text for text in caplog.messages if text.startswith("certificate ")]
    assert [text for text in failures if "wild" in text] == [
        "certificate wild: *.shop.test: a wildcard can be proved neither by http-01 nor by tls-alpn-01; name the hosts"
    ]
    (failure,) = [text for text in failures if text.startswith("certificate shop: shop.test: ")]
    assert "404" in failure
    told = str(cluster.plane.issuance["shop"])
    assert "failed: shop.test: " in told
    assert "again in 15 min" in told
    cluster.issuer.tokens = {}
    cluster.issuer._plan.attempts["shop"].next_at = 0.0
    await cluster.issuer.turn()
    assert cluster.chain("shop")
    assert "failed" not in str(cluster.plane.issuance["shop"])


class Forgetful(dict[str, str]):
    def get(self, key: str, default: Any = None) -> Any:
        return default


async def test_one_issuer_in_a_cluster(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    await cluster.configure(shop=["shop.test"])
    assert cluster.plane.issuing("elsewhere", {}) == ""
    for _ in range(3):
        await cluster.issuer.turn()
    assert not cluster.chain("shop")
    (line,) = [text for text in caplog.messages if "at work" in text]
    assert "the issuer 'elsewhere' is at work; one in a cluster is enough" in line
    cluster.clock.now += ISSUER_AWAY_S
    await cluster.issuer.turn()
    assert cluster.chain("shop")
    assert cluster.plane.issuing("elsewhere", {}) == cluster.issuer._name


async def test_a_control_plane_that_is_away_is_waited_for(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = cluster.settings.token_file.read_text()
    cluster.settings.token_file.write_text("wrong")
    await cluster.configure(shop=["shop.test"])
    await cluster.issuer.turn()
    await cluster.issuer.turn()
    assert len([text for text in caplog.messages if "the token is not known" in text]) == 1
    cluster.settings.token_file.write_text(token)
    await cluster.issuer.turn()
    assert cluster.chain("shop")
    away = Issuer(cluster.settings, Control("http://127.0.0.1:1", cluster.settings.token_file))
    await away.turn()
    assert any("127.0.0.1:1" in text for text in caplog.messages)


async def test_the_account_is_kept_and_found_again(cluster: Cluster, server: Pebble) -> None:
    def account() -> str:
        orders = Orders(server.directory, cluster.settings.state, ca_file=server.ca_file, email="ops@example.test")
        return str(orders._net.account.uri)  # type: ignore[union-attr]

    first = await asyncio.to_thread(account)
    assert await asyncio.to_thread(account) == first
    (cluster.settings.state / "account.json").unlink()
    assert await asyncio.to_thread(account) == first, "the CA knows the key"
    (cluster.settings.state / "account.key").unlink()
    (cluster.settings.state / "account.json").unlink()
    assert await asyncio.to_thread(account) != first


def test_what_is_no_acme_server(tmp_path: Path, server: Pebble) -> None:
    with pytest.raises(OrderError, match=r"127\.0\.0\.1:1/"):
        Orders("https://127.0.0.1:1/", tmp_path)
    with pytest.raises(OrderError, match="certificate verify failed"):
        Orders(server.directory, tmp_path)
    (tmp_path / "account.key").write_text("none")
    (tmp_path / "account.key").chmod(0o644)
    with pytest.raises(StartError, match="others than its owner may use it"):
        Orders(server.directory, tmp_path)
    (tmp_path / "account.key").chmod(0o600)
    with pytest.raises(StartError, match="not an account key of ours"):
        Orders(server.directory, tmp_path)


async def test_challenges_are_answered_and_nothing_else(cluster: Cluster, server: Pebble) -> None:
    cluster.issuer.tokens["abc"] = "abc.thumb"
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.http_port}") as session:
        for path, status in (("abc", 200), ("x", 404), ("../x", 404)):
            path = f"/.well-known/acme-challenge/{path}"
            async with session.get(path) as response:
                assert response.status == status
                assert (await response.text() == "abc.thumb") is (status == 200)


ARGUMENTS = ["--keys", "k", "--state", "s", "--listen", "127.0.0.1:0", "--directory", "https://ca.test/dir"]


def test_terms_have_to_be_agreed_to(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        acme.parse(ARGUMENTS)
    assert caught.value.code == 2
    assert "the CA at https://ca.test/dir wants its terms agreed to" in capsys.readouterr().err
    assert acme.parse([*ARGUMENTS, "--agree-tos"]).directory == "https://ca.test/dir"


def test_some_challenge_has_to_be_listened_for(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--keys", "k", "--state", "s", "--agree-tos"]
    with pytest.raises(SystemExit):
        acme.parse(arguments)
    assert "give --listen for http-01, --listen-tls for tls-alpn-01, or both" in capsys.readouterr().err
    http, tls = ["--listen", "127.0.0.1:1"], ["--listen-tls", "[::1]:2"]
    assert acme.parse([*arguments, *http]).challenges == {Challenge.HTTP_01}
    assert acme.parse([*arguments, *tls]).challenges == {Challenge.TLS_ALPN_01}
    assert acme.parse([*arguments, *http, *tls]).challenges == {*Challenge}


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "acme" or name.startswith("keyserver.acme")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("keyserver.acme")
    monkeypatch.setitem(sys.modules, "acme", None)
    monkeypatch.setattr(sys, "argv", ["keyserver", "acme", *ARGUMENTS])
    assert keyserver_main() == 2
    assert "acme is missing: pip install 'paifang[acme]'" in capsys.readouterr().err


def test_the_process(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    argv = [sys.executable, "-m", "keyserver", "acme", "--listen", "127.0.0.1:0", "--agree-tos"]
    argv += ["--listen-tls", "127.0.0.1:0"]
    argv += ["--keys", str(tmp_path / "keys"), "--state", str(tmp_path / "state")]
    argv += ["--api", "http://127.0.0.1:1", "--token-file", str(tmp_path / "token")]
    child = Child.start("acme", argv, log=tmp_path / "log", notify_dir=tmp_path)
    try:
        child.wait_ready(30)
        second = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert second.returncode == 2
        assert "another issuer uses it" in second.stderr
    finally:
        assert child.terminate(10) == 0
    log = (tmp_path / "log").read_text()
    assert "Cannot connect to host 127.0.0.1:1" in log
    assert "http-01 is answered on 127.0.0.1:" in log
    assert "tls-alpn-01 is answered on 127.0.0.1:" in log
    with socket.create_server(("127.0.0.1", 0)) as taken:
        argv[argv.index("--listen-tls") + 1] = f"127.0.0.1:{taken.getsockname()[1]}"
        third = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert third.returncode == 2
    assert "--listen-tls: Address already in use; give an address of this machine and a free port" in third.stderr
    assert "Traceback" not in log


async def test_an_order_that_hangs_does_not_hold_up_the_end(cluster: Cluster, tmp_path: Path) -> None:
    """A CA that accepts, and says nothing for longer than a child may take to end."""
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()

    await cluster.configure(shop=["shop.test"])
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    argv = [sys.executable, "-m", "keyserver", "acme", "--listen-tls", "127.0.0.1:0", "--agree-tos"]
    argv += ["--keys", str(tmp_path / "own"), "--state", str(tmp_path / "own-state"), "--api", cluster.settings.api]
    argv += ["--token-file", str(cluster.settings.token_file)]
    argv += ["--directory", f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"]
    child = Child.start("acme", argv, log=tmp_path / "log", notify_dir=tmp_path)
    async with asyncio.timeout(30):
        await asked.wait()
    assert await asyncio.to_thread(child.terminate, 10) == 0, (tmp_path / "log").read_text()
    server.close()
    await server.wait_closed()


async def test_what_the_ca_gives_is_looked_at(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = Authority.init(cluster.settings.state / "ca")
    key = ec.generate_private_key(ec.SECP256R1())
    monkeypatch.setattr(Orders, "order", lambda *_: other.issue_leaf(key.public_key(), ["shop.test"]).decode())
    await cluster.configure(shop=["shop.test"])
    await cluster.issuer.turn()
    assert not cluster.chain("shop")
    assert "the CA's chain cannot be served: the key server holds no private key for it" in caplog.text
    assert not (cluster.settings.state / "shop.pem").exists()


async def test_a_certificate_that_is_changed_meanwhile_is_left_alone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, loop = Orders.order, asyncio.get_running_loop()

    def slowly(self: Orders, *arguments: Any) -> str:
        chain = order(self, *arguments)
        asyncio.run_coroutine_threadsafe(cluster.configure(shop=["other.test"]), loop).result(10)
        return chain

    with monkeypatch.context() as patched:
        patched.setattr(Orders, "order", slowly)
        await cluster.configure(shop=["shop.test"])
        await cluster.issuer.turn()
    certificate = cluster.plane.current.model.certificates["shop"]
    assert (certificate.domains, certificate.chain) == (("other.test",), "")
    await cluster.issuer.turn()
    assert inspect(cluster.chain("shop"), datetime.now(UTC)).names == ("other.test",)


async def test_the_ca_reaches_the_issuer_by_a_handshake_through_an_l7_node(
    cluster: Cluster, server: Pebble, tmp_path: Path
) -> None:
    """By the configuration that the document shows, its addresses replaced; the node's keys are in a key server."""
    sock, tasks, failures = acme.listen("127.0.0.1", 0), Tasks(), list[str]()
    cluster.issuer._settings = replace(cluster.settings, listen=None, listen_tls=sock.getsockname()[:2])
    tasks.spawn(cluster.issuer.handshakes.serve(sock), "handshakes")
    (shown,) = re.findall(r"(?s)A listener leads.*?```toml\n(.*?)```", DOCUMENT.read_text())
    shown = shown.replace("port = 443\n", f"port = {server.tls_port}\n")
    shown = shown.replace('address = "10.0.0.5", port = 8476', f'address = "127.0.0.1", port = {sock.getsockname()[1]}')
    model = load_config(shown, path="doc", format="toml")
    https, settings, argv = with_key_server(tmp_path / "node", workers=1)
    stand_in = replace(model.certificates["shop"], chain=https.certificates["c"].chain)
    supervisor = Supervisor(settings, tasks, failures.append)
    with subprocess.Popen([sys.executable, *argv], stderr=subprocess.DEVNULL) as keyserver:
        try:
            supervisor.start()
            await supervisor.apply(replace(model, certificates={"shop": stand_in}), 1)
            await cluster.configure(shop=["shop.example", "www.shop.example"])
            await cluster.issuer.turn()
            await until(lambda: supervisor.report()["counters"].get("tls_acme_led", 0) >= 2)  # type: ignore[attr-defined]
        finally:
            await supervisor.drain()
            keyserver.terminate()
    await tasks.close()
    sock.close()
    assert not failures
    assert {*inspect(cluster.chain("shop"), datetime.now(UTC)).names} == {"shop.example", "www.shop.example"}


async def test_what_the_ca_finds_instead_of_the_issuer_is_told(cluster: Cluster, server: Pebble) -> None:
    cluster.issuer._settings = replace(cluster.settings, listen=None, listen_tls=("127.0.0.1", 1))
    await cluster.configure(shop=["shop.test"])
    await cluster.issuer.turn()
    told = str(cluster.plane.issuance["shop"])
    assert f"failed: shop.test: Failed to connect to 127.0.0.1:{server.tls_port} for the tls-alpn-01 challenge" in told


async def test_a_certificate_that_stands_in_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    ca = Authority.init(tmp_path / "ca")
    cluster.issuer._settings = replace(cluster.settings, stand_in_ca=tmp_path / "ca" / "ca.pem")
    _, key = key_for(cluster.settings.keys, "shop")
    chain = ca.issue_leaf(key.public_key(), ["shop.test"]).decode()
    config = from_dict({"certificates": [{"name": "shop", "domains": ["shop.test"], "chain": chain}]})
    await cluster.plane.change(lambda _: config, author="t", comment="", expected=None)
    await cluster.issuer.turn()
    assert cluster.chain("shop") != chain
    assert inspect(cluster.chain("shop"), datetime.now(UTC)).names == ("shop.test",)
    assert held(cluster.settings, "shop") == key_id(key.public_key())


async def test_the_ca_finds_the_answer_through_an_l7_node(cluster: Cluster, server: Pebble) -> None:
    """By the configuration that the document shows, its addresses replaced."""
    await cluster.answers.close()
    answers = TestServer(responder(cluster.issuer))
    await answers.start_server()
    (shown,) = re.findall(r"(?s)A rule leads.*?```toml\n(.*?)```", DOCUMENT.read_text())
    shown = shown.replace("port = 80\n", f"port = {server.http_port}\n")
    shown = shown.replace('address = "10.0.0.5", port = 8475', f'address = "127.0.0.1", port = {answers.port}')
    model = load_config(shown, path="doc", format="toml")
    async with node(workers=1) as supervisor:
        await supervisor.apply(model, 1)
        await cluster.configure(shop=["shop.example"])
        await cluster.issuer.turn()
    await answers.close()
    assert inspect(cluster.chain("shop"), datetime.now(UTC)).names == ("shop.example",)


def test_the_documents_rule_leads_challenges_here() -> None:
    (shown,) = re.findall(r"(?s)A rule leads.*?```toml\n(.*?)```", DOCUMENT.read_text())
    model = load_config(shown, path="doc", format="toml")
    (plain,) = l7_listeners(model)
    router = Router(plain.rules, plain.listener.backend_service)
    asked = acme.PATH.replace("{token}", "abc").encode()
    head = read_request(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
    assert head is not None
    to_acme, elsewhere = router.route(head, asked), router.route(head, b"/")
    assert isinstance(to_acme, Forward)
    assert model.backend_services[to_acme.service].server_group == "acme"
    assert elsewhere == Forward("plain")
    (wanted,) = acme_plan.wanted(to_dict(model))
    assert (wanted.name, wanted.domains) == ("shop", ("shop.example", "www.shop.example"))


async def test_a_control_plane_with_tls_is_verified(cluster: Cluster, tmp_path: Path) -> None:
    authority = Authority.init(tmp_path / "ca")
    authority.issue_node("control", "control", ["127.0.0.1"]).write(tmp_path / "id")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "id" / "cert.pem", tmp_path / "id" / "key.pem")
    served = TestServer(api.application(cluster.plane), scheme="https")
    await served.start_server(ssl=context)
    url, file = f"https://127.0.0.1:{served.port}", cluster.settings.token_file
    try:
        document, _ = await Control(url, file, tmp_path / "ca" / "ca.pem").ask("GET", "/v1/token")
        assert document["name"] == "acme"
        with pytest.raises(ControlError, match=r"(?i)certificate"):
            await Control(url, file).ask("GET", "/v1/token")
    finally:
        await served.close()
    with pytest.raises(StartError, match=r"--api-ca .*none: No such file or directory; give certificates in PEM"):
        Control(url, file, tmp_path / "none")
