"""The process that asks, against a responder on a real port."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certs import ocsp
from certs.ocsp import MAX_ANSWER_BYTES, OcspError
from keyserver import ocsp_fetch
from keyserver.ocsp_fetch import ask, fetch
from tests.responder import Responder, responding

KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def responder() -> Iterator[tuple[Responder, x509.Certificate]]:
    one = Responder()
    with responding(one) as leaves:
        leaf = one.leaf(KEY)
        leaves[leaf.serial_number] = leaf
        yield one, leaf


async def test_an_answer_comes_back_through_a_process(responder: tuple[Responder, x509.Certificate]) -> None:
    one, leaf = responder
    subject = ocsp.subject(one.chain(leaf))
    assert subject is not None
    der = await fetch(subject.url, ocsp.request(subject))
    assert ocsp.judge(der, subject, one.begins).ends == one.ends
    assert one.asked == [ocsp.request(subject)]
    one.code = 503
    with pytest.raises(OcspError, match=r"^http://127\.0\.0\.1:\d+/ answers 503 Service Unavailable$"):
        await fetch(subject.url, ocsp.request(subject))


@pytest.mark.parametrize(
    ("code", "body", "why"),
    [
        (500, None, "answers 500"),
        (302, None, "answers 302"),
        (200, bytes(MAX_ANSWER_BYTES + 1), "an answer of more than 32768 bytes"),
    ],
)
def test_what_is_no_answer(
    responder: tuple[Responder, x509.Certificate], code: int, body: bytes | None, why: str
) -> None:
    one, leaf = responder
    subject = ocsp.subject(one.chain(leaf))
    assert subject is not None
    one.code, one.body = code, body
    with pytest.raises(OcspError, match=why):
        ask(subject.url, ocsp.request(subject))
    assert len(one.asked) == 1, "redirects are not followed"


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/", "file:///etc/passwd", "ftp://127.0.0.1/", "/etc/passwd", "http://", "http://\n/"]
)
def test_urls_that_are_not_asked(url: str) -> None:
    with pytest.raises(OcspError):
        ask(url, b"")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(OcspError, match="Connection refused"):
        ask(f"http://127.0.0.1:{port}/", b"")


def test_a_responder_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OcspError, match="timed out"):
        ask(f"http://127.0.0.1:{silent.getsockname()[1]}/", b"", timeout_s=0.1)


async def test_a_responder_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and all of them never: the process is ended."""
    monkeypatch.setattr(ocsp_fetch, "TIMEOUT_S", 0.25)
    ended = threading.Event()

    def drip() -> None:
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
            try:
                while not ended.wait(0.02):
                    peer.sendall(b"x")
            except OSError:
                ended.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(OcspError, match=r"no answer within 0\.5 s"):
            await fetch(f"http://127.0.0.1:{server.getsockname()[1]}/", b"")
        assert await asyncio.to_thread(ended.wait, 10), "the process went on"
        thread.join()
