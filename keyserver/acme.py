"""`paifang keyserver acme`: gets certificates from an ACME server and renews them. One process in a cluster.

    control plane ──configuration──► which are due? ──► key in --keys, order, proofs, chain ──► control plane ──► nodes
                                                            │           ▲
                                                            ▼           │ http-01: rules lead requests from port 80 here
                                                         ACME server ───┘ tls-alpn-01: listeners lead handshakes here

It runs where the key server does: private keys come into being in the directory that the key server reads, and neither
they nor the account's key leave this machine. The control plane gets chains. It knows which issuer is at work, and
says no to a second one. A chain that was got is kept, so that a configuration applied without it costs no order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp import web
from cryptography import x509

from certs.authority import key_id
from certs.chain import inspect
from control.node import harden, logs
from control.node.addresses import address
from control.node.files import write_atomic
from control.node.notify import notify
from control.node.tasks import Tasks
from core.endpoints import endpoint, version
from keyserver import acme_plan as plan
from keyserver import passphrases
from keyserver.acme_order import OrderError, Orders, Proof
from keyserver.acme_plan import Challenge
from keyserver.acme_tls import Challenges
from keyserver.errors import KeyFilesError, StartError
from keyserver.issue import key_for
from keyserver.passphrases import Passphrases

log = logging.getLogger("keyserver.acme")

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
POLL_S = 10.0
CONTROL_S = 30.0  # of one request
PATH = "/.well-known/acme-challenge/{token}"

EXAMPLES = """examples:
  paifang keyserver acme --keys /etc/paifang/keys --state /var/lib/paifang/acme --listen 10.0.0.5:8475 \\
      --agree-tos --email ops@example.test
  paifang keyserver acme --keys /etc/paifang/keys --state /var/lib/paifang/acme --listen-tls 10.0.0.5:8476 --agree-tos
docs/certificates.md has what leads challenges here.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """listen, listen_tls: for http-01 and tls-alpn-01; one of them at least. stand_in_ca: see `acme_plan.reason`."""

    keys: Path
    passphrases: Passphrases
    state: Path
    listen: tuple[str, int] | None
    api: str
    token_file: Path
    directory: str
    directory_ca: Path | None
    email: str
    listen_tls: tuple[str, int] | None = None
    stand_in_ca: Path | None = None
    api_ca: Path | None = None

    @property
    def challenges(self) -> frozenset[Challenge]:
        """The challenges that there is a listener for."""
        given = {Challenge.HTTP_01: self.listen, Challenge.TLS_ALPN_01: self.listen_tls}
        return frozenset(challenge for challenge, address in given.items() if address is not None)


class ControlError(Exception):
    """The control plane cannot be reached or says no; the text says why."""


class Control:
    """The control plane's REST API, as far as it is needed."""

    def __init__(self, url: str, token_file: Path, ca: Path | None = None) -> None:
        """`ca`: whose certificate it has, if not that of a CA which the system trusts. Raises StartError."""
        self._url, self._token_file = url.rstrip("/"), token_file
        try:
            self._tls = ssl.create_default_context(cafile=ca)
        except OSError as error:
            raise StartError(f"--api-ca {ca}: {error.strerror or error}; give certificates in PEM") from None

    async def ask(
        self, method: str, path: str, body: object = None, tag: str | None = None
    ) -> tuple[Mapping[str, object], str]:
        """An answer and its ETag; with `tag`, only if that is still what there is. Raises ControlError."""
        try:
            headers = {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
            if tag is not None:
                headers["If-Match"] = tag
            timeout = aiohttp.ClientTimeout(total=CONTROL_S)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method, self._url + path, json=body, headers=headers, ssl=self._tls, allow_redirects=False
                ) as response,
            ):
                document = await response.json(content_type=None) if response.status != 204 else {}
                if response.status >= 400:
                    raise ControlError(f"{self._url}{path}: {document.get('detail', response.reason)}")
                return document, response.headers.get("ETag", "")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ControlError(f"{self._url}{path}: {str(error) or type(error).__name__}") from None


