"""The key server as a member of the cluster: its identity is renewed in time, and it learns who is revoked.

Keys and policy never come this way. While the control plane is away, what it said last holds (control.node.identity).
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from control.node.controls import Controls
from control.node.identity import Identity
from control.node.membership import Membership


async def follow(url: str, identity: Identity, changed: Callable[[], None]) -> None:
    """Until cancelled. `changed` is called when others are revoked than before, or it may be so."""
    controls = Controls(url)
    connector = aiohttp.TCPConnector(ssl=identity.client_context("control"))
    async with aiohttp.ClientSession(connector=connector) as session:
        await Membership(identity, lambda: controls.url, lambda _: changed(), controls.failed).run(session)
