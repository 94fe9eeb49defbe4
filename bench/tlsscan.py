"""What two scanners say of a listener of each TLS policy: testssl.sh (Debian's package) and sslyze.

    scanner ──► L7 node, one https listener for each policy ──► server that says hello
                      └──► key server: a P-256 and an RSA key for the same name, issued by a CA that is ours

Node and key server are those of the product. The listeners have HSTS, which is a setting of the site, and no limit of
handshakes for each client: sslyze makes a thousand bad ones in a second, and would be turned away. Reports are kept in
bench/results/tlsscan-POLICY.json, without what would differ on another machine. A row counts the findings of severity
LOW and above, each of which is named on stderr; another those of them that `EXPLAINED` does not know. Why each of these
is as it is stands in docs/tls.md.

`--quick` scans the default policy alone, and leaves out what takes testssl.sh longest.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

from bench import Row, shown
from certs.authority import Authority
from control.node.children import Child
from core.config import load, to_dict
from core.model import TlsPolicy

RESULTS = Path(__file__).parent / "results"
NAME: Final = "scan.test"
KEYS: Final = {"ec": (), "rsa": ("--rsa",)}
READY_S = 30.0
TESTSSL_S, SSLYZE_S = 900.0, 120.0
SEVERITIES: Final = ("LOW", "MEDIUM", "HIGH", "CRITICAL")
QUICK: Final = ("-p", "-s", "-f", "-P", "-h", "-U")  # without server defaults, each suite alone, and simulated clients
DEFAULT: Final = TlsPolicy.TLS_1_2_STRICT_WITH_1_3
SUPPLIED: Final = "Supplied CA file"  # the trust store that sslyze makes of --certinfo_ca_file
SSLYZE_SCANS: Final = (
    "sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "certinfo", "compression", "early_data",
    "elliptic_curves", "ems", "fallback", "heartbleed", "http_headers", "openssl_ccs", "reneg", "resum", "robot",
)  # fmt: skip
_EVERYWHERE: Final = ("cert_revocation", "security_headers")
# What a report says of this machine or of the certificates made for it, by the beginning of the finding's name.
OF_THE_MACHINE: Final = (
    "engine_problem", "scanTime", "HTTP_clock_skew", "banner_", "cert <", "cert_serialNumber <", "cert_fingerprint",
    "cert_not", "cert_caIssuers", "cert_expirationStatus",
)  # fmt: skip


Scanner = Callable[[int, Path], "list[Finding]"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a scanner has to say. `severity`: its own word; sslyze has none, what it objects to is MEDIUM here."""

    id: str
    severity: str
    text: str

    @property
    def counts(self) -> bool:
        return self.severity in SEVERITIES

    @property
    def name(self) -> str:
        """What it is about, without the number of the certificate."""
        return self.id.partition(" ")[0]


# Findings that are meant, or that are not of TLS; docs/tls.md has the reasons (tests/bench/test_tlsscan.py).
EXPLAINED: Final[Mapping[TlsPolicy, frozenset[str]]] = {
    TlsPolicy.TLS_1_2: frozenset((*_EVERYWHERE, "cipherlist_AVERAGE", "LUCKY13", "mozilla_ciphers")),
    TlsPolicy.TLS_1_2_STRICT: frozenset((*_EVERYWHERE, "cipher_order")),
    TlsPolicy.TLS_1_2_STRICT_WITH_1_3: frozenset((*_EVERYWHERE, "cipher_order")),
    TlsPolicy.TLS_1_3: frozenset(_EVERYWHERE),
}