class Issuer:
    """Looks after the certificates of one configuration. `now` of methods: monotonic seconds."""

    def __init__(self, settings: Settings, control: Control) -> None:
        self._settings = settings
        self._control = control
        self._orders: Orders | None = None
        self._plan = plan.Plan()
        self._name = f"{socket.gethostname()}:{settings.state}"
        self._complaint = ""
        self._fine: set[plan.Wanted] = set()  # looked at before: nothing to do until they are due
        self.tokens: dict[str, str] = {}  # key authorizations, for the responder
        self.handshakes = Challenges()

    async def turn(self) -> None:
        """Look once, and get or renew what is due."""
        try:
            config, _ = await self._control.ask("GET", "/v1/config")
            wanted = plan.wanted(config)
            self._plan.of(wanted)
            await self._tell(wanted)
            for each in wanted:
                if await self._look_after(each):
                    await self._tell(wanted)
        except ControlError as error:
            if str(error) != self._complaint:
                log.error("%s", error)
            self._complaint = str(error)
        else:
            self._complaint = ""

    async def _look_after(self, each: plan.Wanted) -> bool:
        """Whether anything was done."""
        attempts, begun = self._plan.attempts[each.name], time.monotonic()
        due = plan.renewal(each.chain)
        if begun < attempts.next_at or (each in self._fine and due is not None and datetime.now(UTC) < due):
            return False
        try:
            if why := plan.impossible(each.domains):
                raise OrderError(why)
            chain = await _aside(partial(self._chain, each))
        except (OrderError, StartError, KeyFilesError, OSError) as error:
            attempts.failed(str(error), begun)
            log.error("certificate %s: %s", each.name, error)
            return True
        self._plan.attempts[each.name] = plan.Attempts()
        if chain == each.chain:
            self._fine = {one for one in self._fine if one.name != each.name} | {each}
        else:
            path = f"/v1/certificates/{each.name}"
            now_there, current = await self._control.ask("GET", path)
            if now_there.get("domains") == list(each.domains):
                await self._control.ask("PATCH", f"{path}?comment=acme", {"chain": chain}, current)
            log.info("certificate %s: given to the control plane", each.name)
        return chain != each.chain

    def _chain(self, each: plan.Wanted) -> str:
        """The chain in use, if it will do; else the one that is kept; else a new one. Blocks."""
        settings, now = self._settings, datetime.now(UTC)
        _, key = key_for(settings.keys, each.name, passphrase=settings.passphrases.read())
        identifier = key_id(key.public_key())
        stand_in = None
        if settings.stand_in_ca is not None:
            stand_in = x509.load_pem_x509_certificate(settings.stand_in_ca.read_bytes())
        kept = settings.state / f"{each.name}.pem"
        for chain in (each.chain, kept.read_text() if kept.exists() else ""):
            why = plan.reason(chain, each.domains, identifier.hex(), now, stand_in)
            if not why:
                return chain
        challenge = plan.challenge(each, settings.challenges)
        log.info("certificate %s: ordered for %s by %s: %s", each.name, ", ".join(each.domains), challenge.value, why)
        if self._orders is None:
            self._orders = Orders(
                settings.directory, settings.state, email=settings.email, ca_file=settings.directory_ca
            )
        try:
            chain = self._orders.order(key, each.domains, challenge, self._publish)
        finally:
            self.tokens.clear()
            self.handshakes.clear()
        if problems := inspect(chain, datetime.now(UTC), lambda held: held == identifier).problems:
            raise OrderError(f"the CA's chain cannot be served: {'; '.join(problems)}")
        write_atomic(kept, chain.encode(), 0o644)
        return chain

    def _publish(self, proof: Proof) -> None:
        if proof.challenge is Challenge.TLS_ALPN_01:
            self.handshakes.prove(proof.domain, proof.authorization)
        else:
            self.tokens[proof.token] = proof.authorization

    async def _tell(self, wanted: Sequence[plan.Wanted]) -> None:
        """Say what we do, which is also the question whether we may."""
        now = time.monotonic()
        told = {each.name: {"text": self._state(each, now)} for each in wanted}
        await self._control.ask("POST", "/v1/issuance", {"issuer": self._name, "certificates": told})

    def _state(self, each: plan.Wanted, now: float) -> str:
        attempts = self._plan.attempts[each.name]
        if attempts.why:
            return f"failed: {attempts.why}; again in {max(0, int(attempts.next_at - now)) // 60 + 1} min"
        due = plan.renewal(each.chain)
        return "is being got" if due is None else f"by ACME; renewed on {due:%Y-%m-%d}"


