"""Endpoints as people write them."""

from __future__ import annotations

import ipaddress

import pytest

from core.endpoints import endpoint, is_loopback, split, version


@pytest.mark.parametrize(
    ("address", "port", "text"),
    [
        ("192.0.2.1", 80, "192.0.2.1:80"),
        ("2001:db8::1", 80, "[2001:db8::1]:80"),
        ("::", 65535, "[::]:65535"),
    ],
)
def test_there_and_back(address: str, port: int, text: str) -> None:
    assert endpoint(address, port) == text
    assert split(text) == (address, port)
    assert version(address) == (6 if address.count(":") else 4)


def test_a_socket_is_its_path() -> None:
    assert endpoint("unix:/run/app.sock", 0) == "unix:/run/app.sock"
    assert split("unix:/run/app.sock") is None


def test_an_empty_address_is_every_one() -> None:
    assert endpoint("", 80) == "0.0.0.0:80"
    assert split(":80") == ("", 80)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        "::1",
        "::1:80",
        "2001:db8::1",
        "[::1]",
        "[::1]80",
        "[::1]:",
        "::1]:80",
        "[::1:80",
        "a:123456",
        "[[::1]]:80",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    assert split(text) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.0.9", "126.0.0.1", "12.7.0.1", "::1", "::2", "2001:db8::1"])
def test_loopback_is_what_the_standards_say(address: str) -> None:
    assert is_loopback(address) is ipaddress.ip_address(address).is_loopback
