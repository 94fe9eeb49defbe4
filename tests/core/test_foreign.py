"""Whoever asks for what others have is told why it is not here and what to do: the PROXY protocol, under whatever name,
and policies with TLS 1.0 and 1.1."""

from __future__ import annotations

import pytest

from core.config import load
from core.errors import ConfigErrors

SITE = """\
[[instances]]
name = "i"
type = "nlb"
vips = ["192.0.2.10"]

[[nodes]]
name = "l4-1"
role = "l4"
address = "10.0.0.5"
source_pool = ["10.0.9.1"]

[[listeners]]
name = "l"
instance = "i"
protocol = "tcp"
port = 80
servers = ["10.0.1.1:80"]
"""
WHOSE = "the PROXY protocol is the L7 tier's: tcp and udp are forwarded packet by packet, with no header added"


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load(text, path="site.toml", format="toml")
    return str(caught.value).splitlines()


def test_the_file_is_sound_without() -> None:
    assert load(SITE, path="site.toml", format="toml").listeners


@pytest.mark.parametrize(
    "key",
    ["proxy_protocol", "proxy_protocol_from", "proxy-protocol", "send-proxy", "send_proxy_v2", "accept-proxy",
     "ProxyProtocolV2Enabled", "proxyProtocol", "use_proxy_proto"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["true", '"v2"', "false"])
def test_a_listener_of_tcp(key: str, value: str) -> None:
    assert errors(f"{SITE}{key} = {value}\n") == [
        f"site.toml:18: listeners.l.{key}: {WHOSE}; remove it: in mode nat the servers see the client's own address"
    ]


def test_the_remedy_fits_the_mode() -> None:
    assert errors(f'{SITE}mode = "dr"\nproxy_protocol = true\n') == [
        f"site.toml:19: listeners.l.proxy_protocol: {WHOSE}; "
        "remove it: in mode dr the servers see the client's own address"
    ]
    assert errors(f'{SITE}proxy_protocol = true\nmode = "fullnat"\n') == [
        f"site.toml:18: listeners.l.proxy_protocol: {WHOSE}; "
        "remove it, and use mode nat, dr or tunnel, in which the servers see the client's own address"
    ]


@pytest.mark.parametrize("mode", ["[]", '"proxy"', "{}"])
def test_a_mode_that_is_none(mode: str) -> None:
    found = errors(f"{SITE}proxy_protocol = true\nmode = {mode}\n")
    assert any(line.endswith("in modes nat, dr and tunnel the servers see the client's own address") for line in found)


def test_a_backend_service_of_udp() -> None:
    service = (
        '[[server_groups]]\nname = "g"\n\n[[backend_services]]\nname = "b"\nprotocol = "udp"\nserver_group = "g"\n'
    )
    assert errors(f"{service}proxy_protocol_v2 = true\n") == [
        f"site.toml:8: backend_services.b.proxy_protocol_v2: {WHOSE}; "
        "remove it: in modes nat, dr and tunnel the servers see the client's own address"
    ]


def test_other_faults_are_found_as_well() -> None:
    found = errors(f"{SITE}proxy_protocol = true\nwieght = 3\n")
    assert len(found) == 2
    assert "unknown key" in found[1]


def test_other_protocols_and_objects_have_their_usual_answer() -> None:
    text = '[[listeners]]\nprotocol = "http"\nport = 80\nservers = ["10.0.1.1:80"]\nsend_proxy = true\n'
    (error,) = errors(text)
    assert "unknown key" in error
    (error,) = errors('[[instances]]\nname = "i"\nproxy_protocol = true\n')
    assert "unknown key" in error


@pytest.mark.parametrize("key", ["send-proxy-v2", "accept_proxy", "use_proxy_proto", "proxy_protocol_v2"])
def test_what_others_call_it_on_the_l7_tier(key: str) -> None:
    listener = '[[listeners]]\nprotocol = "http"\nport = 80\nservers = ["10.0.1.1:80"]\n'
    assert errors(f"{listener}{key} = true\n") == [
        f'site.toml:5: listeners.http-80.{key}: unknown key; give proxy_protocol = "required" and proxy_protocol_from '
        'here for headers that come in, or proxy_protocol = "v2" to the backend service for headers that go out'
    ]
    service = (
        '[[server_groups]]\nname = "g"\n\n[[backend_services]]\nname = "b"\nprotocol = "http"\nserver_group = "g"\n'
    )
    assert errors(f"{service}{key} = true\n") == [
        f'site.toml:8: backend_services.b.{key}: unknown key; give proxy_protocol = "v1" or "v2"'
    ]
    assert load(f'{service}proxy_protocol = "v1"\n', path="site.toml", format="toml").backend_services


@pytest.mark.parametrize("protocol", ["h2", "h2c"])
def test_connections_of_many_clients_begin_with_nobodys_header(protocol: str) -> None:
    text = f'[[server_groups]]\nname = "g"\n\n[[backend_services]]\nname = "b"\nprotocol = "{protocol}"\n'
    assert errors(f'{text}server_group = "g"\nproxy_protocol = "v2"\n') == [
        f"site.toml:8: backend_services.b.proxy_protocol: connections of {protocol} carry requests of many clients, "
        'and a header names one; give protocol = "http", or remove it'
    ]


def test_on_the_l7_tier_it_is_taken() -> None:
    listener = '[[listeners]]\nprotocol = "http"\nport = 80\nservers = ["10.0.1.1:80"]\nproxy_protocol = "optional"\n'
    assert load(f'{listener}proxy_protocol_from = ["10.0.0.0/8"]\n', path="site.toml", format="toml").listeners
    (error,) = errors(listener)
    assert error.endswith("give proxy_protocol_from, the networks of your proxies")
    (error,) = errors(listener.replace("proxy_protocol", "description") + 'proxy_protocol_from = ["10.0.0.0/8"]\n')
    assert error.endswith('proxy_protocol is off, so that nobody is asked for a header; give proxy_protocol = '
                          '"required", or remove it')  # fmt: skip


@pytest.mark.parametrize("policy", ["tls_1_0", "tls_1_1"])
def test_old_tls_is_explained_and_nothing_else_said(policy: str) -> None:
    listener = """
[[listeners]]
protocol = "https"
port = 443
domains = ["a.test"]
servers = ["10.0.1.1:80"]
"""
    assert errors(f'{SITE}{listener}tls_policy = "{policy}"\n') == [
        "site.toml:24: listeners.https-443.tls_policy: TLS 1.0 and 1.1 sign handshakes with MD5 and SHA-1, which the "
        "key server refuses (RFC 8996); give tls_1_2, which also has the suites of old clients"
    ]
