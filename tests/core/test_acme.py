"""The acme table: what is refused with which words, and what is added to a model so that the CA finds the issuer."""

from __future__ import annotations

import pytest

from core.acme import CHALLENGE_URL, MADE, Acme, AcmeChallenge, challenge_of, lead, wanted
from core.config import from_dict, load, load_file, to_dict
from core.errors import ConfigErrors
from core.model import Kind, Model, Protocol
from core.resolve import l7_listeners

SOUND = """
[acme]
email = "ops@example.com"
agree_tos = true

[[listeners]]
protocol = "http"
port = 80
servers = ["127.0.0.1:8000"]

[[listeners]]
protocol = "https"
port = 443
domains = ["example.com", "www.example.com"]
servers = ["127.0.0.1:8000"]

[[rules]]
name = "paths"
listener = "http-80"
backend_service = "http-80"
domain = "www.example.com"
"""


def test_a_sound_table() -> None:
    found = load_file(SOUND, path="f", format="toml")
    assert found.acme == Acme("ops@example.com", True)
    assert found.acme.directory.startswith("https://acme-v02.api.letsencrypt.org/")
    assert [each.name for each in wanted(found.model)] == ["https-443"]
    assert (
        load_file(SOUND.partition("[[listeners]]")[2].join(["[[listeners]]", ""]), path="f", format="toml").acme is None
    )


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('email = "ops@example.com"\n', "", "f:2: acme: email is missing; give an e-mail address"),
        ("ops@example.com", "ops", "f:3: acme.email: 'ops' does not fit; give an e-mail address"),
        (
            "agree_tos = true",
            "agree_tos = false",
            "f:4: acme.agree_tos: the CA at https://acme-v02.api.letsencrypt.org/directory wants its terms of service "
            "agreed to; read them and give agree_tos = true",
        ),
        (
            "agree_tos = true\n",
            "",
            "f:2: acme.agree_tos: the CA at https://acme-v02.api.letsencrypt.org/directory wants its terms of service "
            "agreed to; read them and give agree_tos = true",
        ),
        (
            "agree_tos = true",
            'agree_tos = true\ndirectory = "http://ca.test/"',
            "f:5: acme.directory: 'http://ca.test/' does not fit; give an https URL",
        ),
        (
            "agree_tos = true",
            'agree_tos = true\nchallenge = "dns-01"',
            "f:5: acme.challenge: 'dns-01' is not known; give auto, http-01 or tls-alpn-01",
        ),
        ("email =", "mail =", "f:3: acme.mail: unknown key; did you mean email?"),
        ("[acme]", "[[acme]]", "f:2: acme: is one table; write [acme], once bracketed"),
        (
            '"www.example.com"]',
            '"*.example.com"]',
            "f:14: listeners.https-443.domains[1]: *.example.com: a wildcard can be proved neither by http-01 nor by "
            "tls-alpn-01; name the hosts, or remove [acme]",
        ),
        (
            '"www.example.com"]',
            '"192.0.2.1"]',
            "f:14: listeners.https-443.domains[1]: 192.0.2.1 is an address, and certificates are got for names; "
            "name the hosts, or remove [acme]",
        ),
        (
            '"www.example.com"]',
            '"localhost"]',
            "f:14: listeners.https-443.domains[1]: 'localhost' is no name that a public CA gives certificates for; "
            "name the hosts, or remove [acme]",
        ),
        (
            'domains = ["example.com", "www.example.com"]',
            'certificates = ["own"]',
            "f:2: acme: no certificate has domains, so that there is none to get; give a listener domains",
        ),
        (
            'servers = ["127.0.0.1:8000"]\n\n[[rules]]',
            'servers = ["127.0.0.1:8000"]\nacme_backend_service = "http-80"\n\n[[rules]]',
            "f:16: listeners.https-443.acme_backend_service: with [acme], `paifang up` leads the CA to an issuer of "
            "its own; remove one of them",
        ),
        (
            'name = "paths"',
            'name = "paifang-acme-1"',
            "f:18: rules.paifang-acme-1.name: [acme] makes objects named paifang-acme…; rename it",
        ),
    ],
)
def test_what_is_said_of_a_wrong_one(right: str, wrong: str, message: str) -> None:
    assert SOUND.count(right) == 1
    own = '[[certificates]]\nname = "own"\nchain_file = "c.pem"\n'
    with pytest.raises(ConfigErrors) as caught:
        load_file(SOUND.replace(right, wrong) + own * ('["own"]' in wrong), path="f", format="toml")
    assert message in [str(error) for error in caught.value.errors]


