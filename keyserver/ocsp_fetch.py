"""One question to an OCSP responder, over HTTP, in a process of its own.

The key server itself opens no connection to anywhere, and what a responder sends is first read by a process that has no
keys. The URL stands in a certificate, so a TLS node that was taken over can name any: what it gets to see is whether an
answer that its certificate's issuer has signed came back, and no byte else. `http` only, as RFC 6960 appendix A and the
Baseline Requirements have it; the environment's http_proxy is used.

    python -m keyserver.ocsp_fetch URL <request >answer
"""

from __future__ import annotations

import asyncio
import http.client
import sys
import urllib.error
import urllib.request

from certs.ocsp import MAX_ANSWER_BYTES, OcspError

TIMEOUT_S = 10.0
MAX_REQUEST_BYTES = 4096
MAX_WHY_BYTES = 400
_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
)


async def fetch(url: str, request: bytes) -> bytes:
    """What the responder answers. Raises OcspError."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "keyserver.ocsp_fetch", url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise OcspError(f"no process can be started to ask its responder: {error.strerror}") from None
    try:
        answer, why = await asyncio.wait_for(process.communicate(request), 2 * TIMEOUT_S)
    except TimeoutError:
        raise OcspError(f"{url}: no answer within {2 * TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise OcspError(
            why.decode("utf-8", "replace").strip()[-MAX_WHY_BYTES:] or f"{url}: the process that asked died"
        )
    return answer


def ask(url: str, request: bytes, timeout_s: float = TIMEOUT_S) -> bytes:
    """What the responder answers. Blocks. Raises OcspError."""
    if not url.lower().startswith("http://"):
        raise OcspError(f"{url}: no http URL")
    headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    asked = urllib.request.Request(url, request, headers)  # noqa: S310 - http only, see above
    opener = urllib.request.OpenerDirector()  # without the handlers of files, ftp, https and redirects
    for handler in _HANDLERS:
        opener.add_handler(handler())
    try:
        with opener.open(asked, timeout=timeout_s) as response:
            answer: bytes = response.read(MAX_ANSWER_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise OcspError(f"{url} answers {error.code} {error.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # a URLError is an OSError
        raise OcspError(f"{url}: {getattr(error, 'reason', error)}") from None
    if len(answer) > MAX_ANSWER_BYTES:
        raise OcspError(f"{url}: an answer of more than {MAX_ANSWER_BYTES} bytes")
    return answer


def main() -> int:
    try:
        sys.stdout.buffer.write(ask(sys.argv[1], sys.stdin.buffer.read(MAX_REQUEST_BYTES)))
    except OcspError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
