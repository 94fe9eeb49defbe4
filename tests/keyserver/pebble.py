"""Debian's ACME test server, with its DNS, on free ports: every name is 127.0.0.1."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import Authority, private_pem
from control.ports import free_port

SECONDS = 20.0


@dataclass(frozen=True)
class Pebble:
    directory: str
    ca_file: Path
    http_port: int  # where it looks for the answers to http-01
    tls_port: int  # and to tls-alpn-01
    management: str

    def root(self) -> str:
        """The root of what it issues, in PEM."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(f"{self.management}/roots/0", context=context, timeout=SECONDS) as response:
            return str(response.read().decode())


@contextmanager
def running(tmp_path: Path, ca: Authority, life_s: int = 0) -> Iterator[Pebble]:
    """`life_s`: of the certificates that it issues; 0: its own choice, years."""
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "pebble.key").write_bytes(private_pem(key))
    (tmp_path / "pebble.pem").write_bytes(ca.issue_leaf(key.public_key(), ["127.0.0.1", "localhost"]))
    (tmp_path / "ca.pem").write_bytes(ca.ca_pem)
    acme, management, http, tls, dns, api = (free_port() for _ in range(6))
    config = {
        "listenAddress": f"127.0.0.1:{acme}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(tmp_path / "pebble.pem"),
        "privateKey": str(tmp_path / "pebble.key"),
        "httpPort": http,
        "tlsPort": tls,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
        "certificateValidityPeriod": life_s,
    }
    (tmp_path / "pebble.json").write_text(json.dumps({"pebble": config}))
    off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]
    names = ["pebble-challtestsrv", "-dns01", f"127.0.0.1:{dns}", "-management", f"127.0.0.1:{api}", *off]
    server = ["pebble", "-config", str(tmp_path / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"]
    environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
    with open(tmp_path / "pebble.log", "wb") as log:
        both = [
            subprocess.Popen(argv, stdout=log, stderr=log, env=environment) for argv in (names, server)
        ]  # fmt: skip
        try:
            found = Pebble(
                f"https://127.0.0.1:{acme}/dir", tmp_path / "ca.pem", http, tls, f"https://127.0.0.1:{management}"
            )
            _wait_for(found, tmp_path / "pebble.log")
            yield found
        finally:
            for process in both:
                process.kill()
                process.wait()


def _wait_for(pebble: Pebble, log: Path) -> None:
    context = ssl.create_default_context(cafile=str(pebble.ca_file))
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(pebble.directory, context=context, timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"pebble does not answer: {log.read_text()}")