def ports(http: int, https: int, challenge: str = "") -> str:
    text = SOUND.replace("port = 80\n", f"port = {http}\n").replace("port = 443\n", f"port = {https}\n")
    text = text.replace('"http-80"', f'"http-{http}"')
    return text.replace(
        "agree_tos = true\n", f'agree_tos = true\nchallenge = "{challenge}"\n' if challenge else "agree_tos = true\n"
    )


@pytest.mark.parametrize(
    ("text", "challenge"),
    [
        (ports(80, 443), AcmeChallenge.HTTP_01),
        (ports(80, 8443), AcmeChallenge.HTTP_01),
        (ports(8080, 443), AcmeChallenge.TLS_ALPN_01),
        (ports(80, 443, "tls-alpn-01"), AcmeChallenge.TLS_ALPN_01),
        (ports(8080, 8443, "http-01"), AcmeChallenge.HTTP_01),
        (ports(8080, 8443, "tls-alpn-01"), AcmeChallenge.TLS_ALPN_01),
    ],
)
def test_how_the_ca_proves_names(text: str, challenge: AcmeChallenge) -> None:
    found = load_file(text, path="f", format="toml")
    assert found.acme is not None
    assert challenge_of(found.acme, found.model) is challenge


def test_a_ca_that_would_find_nobody() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(ports(8080, 8443), path="f", format="toml")
    assert str(caught.value).startswith("f:2: acme: a CA looks at port 80 (http-01) or 443 (tls-alpn-01), and no ")
    only_https = (
        SOUND[: SOUND.index("[[listeners]]")] + SOUND[SOUND.index("[[listeners]]", 80) : SOUND.index("[[rules]]")]
    )
    with pytest.raises(ConfigErrors) as caught:
        load(only_https.replace("true", 'true\nchallenge = "http-01"'), path="f", format="toml")
    assert str(caught.value) == "f:5: acme.challenge: http-01 needs an http listener, and there is none; " + (
        "add one, or give another challenge"
    )


def led(text: str) -> Model:
    """The model for an issuer on port 9; sound as every other."""
    found = load_file(text, path="f", format="toml")
    assert found.acme is not None
    model = lead(found.acme, found.model, ("127.0.0.1", 9))
    assert from_dict(to_dict(model)) == model
    (server,) = model.server_groups[MADE].servers
    assert (server.address, server.port) == ("127.0.0.1", 9)
    return model


def test_requests_are_led_to_the_issuer_before_any_rule() -> None:
    model = led(ports(8080, 443, "http-01"))
    made = [rule for rule in model.rules.values() if rule.name.startswith(MADE)]
    assert {(rule.listener, rule.domain) for rule in made} == {
        ("http-8080", "example.com"),
        ("http-8080", "www.example.com"),
    }
    assert {(rule.url, rule.priority, rule.backend_service) for rule in made} == {(CHALLENGE_URL, 1, MADE)}
    assert all(not listener.acme_backend_service for listener in model.listeners.values())


def test_handshakes_are_led_to_the_issuer() -> None:
    model = led(ports(8080, 443))
    assert {each.listener.protocol: each.listener.acme_backend_service for each in l7_listeners(model)} == {
        Protocol.HTTP: "",
        Protocol.HTTPS: MADE,
    }
    assert not any(rule.name.startswith(MADE) for rule in model.rules.values())


def test_no_control_plane_takes_it() -> None:
    with pytest.raises(ConfigErrors) as caught:
        from_dict({"acme": {"email": "ops@example.com"}})
    assert str(caught.value) == (
        "request: acme: is for the file of `paifang up` alone; "
        "remove it; in a cluster, `paifang keyserver acme` has options for it"
    )
    assert "acme" not in {*Kind}
