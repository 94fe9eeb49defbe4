"""What `bench h2` makes of what h2load says, and Envoy as it runs there."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.h2 import CALL, CALLED, against, grpc, per_request_us, requests
from bench.l7 import proxies
from tests.proxy.test_https import KEY
from tests.proxy.tls_support import certificate

SAID = """\
Application protocol: h2
requests: 6 total, 6 started, 6 done, {} succeeded, {} failed, 0 errored, 0 timeout
status codes: {} 2xx, 0 3xx
traffic: 966B (966) total, 179B (179) headers (space savings 90.02%), {}B ({}) data
"""
ALL = SAID.format(6, 0, 6, 78, 78)
WRONG = {
    "nothing": "",
    "one failed": SAID.format(5, 1, 5, 65, 65),
    "none": SAID.format(0, 0, 0, 0, 0),
    "another status": SAID.format(6, 0, 5, 78, 78),
    "no body": SAID.format(6, 0, 6, 0, 0),
    "HTTP/1.1": ALL.replace("h2", "http/1.1"),
}


def test_what_was_answered_counts() -> None:
    assert requests(ALL) == 6


@pytest.mark.parametrize("said", WRONG.values(), ids=WRONG)
def test_a_figure_with_errors_is_none(said: str) -> None:
    with pytest.raises(RuntimeError, match="nginx: "):
        requests(said, "nginx")


def test_a_call_is_one_message() -> None:
    assert (CALL[0], int.from_bytes(CALL[1:5], "big")) == (0, len(CALL) - 5)


@pytest.mark.parametrize("with_envoy", [True, False], ids=["with Envoy", "without"])
def test_a_figure_is_held_against_each_peer(with_envoy: bool) -> None:
    figures = {"paifang": 10.0, "nginx": 5.0, "haproxy": 20.0} | ({"envoy": 8.0} if with_envoy else {})
    found = [(row.name, row.against, row.ratio, row.goal) for row in against(figures, "calls")]
    expected = [
        ("calls", "nginx", 2.0, 2.0),
        ("calls, next to haproxy", "haproxy", 0.5, None),
        ("calls, next to envoy", "envoy", 1.25, None),
    ]
    assert found == (expected if with_envoy else expected[:2])


def test_envoy_forwards_and_logs_all_that_is_sent() -> None:
    """HTTP/1.1, and by TLS HTTP/2 and calls of gRPC. Its answers have no fields that the other peers' have not."""
    with TemporaryDirectory(prefix="pft-", dir="/tmp") as name:  # short: a unix socket is in it
        directory = Path(name)
        directory.chmod(0o755)  # nginx drops its rights
        (directory / "keys").mkdir()
        (directory / "chain.pem").write_text(certificate(KEY, ["web.test"]).chain)
        (directory / "keys/web.key").write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with (
            proxies.backend(directory) as behind,
            proxies.grpc_server(directory) as server,
            proxies.envoy(directory, behind.port, grpc=server.port) as envoy,
        ):
            assert envoy is not None
            with closing(HTTPConnection("127.0.0.1", envoy.port, timeout=20)) as client:
                client.request("GET", "/items")
                answer = client.getresponse()
                assert answer.read() == b"hello, world\n"
            assert {each.lower() for each in answer.headers} == {"server", "date", "content-type", "content-length"}
            assert per_request_us(envoy, 5, "-c1", "-m5") > 0
            assert per_request_us(envoy, 8, *grpc(directory), path="/grpc.Echo/Say", answer=CALLED) > 0
        lines = [json.loads(line) for line in (directory / "envoy.log").read_text().splitlines()]
    assert [(line["path"], line["tls"]) for line in lines] == [
        ("/items", None),
        *[("/", "TLSv1.3")] * 5,
        *[("/grpc.Echo/Say", "TLSv1.3")] * 8,
    ]
    assert all(line["status"] == 200 and len(line["request_id"]) == 36 for line in lines)
    assert {line["upstream"] for line in lines[-8:]} == {f"127.0.0.1:{server.port}"}