def responder(issuer: Issuer) -> web.Application:
    """Answers http-01 challenges, and nothing else."""

    async def answer(request: web.Request) -> web.Response:
        authorization = issuer.tokens.get(request.match_info["token"])
        if authorization is None:
            raise web.HTTPNotFound
        return web.Response(body=authorization.encode(), content_type="application/octet-stream")

    app = web.Application(client_max_size=1024)
    app.add_routes([web.get(PATH, answer)])
    return app


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises StartError."""
    stop, failures = asyncio.Event(), list[BaseException]()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def died(_name: str, error: BaseException) -> None:
        failures.append(error)
        stop.set()

    issuer, tasks = Issuer(settings, Control(settings.api, settings.token_file, settings.api_ca)), Tasks(died)
    runner = web.AppRunner(responder(issuer), access_log=None)
    await runner.setup()
    handshakes = None
    try:
        if settings.listen is not None:
            with _explained("--listen"):
                await web.TCPSite(runner, *settings.listen).start()
            log.info("http-01 is answered on %s", endpoint(*runner.addresses[0][:2]))
        if settings.listen_tls is not None:
            with _explained("--listen-tls"):
                handshakes = listen(*settings.listen_tls)
            log.info("tls-alpn-01 is answered on %s", endpoint(*handshakes.getsockname()[:2]))
            tasks.spawn(issuer.handshakes.serve(handshakes), "tls-alpn-01")
        tasks.spawn(_work(issuer), "issuer")
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
    finally:
        await tasks.close()
        await runner.cleanup()
        if handshakes is not None:
            handshakes.close()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def _explained(option: str) -> Iterator[None]:
    """StartError for an address that cannot be had."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise StartError(f"{option}: {why}; give an address of this machine and a free port") from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket for handshakes. Raises OSError."""
    sock = socket.create_server((host, port), family=socket.AF_INET6 if version(host) == 6 else socket.AF_INET)
    sock.setblocking(False)
    return sock


async def _aside(work: Callable[[], str]) -> str:
    """What `work` returns or raises, in a thread of its own, which does not hold up the end of the process.

    (An order may wait for the CA for minutes. One that is left in the middle is forgotten by both sides.)
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()

    def settle(result: str, error: BaseException | None) -> None:
        if not done.cancelled():
            done.set_result(result) if error is None else done.set_exception(error)

    def run() -> None:
        result, error = "", None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="ACME order", daemon=True).start()
    return await done


async def _work(issuer: Issuer) -> None:
    while True:
        await issuer.turn()
        await asyncio.sleep(POLL_S)


def parse(arguments: Sequence[str]) -> Settings:
    """Settings; exits with code 2 for what does not fit together. Raises StartError."""
    parser = argparse.ArgumentParser(
        prog="paifang keyserver acme",
        description="Gets certificates from an ACME server for all certificates with `domains`, and renews them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    state = Path("/var/lib/paifang/control/token")
    parser.add_argument("--keys", type=Path, required=True, metavar="DIR", help="where the key server reads its keys")
    passphrases.add_arguments(parser, what="encrypts the keys")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="account and chains; made if missing")
    parser.add_argument("--listen", type=address, metavar="ADDR:PORT", help="where challenges of http-01 arrive")
    parser.add_argument("--listen-tls", type=address, metavar="ADDR:PORT", help="the same for tls-alpn-01")
    parser.add_argument("--api", default="http://127.0.0.1:8470", metavar="URL", help="control plane (%(default)s)")
    parser.add_argument("--api-ca", type=Path, metavar="FILE", help="whose certificate that has; else the system's CAs")
    parser.add_argument("--token-file", type=Path, default=state, metavar="FILE", help="its token (%(default)s)")
    parser.add_argument("--directory", default=LETS_ENCRYPT, metavar="URL", help="the ACME server (%(default)s)")
    parser.add_argument("--directory-ca", type=Path, metavar="FILE", help="CAs to trust for the ACME server itself")
    parser.add_argument("--email", default="", help="where the CA may write to")
    parser.add_argument(
        "--stand-in-ca", type=Path, metavar="FILE", help="replace this CA's certificates, which only stand in"
    )
    parser.add_argument("--agree-tos", action="store_true", help="agree to the CA's terms of service")
    options = parser.parse_args(arguments)
    if not options.agree_tos:
        parser.error(f"the CA at {options.directory} wants its terms agreed to: read them and give --agree-tos")
    if options.listen is None and options.listen_tls is None:
        parser.error("give --listen for http-01, --listen-tls for tls-alpn-01, or both")
    return Settings(
        options.keys, passphrases.from_options(options), options.state, options.listen, options.api,
        options.token_file, options.directory, options.directory_ca, options.email, options.listen_tls,
        options.stand_in_ca, options.api_ca,
    )  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code. Raises StartError."""
    settings = parse(arguments)
    logs.setup("acme")
    harden.forbid_dumps()
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(settings.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"--state {settings.state}: another issuer uses it; stop that one") from None
    except OSError as error:
        raise StartError(f"--state {settings.state}: {error.strerror}; give a directory of this user") from None
    asyncio.run(serve(settings))
    return 0
