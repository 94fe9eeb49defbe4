"""Options of the command line: read, and said again to the control plane that `paifang up` starts."""

from __future__ import annotations

import argparse
import socket
from ipaddress import ip_network

import pytest

from control.cloud.options import Served, add_apis, add_options, argv, read_apis, read_options
from control.cloud.site import Site
from control.up import UsageError, loopback_apis


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_apis(parser)
    return parser.parse_args(words)


def test_what_is_said_again_means_the_same() -> None:
    words = ["--jdcloud", "[::1]:8481", "--jdcloud-region", "cn-north-1", "--jdcloud-vips", "192.0.2.0/28"]
    served = read_apis(parsed("--alibaba", "127.0.0.1:8480", *words, "--jdcloud-vips", "2001:db8::/64"))
    vips = (ip_network("192.0.2.0/28"), ip_network("2001:db8::/64"))
    assert served == (
        Served("alibaba", ("127.0.0.1", 8480), Site()), Served("jdcloud", ("::1", 8481), Site("cn-north-1", vips)),
    )  # fmt: skip
    assert read_apis(parsed(*argv(served))) == served
    assert read_apis(parsed()) == ()


def test_addresses_without_an_api() -> None:
    with pytest.raises(ValueError, match="--jdcloud-vips need --jdcloud HOST:PORT"):
        read_apis(parsed("--jdcloud-vips", "192.0.2.0/28"))
    parser = argparse.ArgumentParser()
    add_options(parser)
    with pytest.raises(SystemExit):
        read_options(parser, parser.parse_args(["--new-access-keys"]))


def test_paifang_up_serves_them_on_loopback_addresses() -> None:
    (found,) = loopback_apis(parsed("--alibaba", "127.0.0.1:0"))
    assert found.address[1] > 0
    with pytest.raises(UsageError, match="is plain HTTP"):
        loopback_apis(parsed("--alibaba", "192.0.2.1:8480"))
    with pytest.raises(UsageError, match="--jdcloud-vips need"):
        loopback_apis(parsed("--jdcloud-vips", "192.0.2.0/28"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="in use; --jdcloud 127"):
            loopback_apis(parsed("--jdcloud", f"127.0.0.1:{port}"))
