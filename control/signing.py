"""The cluster's CA in the control plane's hands: it certifies nodes that join or renew. Without it, nobody can."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from datetime import UTC, datetime, timedelta

from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.authority import Authority, AuthorityError, fingerprint, requested_key
from control import membership
from control.membership import MembershipError
from control.node.identity import Identity, IdentityError
from control.node.key_request import fresh_key, request_for
from control.store import Store, StoreError

log = logging.getLogger(__name__)

LIFETIME = timedelta(days=30)
AGAIN_S = 1.0
LOOK_S = 3600.0  # clocks are set


class Signing:
    """`authority` None: the control plane has been started without `--ca`. `address`: of the nodes' API."""

    def __init__(self, authority: Authority | None, lifetime: timedelta = LIFETIME) -> None:
        self._authority = authority
        self._lifetime = lifetime
        self.address = ""

    @property
    def authority(self) -> Authority:
        """Raises MembershipError where there is none."""
        if self._authority is None:
            raise MembershipError("the control plane has no CA: start it with --ca CADIR (docs/nodes.md)")
        return self._authority

    @property
    def ca_pem(self) -> str:
        return self.authority.ca_pem.decode()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.authority.ca_pem)

    @property
    def available(self) -> bool:
        return self._authority is not None

    def key_of(self, request: str) -> str:
        """SHA-256 of the key that a request is for. Raises AuthorityError."""
        spki = requested_key(request.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(spki).hexdigest()

    def certify(self, request: str, role: str, name: str, generation: int) -> tuple[str, float]:
        """A certificate in PEM, and when it ends in Unix time. Raises AuthorityError, MembershipError."""
        now = datetime.now(UTC)
        lifetime = min(self._lifetime, self.authority.certificate.not_valid_after_utc - now)
        pem = self.authority.certify_node(request.encode(), role, name, generation, lifetime, now)
        return pem.decode(), (now + lifetime).timestamp()


SIGNING = web.AppKey("signing", Signing)


async def keep(identity: Identity, signing: Signing, store: Store) -> None:
    """Renew the control plane's own identity in time, or take up what is put into its directory; until cancelled."""
    following = asyncio.create_task(identity.follow(), name="identity-directory")
    try:
        while True:
            await asyncio.sleep(min(max(identity.renew_at - time.time(), 0.0), LOOK_S))
            if time.time() < identity.renew_at:
                continue
            if signing.available:
                await _renew(identity, signing, store)
            await asyncio.sleep(AGAIN_S)
    finally:
        following.cancel()


async def _renew(identity: Identity, signing: Signing, store: Store) -> None:
    role, name, generation = identity.role, identity.name, identity.generation
    key = await asyncio.to_thread(fresh_key)
    try:
        certificate, ends = signing.certify(request_for(key), role, name, generation)
        await membership.certified(store, role, name, generation, time.time(), ends)
        identity.replace(certificate.encode(), key)
    except (MembershipError, AuthorityError, IdentityError, StoreError, OSError) as error:
        log.error("the control plane's own identity cannot be renewed: %s", error)
    else:
        log.info("the control plane's own identity is renewed")
