"""One certificate from an ACME server (RFC 8555), by certbot's own library. Everything here blocks.

The account's key lies beside the account's URL in the issuer's state directory (0600), and is never sent anywhere. What
proves a name is given to `publish` before the server is told to look. certbot's library has given up tls-alpn-01, which
its own clients never used: the two classes that it needs are here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC

from certs.authority import MAX_COMMON_NAME, private_pem
from control.node.files import write_atomic
from keyserver.acme_plan import Challenge
from keyserver.errors import BadFile, StartError
from keyserver.keyfile import read_private

USER_AGENT = "paifang"
ORDER_S = 120.0  # validation of all names, and the signing
ANSWER_S = 20  # of one HTTP exchange
WHY_LIMIT = 500

LeafKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Proof:
    """What the CA looks for (RFC 8555 §8.1): of `domain`, by this challenge, under `token` where it is http-01."""

    challenge: Challenge
    domain: str
    token: str
    authorization: str


Publish = Callable[[Proof], None]


@challenges.ChallengeResponse.register
class TlsAlpn01Response(challenges.KeyAuthorizationChallengeResponse):
    """The answer "look now": what is looked at is in the handshake."""

    typ = Challenge.TLS_ALPN_01.value


@challenges.Challenge.register
class TlsAlpn01(challenges.KeyAuthorizationChallenge):
    """RFC 8737."""

    response_cls = TlsAlpn01Response
    typ = Challenge.TLS_ALPN_01.value

    def validation(self, account_key: JWK, **_: object) -> str:
        return self.key_authorization(account_key)


class OrderError(Exception):
    """No certificate; the text says why."""


class Orders:
    """An account at one ACME server. Raises OrderError where the server cannot be reached or refuses the account."""

    def __init__(self, directory_url: str, state: Path, *, email: str = "", ca_file: Path | None = None) -> None:
        key = _account_key(state / "account.key")
        self._key = JWKEC(key=key)
        # `verify_ssl` goes to requests as it is, which takes a file of CAs too.
        verify = cast(bool, True if ca_file is None else str(ca_file))
        self._net = client.ClientNetwork(
            self._key, alg=ES256, user_agent=USER_AGENT, timeout=ANSWER_S, verify_ssl=verify
        )
        try:
            self._client = client.ClientV2(client.ClientV2.get_directory(directory_url, self._net), self._net)
            self._register(state / "account.json", directory_url, email)
        except (errors.Error, messages.Error, requests.RequestException, ValueError, OSError) as error:
            raise OrderError(f"{directory_url}: {_text(error)}") from None

    def _register(self, path: Path, directory_url: str, email: str) -> None:
        """Use the account that is there, or make one: that is agreeing to the CA's terms of service."""
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.get("directory") == directory_url:
            self._net.account = messages.RegistrationResource(body=messages.Registration(), uri=known["uri"])
            return
        new = messages.NewRegistration.from_data(email=email or None, terms_of_service_agreed=True)
        try:
            account = self._client.new_account(new)
        except errors.ConflictError as conflict:
            account = messages.RegistrationResource(body=messages.Registration(), uri=conflict.location)
            self._net.account = account
        write_atomic(path, json.dumps({"directory": directory_url, "uri": account.uri}).encode())

    def order(self, key: LeafKey, domains: Sequence[str], challenge: Challenge, publish: Publish) -> str:
        """The chain of a new certificate for these names, in PEM, leaf first. Raises OrderError."""
        try:
            order = self._client.new_order(request(key, domains))
            for authorization in order.authorizations:
                if authorization.body.status != messages.STATUS_VALID:
                    self._prove(authorization, challenge, publish)
            done = self._client.poll_and_finalize(order, datetime.now() + timedelta(seconds=ORDER_S))
        except errors.ValidationError as error:
            raise OrderError("; ".join(_refusals(error))[:WHY_LIMIT]) from None
        except errors.TimeoutError:
            raise OrderError(f"the CA has not decided within {ORDER_S:g} s") from None
        except (errors.Error, messages.Error, requests.RequestException, ValueError) as error:
            raise OrderError(_text(error)) from None
        return str(done.fullchain_pem)

    def _prove(self, authorization: messages.AuthorizationResource, challenge: Challenge, publish: Publish) -> None:
        domain = authorization.body.identifier.value
        for each in authorization.body.challenges:
            if isinstance(each.chall, challenges.KeyAuthorizationChallenge) and each.chall.typ == challenge.value:
                publish(Proof(challenge, domain, each.chall.encode("token"), each.chall.validation(self._key)))
                self._client.answer_challenge(each, each.response(self._key))
                return
        raise errors.Error(f"the CA offers no {challenge.value} challenge for {domain}")


def request(key: LeafKey, domains: Sequence[str]) -> bytes:
    """A signing request for these names, in PEM."""
    common = [x509.NameAttribute(NameOID.COMMON_NAME, domains[0])] if len(domains[0]) <= MAX_COMMON_NAME else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(common))
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in domains])
    return builder.add_extension(names, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _account_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Made on first use. Raises StartError."""
    try:
        if not path.exists():
            write_atomic(path, private_pem(ec.generate_private_key(ec.SECP256R1())))
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}; give a --state that this user may write to") from None
    data = read_private(path)
    if isinstance(data, BadFile):
        raise StartError(str(data))
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StartError(f"{path}: not an account key of ours; restore it, or remove it for a new account")
    return key


def _refusals(error: errors.ValidationError) -> list[str]:
    return [
        f"{each.body.identifier.value}: {_text(challenge.error)}"
        for each in error.failed_authzrs
        for challenge in each.body.challenges
        if challenge.error is not None
    ]


def _text(error: Exception) -> str:
    detail = getattr(error, "detail", None)
    return " ".join(str(detail or error or type(error).__name__).split())[:WHY_LIMIT]
