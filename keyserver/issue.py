"""`paifang keyserver issue`: a development certificate whose key is made where it will be used, and stays there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certs.authority import Authority, AuthorityError, private_pem
from control.node import harden
from control.node.files import write_atomic
from core.fields import NAME
from keyserver import passphrases
from keyserver.encrypt import encrypted_pem
from keyserver.errors import BadFile, KeyFilesError, StartError
from keyserver.keyfile import load

RSA_BITS = 2048

EXAMPLES = """examples:
  paifang keyserver issue --keys ./keys --ca ./ca --name web --domain example.test --domain '*.example.test' \\
      --chain-out ./web.pem
"""


def issue(
    keys: Path,
    ca: Path,
    name: str,
    domains: Sequence[str],
    chain_out: Path,
    *,
    use_rsa: bool = False,
    passphrase: Sequence[bytes] = (),
) -> Path:
    """Make KEYS/NAME.key if it is not there, and a fresh leaf for it. Returns the key's path.

    passphrase: what encrypts a key that is made, the first of them, and opens one that is there. Raises StartError or,
    for a key that is there and of no use, KeyFilesError.
    """
    try:
        authority = Authority.load(ca)
        path, key = key_for(keys, name, use_rsa=use_rsa, passphrase=passphrase)
        write_atomic(chain_out, authority.issue_leaf(key.public_key(), domains))
        chain_out.chmod(0o644)
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}; give a place that this user may write to") from None
    except (AuthorityError, ValueError, TypeError) as error:
        raise StartError(str(error)) from None
    return path


def key_for(
    keys: Path, name: str, *, use_rsa: bool = False, passphrase: Sequence[bytes] = ()
) -> tuple[Path, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]:
    """KEYS/NAME.key and what is in it, made if it is not there. Raises StartError, KeyFilesError, OSError."""
    if not re.fullmatch(NAME.regex, name):
        raise StartError(f"--name {name!r}: give {NAME.what}")
    path = keys / f"{name}.key"
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        made = _generate(use_rsa)
        write_atomic(path, encrypted_pem(made, passphrase[0]) if passphrase else private_pem(made))
    found = load(path, True, passphrase)
    if isinstance(found, BadFile):
        raise KeyFilesError([found])
    (key, *_) = found.keys
    if not isinstance(key, rsa.RSAPrivateKey if use_rsa else ec.EllipticCurvePrivateKey):
        raise StartError(f"{path}: a key of another type is there and is never overwritten; give another --name")
    return path, key


def _generate(use_rsa: bool) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, RSA_BITS) if use_rsa else ec.generate_private_key(ec.SECP256R1())


def main(arguments: Sequence[str]) -> None:
    """Raises StartError, KeyFilesError."""
    parser = argparse.ArgumentParser(
        prog="paifang keyserver issue",
        description="Make a development certificate: the private key stays in --keys, the public chain goes out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--keys", type=Path, required=True, metavar="DIR", help="where the key server reads its keys")
    parser.add_argument("--ca", type=Path, required=True, metavar="CADIR", help="made by `paifang certs init`")
    parser.add_argument("--name", required=True, help="the key's file name, without .key")
    parser.add_argument("--domain", action="append", required=True, help="DNS name, *.name or IP; may be repeated")
    parser.add_argument("--chain-out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rsa", action="store_true", help=f"RSA-{RSA_BITS} instead of ECDSA P-256")
    passphrases.add_arguments(parser, what="encrypts the key")
    options = parser.parse_args(arguments)
    harden.forbid_dumps()
    passphrase = passphrases.from_options(options).read()
    key = issue(
        *(options.keys, options.ca, options.name, options.domain, options.chain_out),
        use_rsa=options.rsa,
        passphrase=passphrase,
    )
    print(f"{options.chain_out}: certificate for {', '.join(options.domain)}; its key is {key}")
