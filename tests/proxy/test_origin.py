"""What servers are told of where a request comes from, by what the listener adds and whom it trusts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.model import Listener, Protocol
from proxy.actions import Changes
from proxy.head import read_request
from proxy.headers import request_head
from proxy.origin import Origin, Telling
from tests.proxy.support import Backend, free_port, model, proxy, with_options

EVERYTHING = Telling(client_port=True, vip=True, instance=b"shop")
NOTHING = Telling(address=False, scheme=False, port=False)
CLAIMS = (
    b"X-Forwarded-For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nX-Forwarded-Proto: ftp\r\nX-Forwarded-Port: 1\r\n"
    b"X-Forwarded-Client-srcport: 2\r\nSLB-IP: 3.3.3.3\r\nslb-id: theirs\r\nForwarded: for=1.1.1.1\r\n"
)


def told(telling: Telling, claims: bytes = b"", *, trusted: bool = False) -> list[str]:
    origin = Origin(b"192.0.2.7", b"https", b"443", trusted, b"l7-1", None, telling, b"50000", b"203.0.113.1")
    head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + claims + b"\r\n")
    assert head is not None
    lines = request_head(head, b"/", origin, b"id", b"").decode().split("\r\n")
    return sorted(lines[2 : lines.index("Via: 1.1 l7-1")])


def test_a_listener_adds_what_it_says() -> None:
    assert told(Telling()) == [
        "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Port: 443", "X-Forwarded-Proto: https", "X-Real-IP: 192.0.2.7",
    ]  # fmt: skip
    assert told(NOTHING) == []
    assert told(EVERYTHING) == sorted([
        *told(Telling()), "X-Forwarded-Client-srcport: 50000", "SLB-IP: 203.0.113.1", "SLB-ID: shop",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("attribute", "field"),
    [
        ("x_forwarded_for", "X-Forwarded-For"),
        ("x_forwarded_proto", "X-Forwarded-Proto"),
        ("x_forwarded_port", "X-Forwarded-Port"),
        ("x_forwarded_client_port", "X-Forwarded-Client-srcport"),
        ("x_forwarded_slb_ip", "SLB-IP"),
        ("x_forwarded_slb_id", "SLB-ID"),
    ],
)
def test_each_attribute_is_of_its_field(attribute: str, field: str) -> None:
    listener = Listener("web", "shop", Protocol.HTTP, 80)
    turned = replace(listener, **{attribute: not getattr(listener, attribute)})
    names = [{line.partition(":")[0] for line in told(Telling.of(each))} for each in (listener, turned)]
    assert field in names[0] ^ names[1] <= {field, "X-Real-IP"}


@pytest.mark.parametrize("telling", [Telling(), NOTHING, EVERYTHING], ids=["usual", "nothing", "everything"])
def test_claims_of_strangers_never_pass(telling: Telling) -> None:
    assert told(telling, CLAIMS) == told(telling)


def test_claims_of_trusted_proxies_stand_where_the_listener_says_the_field() -> None:
    assert told(EVERYTHING, CLAIMS, trusted=True) == [
        "Forwarded: for=1.1.1.1, for=192.0.2.7;proto=https", "SLB-ID: theirs", "SLB-IP: 3.3.3.3",
        "X-Forwarded-Client-srcport: 2", "X-Forwarded-For: 1.1.1.1, 192.0.2.7", "X-Forwarded-Port: 1",
        "X-Forwarded-Proto: ftp", "X-Real-IP: 1.1.1.1",
    ]  # fmt: skip


def test_what_a_listener_does_not_say_of_the_address_nobody_says() -> None:
    """Fields of earlier hops that it never says pass from those whom it trusts."""
    assert told(NOTHING, CLAIMS, trusted=True) == ["SLB-IP: 3.3.3.3", "X-Forwarded-Client-srcport: 2", "slb-id: theirs"]


async def test_a_server_is_told_as_the_listener_says_now() -> None:
    """By both ways through the proxy; a connection that was there before the change is not told otherwise."""
    async with Backend().running() as backend:
        base = model(free_port(), [backend.port])
        web = replace(base.listeners["web"], x_forwarded_for=False, x_forwarded_client_port=True,
                      x_forwarded_slb_ip=True, x_forwarded_slb_id=True)  # fmt: skip
        async with proxy(base) as l7:
            before = await l7.connect()
            await before.ask("/1")
            await l7.worker.apply(replace(base, listeners={"web": web}))
            client = await l7.connect()
            for path in ("/2", "/3"):
                await client.ask(path)
            port = client.writer.get_extra_info("sockname")[1]
            await client.close()
            await before.close()
        first, *after = (head.decode().split("\r\n") for head in backend.heads)
    assert "X-Forwarded-For: 127.0.0.1" in first
    for lines in after:
        assert {f"X-Forwarded-Client-srcport: {port}", "SLB-IP: 127.0.0.1", "SLB-ID: main"} <= set(lines)
        assert not any(line.startswith(("X-Forwarded-For", "X-Real-IP")) for line in lines)


@pytest.mark.parametrize("trusted", [False, True])
def test_underscored_names_pass_where_the_listener_says_so(trusted: bool) -> None:
    """But for those that a server could take for ours, or for the framing, whoever sends them."""
    fields = b"My_Id: 7\r\nx_: y\r\nHop_: z\r\nConnection: hop_\r\n"
    wicked = (
        b"X_Real_IP: 1.1.1.1\r\nx_forwarded_for: 1.1.1.1\r\nSLB_IP: 1.1.1.1\r\nCLIENT_CERT: x\r\nForwarded_: y\r\n"
        b"Content_Length: 9\r\nTransfer_Encoding: chunked\r\nX_Request_Id: theirs\r\nx-forwarded_proto: ftp\r\n"
    )
    assert told(Telling(), fields + wicked) == told(Telling())
    if trusted:
        wicked = wicked.replace(b"x-forwarded_proto: ftp\r\n", b"")  # a field of another name, from whom we trust
    found = told(Telling(underscores=True), fields + wicked, trusted=trusted)
    assert found == sorted([*told(Telling()), "My_Id: 7", "x_: y", "Forwarded_: y"])


@pytest.mark.parametrize("trusted", [False, True])
def test_underscored_names_stand_for_nothing_that_a_rule_says(trusted: bool) -> None:
    """X_User would be to a server what X-User is, which a rule sets or takes out so that no client can say it."""
    changes = Changes(frozenset((b"x-user", b"x-gone")), b"X-User: nobody\r\n")
    origin = Origin(b"192.0.2.7", b"https", b"443", trusted, b"l7-1", None, Telling(underscores=True))
    head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\nX_User: root\r\nx_gone: 1\r\nX-User: me\r\nMy_Id: 7\r\n\r\n")
    assert head is not None
    lines = request_head(head, b"/", origin, b"id", b"", changes=changes).split(b"\r\n")
    assert lines[2:4] == [b"X-User: nobody", b"My_Id: 7"]
    assert not any(line.lower().startswith((b"x_user", b"x_gone")) for line in lines)


async def test_underscored_names_reach_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """And nothing is told of those that pass; both hold from the next connection on when the listener changes."""
    caplog.set_level("INFO")
    async with Backend().running() as backend:
        made = model(free_port(), [backend.port])
        async with proxy(with_options(made, underscored_fields=True)) as l7:
            client = await l7.connect()
            assert (await client.ask(fields=b"My_Id: 7\r\n"))[0] == 200
            assert b"\r\nMy_Id: 7\r\n" in backend.heads[0]
            assert "underscored_fields" not in l7.hub.counters
            assert (await client.ask(fields=b"My_Id: 7\r\nX_Real_IP: 1\r\n"))[0] == 200
            assert [m for m in caplog.messages if "dropped" in m] == [
                "web: dropped from a request of 127.0.0.1: X_Real_IP"
            ]
            await l7.worker.apply(model(l7.port, [backend.port]))
            await client.close()
            client = await l7.connect()
            assert (await client.ask(fields=b"My_Id: 7\r\n"))[0] == 200
            assert b"My_Id" not in backend.heads[2]
            await client.close()