class Hello(BaseHTTPRequestHandler):
    """The server behind the node."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def child(stack: ExitStack, directory: Path, name: str, *argv: str) -> None:
    words = [sys.executable, "-m", *argv]
    started = Child.start(name, words, log=directory / f"{name}.log", notify_dir=directory)
    stack.callback(started.terminate, 10)
    started.wait_ready(READY_S)


def start(stack: ExitStack, directory: Path, policies: Sequence[TlsPolicy]) -> dict[TlsPolicy, int]:
    """The cluster; the port of each policy's listener."""
    Authority.init(directory / "ca").issue_node("l7", "l7-1").write(directory / "identity")
    (directory / "ca.pem").write_bytes((directory / "identity" / "ca.pem").read_bytes())
    for name, options in KEYS.items():
        words = ["issue", "--keys", str(directory / "keys"), "--ca", str(directory / "ca"), "--name", name]
        words += ["--domain", NAME, "--chain-out", str(directory / f"{name}.pem"), *options]
        subprocess.run([sys.executable, "-m", "keyserver", *words], check=True, capture_output=True)
    backend = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Hello))
    Thread(target=backend.serve_forever, daemon=True).start()
    stack.callback(backend.shutdown)
    ports = {policy: free_port() for policy in policies}
    state = directory / "state"
    state.mkdir()
    model = to_dict(load(configuration(directory, backend.server_port, ports), path="scan.toml", format="toml"))
    (state / "config.json").write_text(json.dumps({"version": 1, "config": model}))  # as a control plane had left it
    keys = directory / "keys.sock"
    child(stack, directory, "keyserver", "keyserver", "--keys", str(directory / "keys"), "--socket", str(keys))
    child(
        stack, directory, "l7", "proxy", "--name", "l7-1", "--control", f"https://127.0.0.1:{free_port()}",
        "--identity", str(directory / "identity"), "--keyserver", f"unix:{keys}", "--state", str(state),
        "--workers", "1", "--ready", f"127.0.0.1:{free_port()}",
    )  # fmt: skip
    return ports


def configuration(directory: Path, backend: int, ports: Mapping[TlsPolicy, int]) -> str:
    certificates = "".join(
        f'[[certificates]]\nname = "{name}"\nchain = """{(directory / f"{name}.pem").read_text()}"""\n' for name in KEYS
    )
    listeners = "".join(
        f"""
[[listeners]]
name = "{policy}"
protocol = "https"
port = {port}
certificates = {json.dumps(list(KEYS))}
servers = ["127.0.0.1:{backend}"]
tls_policy = "{policy}"
hsts_max_age_s = 31536000
max_handshakes_per_client = 0
"""
        for policy, port in ports.items()
    )
    return certificates + listeners


