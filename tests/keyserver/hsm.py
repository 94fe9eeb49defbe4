"""A SoftHSM 2 token with keys that are of use and keys that are not."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from cryptography.x509 import load_pem_x509_certificate

from certs.authority import Authority, key_id
from control.node.files import write_atomic
from keyserver.keyfile import PrivateKey
from keyserver.token_keys import Token

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "a PIN that no other text has"

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Hsm:
    """`keys` by label; the PIN stands in `pin_file`."""

    token: Token
    pin_file: Path
    keys: dict[str, PrivateKey]
    directory: Path

    def id_of(self, label: str) -> bytes:
        return key_id(self.keys[label].public_key())

    def add(self, label: str, key: Key) -> None:
        """Import a key pair; its CKA_ID is made of the label."""
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = self.directory / "import.pem"
        write_atomic(path, pem)
        util("--import", str(path), "--token", self.token.label, "--label", label, "--id", label.encode().hex())
        self.keys[label] = load_der_private_key(der(key), None)  # type: ignore[assignment]


def util(*arguments: str) -> None:
    subprocess.run(["softhsm2-util", *arguments, "--pin", PIN], check=True, capture_output=True, timeout=20)


def der(key: Key) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def make(directory: Path, patch: pytest.MonkeyPatch) -> Hsm:
    """A token with the keys `shop` (P-256), `shop-384`, `shop-rsa`, and below them some that are of no use."""
    (directory / "tokens").mkdir()
    config = directory / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    patch.setenv("SOFTHSM2_CONF", str(config))
    util("--init-token", "--free", "--label", "pft", "--so-pin", "12345678")
    write_atomic(directory / "pin", PIN.encode() + b"\n")
    hsm = Hsm(Token(MODULE, "pft"), directory / "pin", {}, directory)
    hsm.add("shop", ec.generate_private_key(ec.SECP256R1()))
    hsm.add("shop-384", ec.generate_private_key(ec.SECP384R1()))
    hsm.add("shop-rsa", rsa.generate_private_key(65537, 2048))
    return hsm


def add_others(hsm: Hsm, ca: Authority) -> None:
    """Keys of no use; and `by-cert`, whose public key only a certificate has."""
    hsm.add("weak", rsa.generate_private_key(65537, 1024))
    hsm.add("odd", ec.generate_private_key(ec.SECP521R1()))
    for label in ("alone", "by-cert"):
        hsm.add(label, ec.generate_private_key(ec.SECP256R1()))
    session = pkcs11.lib(MODULE).get_token(token_label=hsm.token.label).open(user_pin=PIN, rw=True)
    with session:
        for label in ("alone", "by-cert"):
            public = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY, pkcs11.Attribute.LABEL: label}
            (found,) = list(session.get_objects(public))
            found.destroy()  # type: ignore[attr-defined]
        leaf = ca.issue_leaf(hsm.keys["by-cert"].public_key(), ["a.test"])
        certificate = load_pem_x509_certificate(leaf)
        session.create_object({
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.CERTIFICATE,
            pkcs11.Attribute.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509,
            pkcs11.Attribute.TOKEN: True,
            pkcs11.Attribute.ID: b"by-cert",
            pkcs11.Attribute.SUBJECT: certificate.subject.public_bytes(),
            pkcs11.Attribute.VALUE: certificate.public_bytes(Encoding.DER),
        })  # fmt: skip
