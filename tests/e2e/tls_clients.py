"""TLS clients of other makers, each by the program that its users have: what they are asked, and what they say of it.

Each `fetch` verifies the server by `ca` and the name, speaks the one version asked for, and raises `Refused` where it
does not go on. `resumes` says whether a second connection resumed the first one's session, by the client's own word.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TIMEOUT_S = 60
NODE = """
const [options] = JSON.parse(process.argv[1]), fs = require('fs'), tls = require('tls'), crypto = require('crypto');
const file = (name) => options[name] ? fs.readFileSync(options[name]) : undefined;
const connect = (session) => tls.connect({
  host: '127.0.0.1', port: options.port, servername: options.name, ca: file('ca'), cert: file('cert'), key: file('key'),
  minVersion: 'TLSv' + options.version, maxVersion: 'TLSv' + options.version, ALPNProtocols: ['http/1.1'], session,
});
const visit = (session, then) => {
  const socket = connect(session), hash = crypto.createHash('sha256');
  let head = Buffer.alloc(0), inBody = false, ticket;
  socket.on('session', (each) => { ticket = each; });
  socket.on('secureConnect', () => {
    const body = Buffer.alloc(options.upload, 'u');
    socket.write(`${body.length ? 'POST' : 'GET'} ${options.path} HTTP/1.1\\r\\nHost: ${options.name}\\r\\n` +
      `Content-Length: ${body.length}\\r\\nConnection: close\\r\\n\\r\\n`);
    socket.write(body);
  });
  socket.on('data', (data) => {
    if (!inBody) {
      head = Buffer.concat([head, data]);
      const end = head.indexOf('\\r\\n\\r\\n');
      if (end < 0) return;
      inBody = true; data = head.subarray(end + 4); head = head.subarray(0, end);
    }
    hash.update(data);
  });
  const said = {};
  socket.on('secureConnect', () => Object.assign(said, {alpn: socket.alpnProtocol, reused: socket.isSessionReused()}));
  socket.on('error', (error) => { console.error(error.code || error.message); process.exit(1); });
  socket.on('close', () => {
    const status = +head.toString().split(' ')[1];
    then(ticket, {...said, status, sha256: hash.digest('hex')});
  });
};
visit(undefined, (ticket, first) => {
  if (!options.again) return console.log(JSON.stringify(first));
  visit(ticket, (_, second) => console.log(JSON.stringify(second)));
});
"""


class Refused(Exception):
    """The client does not go on; its words."""


@dataclass(frozen=True)
class Where:
    """A listener, the authority to trust, and a client's certificate if it is to show one (PEM files)."""

    port: int
    ca: Path
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Answer:
    status: int
    sha256: str
    alpn: str


class Client(Protocol):
    resumes_in: Sequence[str]  # versions of TLS
    uploads: bool
    shows_certificates: bool

    def fetch(self, where: Where, name: str, path: str, version: str, upload: int = 0) -> Answer: ...
    def resumes(self, where: Where, name: str, path: str, version: str) -> bool: ...