def by_testssl(port: int, directory: Path, options: Sequence[str] = ()) -> list[Finding]:
    """testssl.sh's findings, all of them without `options`. Raises RuntimeError."""
    out = directory / f"testssl-{port}.json"
    words = ["testssl", "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--ip", "127.0.0.1"]
    words += ["--add-ca", str(directory / "ca.pem"), *options, "--jsonfile", str(out), f"{NAME}:{port}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TESTSSL_S, cwd=directory)
    if not out.exists():
        raise RuntimeError(f"testssl.sh says nothing: {done.stdout[-500:]}{done.stderr[-500:]}")
    return of_testssl(json.loads(out.read_text()))


def of_testssl(report: list[dict[str, str]]) -> list[Finding]:
    """Raises RuntimeError where the scan did not get to its end."""
    found = [Finding(each["id"], each["severity"], each["finding"]) for each in report]
    if any(each.severity == "FATAL" for each in found) or not any(each.id == "scanTime" for each in found):
        raise RuntimeError(f"testssl.sh was cut short: {found[-1] if found else 'no findings'}")
    return [each for each in found if not each.id.startswith(OF_THE_MACHINE)]


def by_sslyze(port: int, directory: Path) -> list[Finding]:
    """What sslyze finds, and where that is not Mozilla's intermediate configuration. Raises RuntimeError."""
    out = directory / f"sslyze-{port}.json"
    words = [sys.executable, "-m", "sslyze", *(f"--{each}" for each in SSLYZE_SCANS), "--json_out", str(out)]
    words += ["--mozilla_config", "intermediate", "--certinfo_ca_file", str(directory / "ca.pem")]
    words += [f"{NAME}:{port}{{127.0.0.1}}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SSLYZE_S, cwd=directory)
    if not out.exists():
        raise RuntimeError(f"sslyze says nothing: {done.stdout[-500:]}{done.stderr[-500:]}")
    return of_sslyze(json.loads(out.read_text()), done.stdout)


def of_sslyze(report: Any, said: str) -> list[Finding]:
    """From its JSON, and from what it says of Mozilla's configuration. Raises RuntimeError where a scan failed."""
    (server,) = report["server_scan_results"]
    found = [Finding("mozilla_intermediate", "OK" if "OK - Compliant" in said else "INFO", _verdict(said))]
    if "OK - Compliant" not in said and "FAILED - Not compliant" not in said:
        raise RuntimeError(f"sslyze has no verdict: {server['connectivity_error_trace'] or said[-500:]}")
    for about, why in re.findall(r"^ +\* (\w+): (.+)$", said.partition("COMPLIANCE")[2], re.MULTILINE):
        found.append(Finding(f"mozilla_{about}", "MEDIUM", _in_order(why)))
    for scan, each in sorted((server["scan_result"] or {}).items()):
        if each["status"] != "COMPLETED":
            raise RuntimeError(f"sslyze: {scan}: {each['status']}: {each['error_reason']} {each['error_trace']}")
        found += _of_scan(scan, each["result"])
    return found


def _verdict(said: str) -> str:
    return "compliant" if "OK - Compliant" in said else "not compliant"


def _in_order(text: str) -> str:
    """Sets are printed in another order each time."""
    return re.sub(r"\{(.*?)\}", lambda match: ", ".join(sorted(re.findall(r"[\w.]+", match[1]))), text)


def _of_scan(scan: str, result: Any) -> Iterator[Finding]:
    """What one scan says, as far as it is about the server. What sslyze calls vulnerable is HIGH."""
    if scan == "certificate_info":
        for number, deployment in enumerate(result["certificate_deployments"], 1):
            ours = [each for each in deployment["path_validation_results"] if each["trust_store"]["name"] == SUPPLIED]
            trusted = all(each["verified_certificate_chain"] for each in ours) and bool(ours)
            yield Finding(f"certificate_info #{number}", "OK" if trusted else "HIGH", f"trusted: {trusted}")
    elif "accepted_cipher_suites" in result:
        suites = sorted(each["cipher_suite"]["name"] for each in result["accepted_cipher_suites"])
        yield Finding(scan, "INFO", ", ".join(suites) or "none")
    elif scan == "elliptic_curves":
        yield Finding(scan, "INFO", ", ".join(sorted(each["name"] for each in result["supported_curves"])))
    else:
        for name, value in result.items():
            bad = str(value).startswith("VULNERABLE") or (value is True and name.startswith("is_vulnerable"))
            yield Finding(f"{scan} {name}", "HIGH" if bad else "INFO", _plain(value))


def _plain(value: Any) -> str:
    """Without what a server sends in its own words, such as header fields."""
    return json.dumps(value, sort_keys=True) if not isinstance(value, list) else f"{len(value)} entries"


def run(quick: bool) -> list[Row]:
    """Two rows for each policy and scanner."""
    scanners: dict[str, Scanner] = {
        "sslyze": by_sslyze,
        "testssl.sh": partial(by_testssl, options=QUICK if quick else ()),
    }
    return list(shown(_rows([DEFAULT] if quick else [*TlsPolicy], scanners)))


def _rows(policies: Sequence[TlsPolicy], scanners: Mapping[str, Scanner]) -> Iterator[Row]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-tlsscan-")))
        ports = start(stack, directory, policies)
        for policy, port in ports.items():
            reports = {}
            for scanner, scan in scanners.items():
                found = reports[scanner] = scan(port, directory)
                yield from rows(policy, scanner, found)
            keep(policy, reports)


def rows(policy: TlsPolicy, scanner: str, found: Sequence[Finding]) -> Iterator[Row]:
    """How many findings count, and how many of them nobody has explained."""
    counted = [each for each in found if each.counts]
    for each in counted:
        print(f"    {each.severity} {each.id}: {each.text}", file=sys.stderr, flush=True)
    yield Row(f"{policy}, {scanner}: LOW and above", "findings", len(counted))
    unknown = sum(each.name not in EXPLAINED[policy] for each in counted)
    yield Row(f"{policy}, {scanner}: of them not explained", "findings", unknown)


def keep(policy: TlsPolicy, reports: Mapping[str, Sequence[Finding]]) -> None:
    text = json.dumps({scanner: [asdict(each) for each in found] for scanner, found in reports.items()}, indent=1)
    (RESULTS / f"tlsscan-{policy}.json").write_text(text + "\n")
