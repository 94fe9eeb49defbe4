"""Requests, each by a connection of its own, and what became of them: runs in the client's container.

python3 -m deploy.compose.load http://10.90.0.100/ --seconds 20
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import time

import aiohttp

TIMEOUT_S = 5.0


async def run(url: str, ca: str | None, seconds: float, lanes: int) -> dict[str, object]:
    """What came of the requests: how many were answered with 200, and when and why the others failed."""
    context = ssl.create_default_context(cafile=ca) if ca else True
    answered = 0
    failed: list[tuple[float, str]] = []
    begun = time.monotonic()

    async def lane() -> None:
        nonlocal answered
        while (at := time.monotonic() - begun) < seconds:
            try:
                async with session.get(url, ssl=context) as response:
                    await response.read()
                if response.status == 200:
                    answered += 1
                    continue
                why = f"status {response.status}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                why = str(error) or type(error).__name__
            failed.append((round(at, 1), why))

    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(lane() for _ in range(lanes)))
    return {"answered": answered, "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--ca")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lanes", type=int, default=2, help="how many at a time (%(default)s)")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(run(options.url, options.ca, options.seconds, options.lanes))))


if __name__ == "__main__":
    main()
