"""What looks for secrets finds them."""

from __future__ import annotations

import base64
import json
import os
import secrets
from urllib.parse import quote

from tests.leaks import forms


def test_every_form_is_found() -> None:
    """A secret written in any usual way, with anything around it."""
    secret = secrets.token_bytes(32)
    needles = forms("it", secret)
    ways = [secret, repr(secret).encode(), secret.hex().encode(), quote(secret).encode(), secret[::-1]]
    ways += [base64.b64encode(bytes(n) + secret + os.urandom(m)) for n in range(5) for m in range(4)]
    for written in ways:
        assert any(form in b"before " + written + b" after" for form in needles.values()), written
    text = b"the pass\"phrase \\ is 'this'"
    assert any(form in json.dumps({"a": text.decode()}).encode() for form in forms("it", text).values())
