"""Listening sockets: sharing, reserving, and what is left in a queue."""

from __future__ import annotations

import errno
import socket

import pytest

from core.model import Listener, Protocol
from core.resolve import L7Listener
from proxy import listen
from proxy.errors import ApplyError
from proxy.listen import accept_left, bind, endpoints, refuse_new


def test_a_reserved_port_can_be_shared_and_takes_no_connection() -> None:
    with bind("127.0.0.1", 0) as reserved:
        port = reserved.getsockname()[1]
        with bind("127.0.0.1", port) as serving:
            serving.listen()
            for _ in range(8):
                with socket.create_connection(("127.0.0.1", port)):
                    pass
            assert len([sock.close() for sock in accept_left(serving)]) == 8


def test_ipv6_is_bound_beside_ipv4_and_before_the_address_is_here() -> None:
    """Each with its own clients: nobody is known by an IPv4 address in the form of IPv6."""
    with bind("2001:db8:5::1", 0) as vip, bind("127.0.0.1", 0) as v4, bind("::1", v4.getsockname()[1]) as v6:
        assert vip.getsockname()[0] == "2001:db8:5::1"
        v4.listen()
        v6.listen()
        with socket.create_connection(("::1", v4.getsockname()[1])):
            (accepted,) = accept_left(v6)
            with accepted:
                assert accepted.getpeername()[0] == "::1"
            assert accept_left(v4) == []


def test_what_has_an_ipv6_address_already() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        with pytest.raises(ApplyError, match=rf"cannot bind \[::1\]:{port}: address already in use; "):
            bind("::1", port)


def test_a_socket_about_to_close_finishes_handshakes_and_begins_none() -> None:
    with bind("127.0.0.1", 0) as old, socket.socket() as before, socket.socket() as after:
        address = old.getsockname()
        old.listen()
        before.connect(address)
        refuse_new(old)
        after.setblocking(False)
        assert after.connect_ex(address) == errno.EINPROGRESS
        (accepted,) = accept_left(old)
        with accepted:
            before.sendall(b"passes the filter that it has inherited")
            assert accepted.recv(100)
        with bind(*address) as new:
            new.listen()
            old.close()
            new.settimeout(5)  # the kernel of the other side asks again after a second
            new.accept()[0].close()


class Unprivileged(socket.socket):
    """Of a user whom the kernel lets attach no filters."""

    def setsockopt(self, level: int, option: int, *value: object) -> None:  # type: ignore[override]
        raise PermissionError(errno.EPERM, "Operation not permitted")


def test_where_filters_are_refused_a_socket_about_to_close_goes_on_accepting() -> None:
    with Unprivileged() as old, socket.socket() as client:
        old.bind(("127.0.0.1", 0))
        old.listen()
        old.setblocking(False)
        refuse_new(old)
        client.connect(old.getsockname())
        (accepted,) = accept_left(old)
        accepted.close()


def test_a_port_in_use_is_an_error_with_a_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ApplyError, match=rf"cannot bind 127.0.0.1:{port}: address already in use; .*ss -ltnp"):
            bind("127.0.0.1", port)


def test_an_address_that_is_not_there_yet_can_be_bound() -> None:
    """A VIP may move here later."""
    with bind("192.0.2.77", 0) as sock:
        assert sock.getsockname()[0] == "192.0.2.77"


def test_every_address() -> None:
    with bind("", 0) as sock:
        assert sock.getsockname()[0] == "0.0.0.0"
        assert accept_left_of_nobody(sock) == []


def test_without_vips_a_listener_answers_on_both_ip_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener("web", "i", Protocol.HTTP, 80)
    assert endpoints(L7Listener(listener, ("",), (), ())) == (("", 80), ("::", 80))
    vips = ("192.0.2.1", "2001:db8::1")
    assert endpoints(L7Listener(listener, vips, (), ())) == (("192.0.2.1", 80), ("2001:db8::1", 80))
    monkeypatch.setattr(listen, "has_ipv6", lambda: False)
    assert endpoints(L7Listener(listener, ("",), (), ())) == (("", 80),)


def test_a_kernel_without_ipv6_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    assert listen.has_ipv6.__wrapped__()
    monkeypatch.setattr(socket, "socket", refuse)
    assert not listen.has_ipv6.__wrapped__()


def accept_left_of_nobody(sock: socket.socket) -> list[socket.socket]:
    sock.listen()
    return accept_left(sock)