def run(argv: Sequence[str], data: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    """`more` is added to the environment."""
    return subprocess.run(argv, input=data, capture_output=True, timeout=TIMEOUT_S, env={**os.environ, **more})


def request(name: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()


def parse(data: bytes, alpn: str, why: str) -> Answer:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        raise Refused(why)
    return Answer(int(head.split()[1]), hashlib.sha256(body).hexdigest(), alpn)


class OpenSsl:
    resumes_in, uploads, shows_certificates = ("1.2", "1.3"), False, True

    def argv(self, where: Where, name: str, version: str) -> list[str]:
        argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{where.port}", "-servername", name]
        argv += ["-verify_hostname", name, "-verify_return_error", "-CAfile", str(where.ca), "-alpn", "http/1.1"]
        argv += ["-tls" + version.replace(".", "_")]
        return argv + (["-cert", str(where.cert), "-key", str(where.key)] if where.cert else [])

    def fetch(self, where: Where, name: str, path: str, version: str, upload: int = 0) -> Answer:
        argv = self.argv(where, name, version)
        quiet = run([*argv, "-quiet"], request(name, path))
        told = run([*argv, "-ign_eof"], request(name, "/"))
        alpn = re.search(rb"ALPN protocol: (\S+)", told.stdout)
        return parse(quiet.stdout, alpn[1].decode() if alpn else "", quiet.stderr.decode())

    def resumes(self, where: Where, name: str, path: str, version: str) -> bool:
        with tempfile.TemporaryDirectory() as directory:
            argv = [*self.argv(where, name, version), "-ign_eof"]
            run([*argv, "-sess_out", f"{directory}/session"], request(name, path))
            second = run([*argv, "-sess_in", f"{directory}/session"], request(name, path))
        return b"\nReused, TLSv" in second.stdout


class Curl:
    """In TLS 1.2 it takes no tickets (lib/vtls/openssl.c of 7.88), so that only the very worker could resume."""

    resumes_in, uploads, shows_certificates = ("1.3",), True, True

    def argv(self, where: Where, name: str, path: str, version: str) -> list[str]:
        argv = ["curl", "-sSv", "--http1.1", "--cacert", str(where.ca), "--resolve", f"{name}:{where.port}:127.0.0.1"]
        argv += [f"--tlsv{version}", "--tls-max", version, f"https://{name}:{where.port}{path}"]
        return argv + (["--cert", str(where.cert), "--key", str(where.key)] if where.cert else [])

    def fetch(self, where: Where, name: str, path: str, version: str, upload: int = 0) -> Answer:
        sent = ["--data-binary", "@-", "-H", "Expect:"] if upload else []
        done = run([*self.argv(where, name, path, version), *sent], b"u" * upload)
        status = re.search(rb"< HTTP/1.1 (\d+)", done.stderr)
        if done.returncode or status is None:
            raise Refused(done.stderr.decode())
        alpn = re.search(rb"ALPN: server accepted (\S+)", done.stderr)
        return Answer(int(status[1]), hashlib.sha256(done.stdout).hexdigest(), alpn[1].decode() if alpn else "")

    def resumes(self, where: Where, name: str, path: str, version: str) -> bool:
        argv = self.argv(where, name, path, version)
        done = run([*argv, argv[-1], "-H", "Connection: close"])
        return done.stderr.count(b"< HTTP/1.1 200") == 2 and b"re-using session ID" in done.stderr


class GnuTls:
    """It ends its side of the connection as soon as its input ends, and goes on reading."""

    resumes_in, uploads, shows_certificates = ("1.2", "1.3"), False, True

    def argv(self, where: Where, name: str, version: str) -> list[str]:
        argv = ["gnutls-cli", "127.0.0.1", "-p", str(where.port), "--x509cafile", str(where.ca), "--sni-hostname", name]
        argv += ["--verify-hostname", name, "--alpn", "http/1.1", "--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}"]
        return argv + (["--x509certfile", str(where.cert), "--x509keyfile", str(where.key)] if where.cert else [])

    def fetch(self, where: Where, name: str, path: str, version: str, upload: int = 0) -> Answer:
        with tempfile.TemporaryDirectory() as directory:
            log = Path(directory, "log")
            done = run([*self.argv(where, name, version), "--logfile", str(log)], request(name, path))
            said = log.read_text()
        alpn = re.search(r"Application protocol: (\S+)", said)
        return parse(done.stdout, alpn[1] if alpn else "", said + done.stderr.decode())

    def resumes(self, where: Where, name: str, path: str, version: str) -> bool:
        done = run([*self.argv(where, name, version), "--resume", "--waitresumption"], request(name, path))
        return b"This is a resumed session" in done.stdout


class Python:
    resumes_in, uploads, shows_certificates = ("1.2", "1.3"), True, True

    def context(self, where: Where, version: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(where.ca))
        context.minimum_version = context.maximum_version = ssl.TLSVersion[f"TLSv{version.replace('.', '_')}"]
        context.set_alpn_protocols(["http/1.1"])
        if where.cert is not None:
            context.load_cert_chain(where.cert, where.key)
        return context

    def fetch(self, where: Where, name: str, path: str, version: str, upload: int = 0) -> Answer:
        try:
            with (
                socket.create_connection(("127.0.0.1", where.port), TIMEOUT_S) as raw,
                self.context(where, version).wrap_socket(raw, server_hostname=name) as tls,
            ):
                connection = http.client.HTTPConnection(name)
                connection.sock = tls
                connection.request("POST" if upload else "GET", path, b"u" * upload or None)
                response = connection.getresponse()
                digest = hashlib.sha256(response.read()).hexdigest()
                return Answer(response.status, digest, tls.selected_alpn_protocol() or "")
        except (ssl.SSLError, ConnectionError, http.client.HTTPException) as error:
            raise Refused(str(error)) from error

    def resumes(self, where: Where, name: str, path: str, version: str) -> bool:
        context, session, reused = self.context(where, version), None, False
        for _ in range(2):
            raw = socket.create_connection(("127.0.0.1", where.port), TIMEOUT_S)
            with context.wrap_socket(raw, server_hostname=name, session=session) as tls:
                tls.sendall(request(name, path))
                while tls.recv(65536):
                    pass
                session, reused = tls.session, bool(tls.session_reused)
        return reused


class Node:
    resumes_in, uploads, shows_certificates = ("1.2", "1.3"), True, True

    def ask(self, where: Where, name: str, path: str, version: str, **more: object) -> dict[str, object]:
        options = {"port": where.port, "ca": str(where.ca), "name": name, "path": path, "version": version, "upload": 0}
        if where.cert is not None:
            options |= {"cert": str(where.cert), "key": str(where.key)}
        done = run(["node", "-e", NODE, "--", json.dumps([options | more])])
        if done.returncode:
            raise Refused(done.stderr.decode())
        said: dict[str, object] = json.loads(done.stdout)
        return said

    def fetch(self, where: Where, name: str, path: str, version: str, upload: int = 0) -> Answer:
        said = self.ask(where, name, path, version, upload=upload)
        if said["status"] is None:
            raise Refused(str(said))
        return Answer(int(str(said["status"])), str(said["sha256"]), str(said["alpn"]))

    def resumes(self, where: Where, name: str, path: str, version: str) -> bool:
        return self.ask(where, name, path, version, again=True)["reused"] is True


class Chromium:
    """Without its sandbox, which root may not have; the authority is in the NSS database of a home of its own."""

    def browse(self, where: Where, name: str, path: str, version: str, *flags: str) -> str:
        """The document when it has loaded. Raises Refused with what the browser logs."""
        with tempfile.TemporaryDirectory(prefix="pft-chromium-", ignore_cleanup_errors=True) as home:
            database = f"{home}/.pki/nssdb"
            Path(database).mkdir(parents=True)
            for words in (["-N", "--empty-password"], ["-A", "-n", "ca", "-t", "C,,", "-i", str(where.ca)]):
                subprocess.run(["certutil", "-d", f"sql:{database}", *words], check=True, capture_output=True)
            argv = ["chromium", *flags, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            argv += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
            argv += [f"--user-data-dir={home}/profile"]
            argv += [f"--host-resolver-rules=MAP {name} 127.0.0.1", f"--ssl-version-max=tls{version}", "--dump-dom"]
            address = f"https://{name}:{where.port}{path}"
            done = run([*argv, address], HOME=home, XDG_CONFIG_HOME=f"{home}/.config")
        if not done.stdout:
            raise Refused(done.stderr.decode(errors="replace"))
        return done.stdout.decode(errors="replace")


CLIENTS: dict[str, Client] = {
    "openssl": OpenSsl(), "curl": Curl(), "gnutls": GnuTls(), "python": Python(), "node": Node(),
}  # fmt: skip
