"""Development certificates for `paifang up`: when one is needed, and how the key server's tool makes it.

A certificate object with domains and no chain gets a leaf from the CA in the state directory. The key is made by
`paifang keyserver issue` where the key server reads its keys; this process sees the public chain only.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from core.model import Model

RENEW_BEFORE = timedelta(days=30)  # a third of a leaf's life, as ACME clients do
ISSUE_TIMEOUT_S = 30.0


class IssueError(Exception):
    """A development certificate that could not be made."""


def reason_to_issue(chain: bytes, ca: x509.Certificate, domains: Sequence[str], now: datetime) -> str:
    """Why `chain` cannot go on serving `domains`; empty if it can."""
    try:
        leaf = x509.load_pem_x509_certificate(chain)
        leaf.verify_directly_issued_by(ca)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return "it is none of this CA"
    held = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
    if held != {_canonical(domain) for domain in domains}:
        return "its domains have changed"
    if leaf.not_valid_after_utc - now < RENEW_BEFORE:
        return "it expires soon"
    return ""


def fill(model: Model, *, ca: Path, keys: Path, chains: Path) -> Model:
    """The model with a chain for each certificate that has domains alone. Raises IssueError."""
    authority = x509.load_pem_x509_certificate((ca / "ca.pem").read_bytes())
    certificates = dict(model.certificates)
    for name, certificate in model.certificates.items():
        if certificate.chain:
            continue
        path = chains / f"{name}.pem"
        held = path.read_bytes() if path.exists() else b""
        key_missing = not (keys / f"{name}.key").exists()
        if key_missing or reason_to_issue(held, authority, certificate.domains, datetime.now(UTC)):
            _issue(name, certificate.domains, ca, keys, path)
        certificates[name] = replace(certificate, chain=path.read_text("ascii"))
    return replace(model, certificates=certificates)


def _issue(name: str, domains: Sequence[str], ca: Path, keys: Path, out: Path) -> None:
    argv: list[str | Path] = [sys.executable, "-P", "-m", "keyserver", "issue", "--name", name]
    argv += ["--keys", keys, "--ca", ca, "--chain-out", out]
    argv += [part for domain in domains for part in ("--domain", domain)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ISSUE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IssueError(f"certificates.{name}: {error}") from None
    if done.returncode:
        raise IssueError(f"certificates.{name}: {done.stderr.strip()}")


def _canonical(domain: str) -> str:
    try:
        return str(ipaddress.ip_address(domain))
    except ValueError:
        return domain
