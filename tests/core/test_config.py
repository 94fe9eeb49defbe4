"""Reading: shorthand, every kind of fault with its place, nothing but ConfigErrors. Writing: what is read back."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import reader
from core.config import from_dict, load, to_dict, to_toml
from core.errors import ConfigErrors
from core.fields import Address
from core.model import (
    L4_SCHEDULERS,
    L7_BACKENDS,
    L7_SCHEDULERS,
    MULTIPLEXED,
    AccessList,
    Acl,
    Authentication,
    AvailabilityGroup,
    BackendProtocol,
    BackendService,
    Basic,
    CaCertificate,
    Certificate,
    CertificateFields,
    Certified,
    CheckMethod,
    CheckType,
    ClientCertificate,
    Condition,
    Cors,
    DnsName,
    DnsType,
    Ejection,
    FixedReply,
    ForwardAuth,
    HeaderAction,
    HeaderChange,
    HealthCheck,
    Instance,
    InstanceType,
    Jwt,
    JwtAlgorithm,
    Listener,
    Mode,
    Model,
    Node,
    Protocol,
    Redirect,
    RedirectMap,
    Rewrite,
    Role,
    Rule,
    Scheduler,
    SecurityHeaders,
    Server,
    ServerGroup,
    Share,
    StickySession,
    StickyType,
    TlsPolicy,
)

SHORT = """
[[listeners]]
protocol = "http"
port = 8000
servers = ["127.0.0.1:9000", "127.0.0.1:9001"]

[[listeners]]
name = "web"
protocol = "https"
port = 8443
domains = ["localhost"]
backend_service = "http-8000"
"""


def said(text: str, format: Literal["toml", "json"] = "toml") -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load(text, path="f", format=format)
    return str(caught.value).split("\n")


# --- reading


def test_an_empty_file_is_an_empty_model() -> None:
    assert load("", path="f", format="toml") == load("{}", path="f", format="json") == from_dict({}) == Model()


def test_shorthand_makes_the_usual_objects() -> None:
    servers = (Server("127.0.0.1", 9000), Server("127.0.0.1", 9001))
    assert load(SHORT, path="f", format="toml") == Model(
        certificates={"web": Certificate("web", domains=("localhost",))},
        server_groups={"http-8000": ServerGroup("http-8000", servers)},
        backend_services={
            "http-8000": BackendService("http-8000", BackendProtocol.HTTP, server_group="http-8000"),
        },
        instances={"default": Instance("default")},
        listeners={
            "http-8000": Listener("http-8000", "default", Protocol.HTTP, 8000, "http-8000"),
            "web": Listener("web", "default", Protocol.HTTPS, 8443, "http-8000", certificates=("web",)),
        },
    )


@pytest.mark.parametrize(("protocol", "check"), [("tcp", CheckType.TCP), ("udp", CheckType.UDP)])
def test_shorthand_of_an_l4_listener_takes_its_protocol_and_check(protocol: str, check: CheckType) -> None:
    model = load(
        f"""
        instances = [{{ name = "default", type = "nlb", vips = ["192.0.2.1"] }}]
        listeners = [{{ protocol = "{protocol}", port = 53, servers = ["10.0.0.1:5353"] }}]
        """,
        path="f",
        format="toml",
    )
    service = model.backend_services[f"{protocol}-53"]
    assert (service.protocol, service.health_check) == (BackendProtocol(protocol), HealthCheck(type=check))


SHORTHAND_FAULTS = [
    ('servers = "127.0.0.1:9000"', "servers: '127.0.0.1:9000' is not a list; give [\"ADDRESS:PORT\", …]"),
    (
        'servers = ["127.0.0.1"]',
        "servers[0]: '127.0.0.1' is not an address and port; give a string such as '127.0.0.1:8000'",
    ),
    ("servers = [8000]", "servers[0]: 8000 is not an address and port; give a string such as '127.0.0.1:8000'"),
    (
        'servers = ["::1:8000"]',
        "servers[0]: '::1:8000' is not an address and port; give a string such as '[::1]:8000'",
    ),
    (
        'servers = ["localhost:80"]',
        "servers[0]: 'localhost' is not an IP address; give an IP address, or unix: and the path of a socket",
    ),
    (
        'servers = ["127.0.0.1:1", "127.0.0.1:70000"]',
        "servers[1]: 70000 is out of range; give a whole number from 0 to 65535",
    ),
    (
        'servers = []\nbackend_service = "x"',
        "servers: servers and backend_service exclude each other; give one of them",
    ),
    (
        'servers = []\n[[server_groups]]\nname = "a"',
        "servers: another of the server groups is named 'a'; rename one",
    ),
    ('servers = []\ndomains = ["no domain"]', "domains[0]: 'no domain' does not fit; give a host name, or '*.' and"),
    ("servers = []\ndomains = []\ncertificates = []", "domains: domains and certificates exclude each other; give one"),
]


@pytest.mark.parametrize(("given", "message"), SHORTHAND_FAULTS)
def test_a_fault_in_shorthand_is_told_where_it_was_written(given: str, message: str) -> None:
    text = f'[[listeners]]\nname = "a"\nprotocol = "http"\nport = 80\n\n{given}\n'
    assert any(f"listeners.a.{message}" in line for line in said(text)), said(text)
    line = 7 if "\ndomains" in given else 6
    assert any(message in each and each.startswith(f"f:{line}: ") for each in said(text))


def test_a_listener_without_name_is_not_asked_for_one_when_its_name_cannot_be_made() -> None:
    text = '[[listeners]]\nprotocol = "htp"\nport = 0x' + "f" * 9000
    assert said(text) == [
        "f:2: listeners[0].protocol: 'htp' is not known; did you mean http? give tcp, udp, http or https",
        "f:3: listeners[0].port: the number is out of range; give a whole number from 1 to 65535",
    ]


def test_several_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """
[[listeners]]
name = "web"
protocol = "htps"
port = 70000
zebra = 1

[[listeners]]
name = "web"
prot = 3
protocol = "http"
backend_service = "wbe"
idle_timeout_s = 2.5

[[backend_services]]
name = "Web"
protocol = "udp"
server_group = "g"
health_check = { typ = "udp" }

[nodez]

[[server_groups]]
name = "g"
servers = [
  { address = "10.0.0.1", port = true },
  { address = "10.0.0.300", port = 1, weight = 101 },
]
[[server_groups]]
"""
    choices = ", ".join([*(field.name for field in reader.fields(Listener)), "servers", "domains"])
    assert choices.startswith("name, instance, protocol, port, ")
    assert said(text) == [
        "f:4: listeners.web.protocol: 'htps' is not known; did you mean https? give tcp, udp, http or https",
        "f:5: listeners.web.port: 70000 is out of range; give a whole number from 1 to 65535",
        f"f:6: listeners.web.zebra: unknown key; known are {choices}",
        "f:8: listeners.web: port is missing; give a whole number from 1 to 65535",
        "f:9: listeners.web.name: another of the listeners is named 'web'; rename one",
        "f:10: listeners.web.prot: unknown key; did you mean port?",
        "f:13: listeners.web.idle_timeout_s: 2.5 is not a whole number; give a whole number from 1 to 60 s",
        "f:19: backend_services.Web.health_check.typ: unknown key; did you mean type?",
        "f:21: nodez: unknown key; did you mean nodes?",
        "f:26: server_groups.g.servers[0].port: true is not a whole number; give a whole number from 0 to 65535",
        "f:27: server_groups.g.servers[1].address: '10.0.0.300' is not an IP address; "
        "give an IP address, or unix: and the path of a socket",
        "f:27: server_groups.g.servers[1].weight: 101 is out of range; give a whole number from 0 to 100",
        "f:29: server_groups[1]: name is missing; give a name: letters, digits, '.', '_', '-', at most 80",
    ]


SYNTAX = [
    ("toml", "a = 1\nb = = 2", "f:2: not TOML: Invalid value"),
    ("toml", "a = 1\nb = [1,\n", "f:3: not TOML: Invalid value"),
    ("toml", "a = 1\na = 2\n", "f:2: not TOML: Cannot overwrite a value"),
    ("json", '{"a": 1,\n}', "f:2: not JSON: Expecting property name enclosed in double quotes"),
    ("json", "", "f:1: not JSON: Expecting value"),
    ("json", "[]", "f: an empty list is not a table; give a table of nodes, certificates, ca_certificates, "),
    ("json", '{"nodes": [],\n"nodes": []}', "f:2: nodes: the key is given twice; keep one of them"),
    ("toml", "a = " + "1" * 5000, "f: not TOML: Exceeds the limit"),
    ("toml", '"a\\nb" = 1\n', "f:1: 'a\\nb': unknown key; known are nodes, certificates, "),
    ("json", "1" * 5000, "f: not JSON: Exceeds the limit"),
    ("toml", "a = " + "[" * 5000 + "]" * 5000, "f: not TOML: it is nested too deeply"),
    ("json", "[" * 100_000 + "]" * 100_000, "f: not JSON: it is nested too deeply"),
]


@pytest.mark.parametrize(("format", "text", "message"), SYNTAX)
def test_faults_of_syntax_have_their_line(format: Literal["toml", "json"], text: str, message: str) -> None:
    (line,) = said(text, format)
    assert line.startswith(message)


VALUES: list[tuple[str, object, str]] = [
    ("port", "80", "'80' is not a whole number; give a whole number from 1 to 65535"),
    ("port", 80.0, "80.0 is not a whole number; give a whole number from 1 to 65535"),
    ("port", None, "null is not a whole number; give a whole number from 1 to 65535"),
    ("port", 10**400, "the number is out of range; give a whole number from 1 to 65535"),
    ("name", ["a"], "a list is not a string; give a name: letters, digits, '.', '_', '-', at most 80"),
    ("name", "a b", "'a b' does not fit; give a name: letters, digits, '.', '_', '-', at most 80"),
    ("name", "a\n", r"'a\n' does not fit; give a name: letters, digits, '.', '_', '-', at most 80"),
    ("mode", "nta", "'nta' is not known; did you mean nat? give nat, fullnat, dr or tunnel"),
    ("mode", 1, "1 is not a string; give nat, fullnat, dr or tunnel"),
    ("certificates", "c", "'c' is not a list; give a list of names of certificates"),
    ("certificates", [1], "1 is not a string; give the name of one of the certificates"),
    ("trusted_proxies", ["10.0.0.1/8"], "'10.0.0.1/8' has bits set beyond its prefix; give 10.0.0.0/8"),
    (
        "trusted_proxies",
        ["10.0.0.0/255.0.0.0"],
        "'10.0.0.0/255.0.0.0' has a mask and not the length of its prefix; give 10.0.0.0/8",
    ),
    (
        "trusted_proxies",
        ["010.0.0.0/8"],
        "'010.0.0.0/8' is not an IP network; give a network such as 10.0.0.0/8 or 2001:db8::/32",
    ),
    ("trusted_proxies", ["2001:db8::1/32"], "'2001:db8::1/32' has bits set beyond its prefix; give 2001:db8::/32"),
    (
        "trusted_proxies",
        ["::ffff:a00:0/104"],
        "'::ffff:a00:0/104' is an IPv4 address in the form of IPv6, which no packet carries; give 10.0.0.0/8",
    ),
    (
        "trusted_proxies",
        ["fe80::1%eth0/64"],
        "'fe80::1%eth0/64' has a zone, which means something on one machine only; "
        "give a network such as 10.0.0.0/8 or 2001:db8::/32",
    ),
    ("trusted_proxies", ["x"], "'x' is not an IP network; give a network such as 10.0.0.0/8 or 2001:db8::/32"),
    ("idle_timeout_s", 0, "0 is out of range; give a whole number from 1 to 60 s"),
]


@pytest.mark.parametrize(("key", "value", "message"), VALUES)
def test_what_is_said_of_a_wrong_value(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        from_dict({"listeners": [{"name": "a", "protocol": "http", "port": 80, "servers": [], key: value}]})
    assert any(f"{error.why}; {error.suggestion}" == message for error in caught.value.errors), str(caught.value)
    assert all(error.line == 0 and error.path == "request" for error in caught.value.errors)


CHECKS: list[tuple[object, str]] = [
    ({"interval_s": float("nan")}, "interval_s: nan is out of range; give a number from 1 to 50 s"),
    ({"interval_s": True}, "interval_s: true is not a number; give a number from 1 to 50 s"),
    ({"interval_s": 10**400}, "interval_s: the number is out of range; give a number from 1 to 50 s"),
    ({"codes": "20x"}, "codes: '20x' does not fit; give status codes such as 200,202-207,4xx"),
    (True, "true is not a table; give a table of type, interval_s, timeout_s, rise, fall, port, method, uri, "),
    (None, "null is not a table; give a table of type, interval_s, timeout_s, rise, fall, port, method, uri, "),
    ({"domain": "\ud800"}, r"domain: '\ud800' is not valid Unicode; leave out the lone surrogate"),
]


@pytest.mark.parametrize(("check", "message"), CHECKS)
def test_what_is_said_of_a_wrong_health_check(check: object, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        from_dict({"backend_services": [{"name": "a", "protocol": "http", "health_check": check}]})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0", "is not the address of one machine"),
        ("224.0.0.1", "is not the address of one machine"),
        ("255.255.255.255", "is not the address of one machine"),
        ("::", "is not the address of one machine"),
        ("ff02::1", "is not the address of one machine"),
        ("fe80::1", "is link-local: it means something on one link only"),
        ("2001:db8::1%eth0", "has a zone, which means something on one machine only"),
        ("::ffff:10.0.0.1", "is an IPv4 address in the form of IPv6, which no packet carries; give 10.0.0.1"),
        ("[2001:db8::1]", "is not an IP address; give an IP address"),
    ],
)
def test_what_no_machine_has_is_no_address(address: str, why: str) -> None:
    with pytest.raises(ConfigErrors, match=re.escape(why)):
        from_dict({"nodes": [{"name": "n", "role": "l7", "address": address}]})


def test_an_ipv6_attribute_takes_no_other_address() -> None:
    node = {"name": "n", "role": "l7", "address": "10.0.0.1", "address_v6": "10.0.0.2"}
    with pytest.raises(ConfigErrors, match="is of IPv4; give an IPv6 address"):
        from_dict({"nodes": [node]})


def test_ipv6_is_read_in_any_form_and_kept_in_the_canonical_one() -> None:
    """RFC 5952, so that equal addresses are equal strings wherever they are compared."""
    model = from_dict({
        "listeners": [{"protocol": "http", "port": 80, "servers": ["[2001:DB8:0:0::0001]:8080"],
                       "trusted_proxies": ["2001:DB8::/032", "2001:0db8:1::0"]}],
        "instances": [{"name": "default", "vips": ["2001:DB8:0:0:1:0:0:1"]}],
        "nodes": [{"name": "n", "role": "l7", "address": "10.0.0.1", "address_v6": "2001:db8:00::A"}],
    })  # fmt: skip
    assert model.server_groups["http-80"].servers == (Server("2001:db8::1", 8080),)
    assert model.listeners["http-80"].trusted_proxies == ("2001:db8::/32", "2001:db8:1::")
    assert model.instances["default"].vips == ("2001:db8::1:0:0:1",)
    assert model.nodes["n"].address_v6 == "2001:db8::a"


@given(
    st.sampled_from(["::", "2001:DB8::", "::ffff:a00:0", "fe80::1%a", "1::2::3", "12345::", "1.2.3.0"])
    | st.builds(lambda number, by: str(ipaddress.IPv6Address(number << by & (1 << 128) - 1)),
                st.integers(0, (1 << 64) - 1), st.integers(0, 127)),
    st.sampled_from(["", "/", "/0", "/07", "/32", "/48", "/64", "/96", "/104", "/128", "/129", "/ffff::"]),
)  # fmt: skip
def test_the_short_way_to_read_networks_says_what_the_long_one_says(address: str, length: str) -> None:
    network, constraint = address + length, Address(network=True)
    short = reader._address_fault(constraint, network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_is_plain_network", lambda value: False)
        assert reader._address_fault(constraint, network) == short


def test_one_address_written_in_two_ways_is_one() -> None:
    servers = ["[2001:db8::1]:80", "[2001:0DB8::0001]:80"]
    with pytest.raises(ConfigErrors, match=r"\[2001:db8::1\]:80 is in the list already, at position 0"):
        from_dict({"listeners": [{"protocol": "http", "port": 80, "servers": servers}]})


def test_a_health_check_is_turned_off_by_false() -> None:
    text = """
    server_groups = [{ name = "g" }]
    backend_services = [{ name = "b", protocol = "http", server_group = "g", health_check = false }]
    """
    model = load(text, path="f", format="toml")
    assert model.backend_services["b"].health_check is None
    assert to_dict(model)["backend_services"][0]["health_check"] is False


def test_whole_numbers_serve_where_a_fraction_may_stand() -> None:
    text = """
    server_groups = [{ name = "g" }]
    backend_services = [{ name = "b", protocol = "http", server_group = "g", connect_timeout_s = 3 }]
    """
    timeout_s = load(text, path="f", format="toml").backend_services["b"].connect_timeout_s
    assert (timeout_s, type(timeout_s)) == (3.0, float)


# --- nothing but ConfigErrors


def readable(errors: ConfigErrors) -> bool:
    return errors.errors != () and all(str(each).isprintable() for each in errors.errors)


WORDS = st.sampled_from(
    [
        *"[]{}=,.:\"'\n# 1-",
        "[[",
        "]]",
        '"""',
        "true",
        "null",
        "1e9",
        "inf",
        "nan",
        "07:32",
        "10.0.0.1",
        "\ufeff",
        "\x00",
        *("listeners", "servers", "name", "port", "protocol", "http", "server_groups", "health_check"),
    ]
)
SOUP = st.text(max_size=60) | st.lists(WORDS, max_size=40).map("".join) | st.lists(WORDS, max_size=40).map(" ".join)
FORMATS: Any = st.sampled_from(["toml", "json"])


@settings(max_examples=500)
@given(SOUP, FORMATS)
def test_any_text_gives_a_model_or_config_errors(text: str, format: Literal["toml", "json"]) -> None:
    caught = None
    try:
        load(text, path="f", format=format)
    except ConfigErrors as error:
        caught = error
    assert caught is None or readable(caught)


KEYS = st.text(max_size=3) | st.sampled_from(
    ["name", "port", "servers", "domains", "protocol", "address", "health_check", "vips", "x"]
)
JUNK: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=15,
)
KINDS = st.sampled_from(["listeners", "backend_services", "server_groups", "instances", "certificates", "rules", "zz"])


@settings(max_examples=500)
@given(JUNK | st.dictionaries(KINDS, JUNK | st.lists(st.dictionaries(KEYS, JUNK, max_size=5), max_size=3)))
def test_any_data_gives_a_model_or_config_errors(data: object) -> None:
    caught = None
    try:
        from_dict(data)
    except ConfigErrors as error:
        caught = error
    assert caught is None or readable(caught)


# --- writing

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FRACTIONS = st.floats(1, 50, allow_nan=False)


@st.composite
def health_checks(draw: st.DrawFn, protocol: BackendProtocol) -> HealthCheck | None:
    if draw(st.integers(0, 4)) == 0:
        return None
    others = [CheckType.UDP] if protocol is BackendProtocol.UDP else []
    others += [CheckType.GRPC] if protocol in (BackendProtocol.TCP, *MULTIPLEXED) else []
    type_ = draw(st.sampled_from([CheckType.TCP, CheckType.HTTP, *others]))
    own: dict[str, Any] = {}
    if type_ is CheckType.HTTP:
        own = {
            "method": draw(st.sampled_from(CheckMethod)),
            "uri": draw(st.from_regex(r"/[!-~]{0,8}", fullmatch=True)),
            "domain": draw(st.sampled_from(["", "a.example.com"])),
            "codes": draw(st.sampled_from(["2xx,3xx", "200,202-207,4xx"])),
        }
    if type_ is CheckType.GRPC:
        own = {"service": draw(st.sampled_from(["", "shop.Cart"]))}
    if type_ is CheckType.UDP:
        own = {key: draw(st.from_regex(r"[ -~]{0,8}", fullmatch=True)) for key in ("request", "expect")}
    timings = draw(st.tuples(FRACTIONS, FRACTIONS, st.integers(2, 10), st.integers(2, 10), st.integers(0, 65535)))
    return HealthCheck(type_, *timings, **own)


@st.composite
def services(draw: st.DrawFn, name: str, protocol: BackendProtocol, groups: Any, spread: Any) -> BackendService:
    allowed = sorted(L7_SCHEDULERS if protocol in L7_BACKENDS else L4_SCHEDULERS)
    target = {"availability_group": draw(st.sampled_from(spread))} if spread and draw(st.booleans()) else {}
    target = target or {"server_group": draw(st.sampled_from(groups))}
    check = draw(health_checks(protocol))
    scheduler = draw(st.sampled_from(allowed))
    own = draw(http_options(scheduler, protocol)) if protocol in L7_BACKENDS else {}
    return BackendService(name, protocol, **target, scheduler=scheduler, health_check=check, **own)


@st.composite
def http_options(draw: st.DrawFn, scheduler: Scheduler, protocol: BackendProtocol) -> dict[str, Any]:
    """What backend services of the L7 tier have besides."""
    first_s, more_s = draw(st.tuples(st.floats(1, 60), st.floats(0, 60)))
    counted = draw(st.tuples(st.integers(1, 9), st.integers(0, 9)))
    ejection = Ejection(*counted, first_s, first_s + more_s, draw(st.integers(1, 100)))
    limits = {"server_max_connections": 1, "server_max_queue": draw(st.integers(0, 9)), "queue_timeout_s": first_s}
    tls = {"tls": True, "tls_verify": draw(st.booleans()), "tls_server_name": draw(st.sampled_from(["", "a.example"]))}
    keys = ["source", "path", "header:X-User", "cookie:id"] if scheduler is Scheduler.CH else ["source"]
    return {
        "hash_key": draw(st.sampled_from(keys)),
        "connect_timeout_s": draw(st.floats(0.1, 60)),
        "first_byte_timeout_s": draw(st.floats(0, 3600)),
        "idle_timeout_s": draw(st.floats(0, 3600)),
        "total_timeout_s": draw(st.floats(0, 86_400)),
        "retry_percent": draw(st.integers(0, 100)),
        "retry_min_per_s": draw(st.integers(0, 1000)),
        **draw(st.sampled_from([{}, limits])),
        **draw(st.sampled_from([{}, tls] if protocol is not BackendProtocol.H2C else [{}])),
        "ejection": draw(st.sampled_from([None, Ejection(), ejection])),
        "slow_start_s": 0 if scheduler in (Scheduler.SH, Scheduler.CH) else draw(st.integers(0, 900)),
        "sticky_session": draw(st.sampled_from([None, StickySession(StickyType.SERVER, "sid")])),
    }


NETWORKS = st.sampled_from([(), ("10.0.0.0/8", "192.0.2.0/24"), ("2001:db8::/32", "2001:db8:1::1")])


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Sound configurations with every kind of object and every field off its default now and then."""
    names = draw(st.lists(NAMES, min_size=8, max_size=12, unique=True))
    some = st.lists(st.sampled_from(names), unique=True, max_size=3)
    nodes = {
        name: Node(name, draw(st.sampled_from(Role)), f"10.1.0.{index + 1}", draw(st.integers(1, 999)))
        for index, name in enumerate(draw(some))
    }
    nodes = {name: replace(node, zone="z1") if node.role is Role.L7 else node for name, node in nodes.items()}
    domains = st.lists(st.sampled_from(["a.example", "*.b.example"]), min_size=1, max_size=2).map(tuple)
    certificates = {name: Certificate(name, domains=draw(domains)) for name in names[:2]}
    certificates[names[2]] = Certificate(names[2], chain_file="c" + draw(TEXT), key_file=draw(TEXT))
    certificates[names[3]] = Certificate(names[3], chain="-" + draw(TEXT) + "\n" + draw(TEXT))
    server = st.builds(Server, st.just("10.0.0.1"), st.just(1), st.integers(0, 100), TEXT, TEXT)
    groups, spread = {}, {}
    net, vip = draw(st.sampled_from([("10.0.0.", "192.0.2.3"), ("2001:db8::", "2001:db8:2::3")]))
    for name in names:
        drawn = draw(st.lists(server, max_size=3))
        placed = [Server(f"{net}{i + 1}", 80 + i, s.weight, s.zone, s.rack) for i, s in enumerate(drawn)]
        groups[name] = ServerGroup(name, tuple(placed))
    for name in draw(some):
        spread[name] = AvailabilityGroup(
            name, (Server(f"{net}1", 1, zone="z1", rack=draw(TEXT)), Server(f"{net}2", 1, zone="z2"))
        )
    if spread:
        kinds = st.sampled_from([DnsName("a.test", port=80, zone="z"), DnsName("b.test", DnsType.SRV, weight=0)])
        asked = st.sampled_from([(), ("127.0.0.1:53", "[::1]:5353")])
        spread_by_name = AvailabilityGroup("by-name", (), (draw(kinds),), draw(asked))
    backends = {
        name: draw(services(name, draw(st.sampled_from(BackendProtocol)), names, sorted(spread))) for name in names[:6]
    }
    for name, protocol in zip(names[6:8], (BackendProtocol.TCP, BackendProtocol.HTTP), strict=True):
        backends[name] = draw(services(name, protocol, names, sorted(spread)))
    http = [name for name, service in backends.items() if service.protocol in L7_BACKENDS]
    for name, other in pairwise(http):
        backends[name] = replace(backends[name], fallback=draw(st.sampled_from(["", other])))
    instances = {
        names[0]: Instance(names[0]),
        names[1]: Instance(names[1], InstanceType.ALB, ("192.0.2.1", "192.0.2.2")),
        names[2]: Instance(names[2], InstanceType.NLB, (vip,)),
    }
    lists = {name: AccessList(name, draw(NETWORKS)) for name in names[:2]}
    maps = {name: RedirectMap(name, entries=f"/{name} /a 302\n# é", keep_query=False) for name in names[1:2]}
    proofs = {name: replace(draw(st.sampled_from(PROOFS)), name=name, user_field="X-U") for name in names[:2]}
    proofs = {n: replace(p, backend_service=names[7]) if p.forward is not None else p for n, p in proofs.items()}
    listeners = {name: draw(listeners_of(name, 1000 + i, names, backends)) for i, name in enumerate(draw(some))}
    l7 = sorted(n for n, listener in listeners.items() if listener.protocol in (Protocol.HTTP, Protocol.HTTPS))
    # Rules of it have schedulers of their own, of which ch starts nobody slowly.
    backends[names[7]] = replace(backends[names[7]], slow_start_s=0)
    rules = {
        name: draw(rules_of(name, l7, names[7], f"/{i}", names[1])) for i, name in enumerate(draw(some) if l7 else [])
    }
    authorities = {name: CaCertificate(name, bundle=f"PEM {index}") for index, name in enumerate(names[:2])}
    spread |= {"by-name": spread_by_name} if spread else {}
    line = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    tags = st.dictionaries(st.sampled_from(["a", "b c", 'd."é']), line, max_size=2).map(
        lambda of: tuple(sorted(of.items()))
    )

    def about(objects: dict[str, Any]) -> dict[str, Any]:
        return {name: replace(each, description=draw(line), tags=draw(tags)) for name, each in objects.items()}

    instances = {name: replace(each, deletion_protection=draw(st.booleans())) for name, each in instances.items()}
    listeners = {name: replace(each, enabled=draw(st.booleans())) for name, each in listeners.items()}
    return Model(*map(about, (
        nodes, certificates, authorities, groups, spread, backends, proofs, lists, maps, instances, listeners, rules
    )))  # fmt: skip


PROOFS = (
    Authentication("", Basic("/etc/users", "a 'realm'", 0), pass_credentials=True),
    Authentication("", jwt=Jwt(
        secret_file="/s", algorithms=(JwtAlgorithm.HS512,), issuer="i", audiences=("a", "b c"), leeway_s=0,
        token="cookie:t", required_claims=(("groups", "x"), ("scope", "")), claim_fields=(("email", "X-Email"),),
    )),
    Authentication("", certificate=Certified(("a",), ("b@c.test",), ("CN=ü",), ("0" * 64,))),
    Authentication("", forward=ForwardAuth("/a?b", "h.test", ("X-A",), ("X-B",), 0.5, fail_open=True)),
)  # fmt: skip
VALUES = st.lists(st.sampled_from(["", "a*?", "[x]", "ü"]), max_size=2).map(tuple)
CONDITIONS = st.lists(st.builds(Condition, st.sampled_from(["X-A", "b.c"]), VALUES), max_size=2).map(tuple)


@st.composite
def rules_of(draw: st.DrawFn, name: str, listeners: list[str], service: str, url: str, proof: str) -> Rule:
    action = draw(
        st.sampled_from([
            {"backend_service": service},
            {"backend_service": service, "rewrite": Rewrite("b.test", "/x${rest}", ""),
             "request_headers": (HeaderChange("A", HeaderAction.REMOVE), HeaderChange("A", HeaderAction.ADD, "b c"))},
            {"backend_service": service, "authentication": proof, "security_headers": SecurityHeaders.OFF,
             "cors": Cors(("https://a.test", "https://*.b.test:8443"), ("PUT",), ("*",), ("X-A",), True, 0)},
            {"backend_service": service, "scheduler": Scheduler.P2C, "health_check": HealthCheck(port=7),
             "sticky_session": StickySession(StickyType.SERVER, "sid")},
            {"split": (Share(service, 3),), "scheduler": Scheduler.CH, "hash_key": "cookie:x",
             "response_headers": (HeaderChange("B"),), "rewrite": Rewrite(query="q")},
            {"redirect": Redirect(308, "https", "www.${host}", 8443, "/x${rest}", "a=${host}&${query}")},
            {"redirect": Redirect(host="elsewhere.test")},
            {"fixed_reply": FixedReply()},
            {"fixed_reply": FixedReply(503, "text/html", 'später "\n')},
        ])
    )  # fmt: skip
    return Rule(
        name, draw(st.sampled_from(listeners)), domain=draw(st.sampled_from(["", "*.a.b", "A.b"])),
        **draw(st.sampled_from([{"url": url}, {"path": url}, {"url": url, "pattern": f"{url}/*"}])),
        priority=draw(st.sampled_from([0, 3])),
        methods=draw(st.sampled_from([(), ("GET", "M-SEARCH")])), headers=draw(CONDITIONS), queries=draw(CONDITIONS),
        cookies=draw(CONDITIONS), **action,
    )  # fmt: skip


@st.composite
def listeners_of(draw: st.DrawFn, name: str, port: int, names: list[str], backends: Any) -> Listener:
    if draw(st.booleans()):
        target = draw(st.sampled_from([b for b in backends.values() if b.protocol not in L7_BACKENDS]))
        return Listener(
            name, names[2], Protocol(target.protocol.value), port, target.name,
            established_timeout_s=draw(st.integers(10, 900)) if target.protocol is BackendProtocol.TCP else 900,
            udp_idle_timeout_s=draw(st.integers(10, 900)) if target.protocol is BackendProtocol.UDP else 300,
            persistence_timeout_s=draw(st.integers(1, 3600)),
            persistence_prefix=draw(st.integers(8, 32)),
            persistence_prefix_v6=draw(st.integers(8, 128)),
            mode=Mode.NAT, max_new_connections_per_s=draw(st.integers(0, 1_000_000)),
            max_connections=draw(st.sampled_from([0, 7])), bandwidth_in_mbit_s=draw(st.integers(0, 5120)),
            bandwidth_out_mbit_s=draw(st.integers(0, 5120)),
        )  # fmt: skip
    protocol = draw(st.sampled_from([Protocol.HTTP, Protocol.HTTPS]))
    certificates = st.lists(st.sampled_from(names[:4]), min_size=1, unique=True).map(tuple)
    tls: dict[str, Any] = {}
    if protocol is Protocol.HTTPS:
        tls = {"tls_policy": draw(st.sampled_from(TlsPolicy)), "hsts_max_age_s": 60, "hsts_include_subdomains": True}
        asked = {
            "ca_certificate": names[1], "client_certificate": draw(st.sampled_from(ClientCertificate)),
            "client_certificate_fields": draw(st.sampled_from(CertificateFields)),
        }  # fmt: skip
        tls |= draw(st.sampled_from([{}, asked]))
        issuers = [
            b.name for b in backends.values() if b.protocol is BackendProtocol.TCP and b.scheduler in L7_SCHEDULERS
        ]
        tls |= draw(st.sampled_from([{}, *({"acme_backend_service": name} for name in issuers)]))
    return Listener(
        name, draw(st.sampled_from(names[:2])), protocol, port, names[7],
        certificates=draw(certificates) if protocol is Protocol.HTTPS else (),
        idle_timeout_s=draw(st.integers(1, 60)), request_timeout_s=draw(st.integers(1, 180)),
        trusted_proxies=draw(NETWORKS), **tls,
        **draw(st.sampled_from([{}, {"acl": Acl.BLACK, "access_list": names[1]}])),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(models())
def test_what_is_written_is_read_back(model: Model) -> None:
    document = to_dict(model)
    assert from_dict(document) == model
    assert load(json.dumps(document), path="f", format="json") == model
    toml = to_toml(model)
    assert load(toml, path="f", format="toml") == model
    assert load(toml.replace("\n", "\r\n"), path="f", format="toml") == model


def test_the_check_of_a_udp_service_is_left_out_when_it_is_the_default() -> None:
    service: dict[str, Any] = {"name": "b", "protocol": "udp", "server_group": "g"}
    document = {"server_groups": [{"name": "g"}], "backend_services": [service]}
    assert to_dict(from_dict(document)) == document
    service["health_check"] = {"type": "tcp"}
    assert to_dict(from_dict(document)) == document


def test_toml_is_written_for_people() -> None:
    chain = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    model = from_dict(
        {
            "certificates": [{"name": "c", "chain": chain}],
            "server_groups": [{"name": "g", "servers": [{"address": "10.0.0.1", "port": 80, "weight": 100}]}],
            "backend_services": [
                {"name": "b", "protocol": "udp", "server_group": "g", "health_check": {"interval_s": 1}},
            ],
        }
    )
    assert (
        to_toml(model)
        == f'''[[certificates]]
name = "c"
chain = """
{chain}"""

[[server_groups]]
name = "g"
servers = [
  {{ address = "10.0.0.1", port = 80 }},
]

[[backend_services]]
name = "b"
protocol = "udp"
server_group = "g"
health_check = {{ type = "udp", interval_s = 1.0 }}
'''
    )


@pytest.mark.parametrize("path", ["/run/app.sock", "/run/a:b c/[::1]:80", "/" + "x" * 106])
def test_a_socket_as_a_server(path: str) -> None:
    listener = {"protocol": "http", "port": 80, "servers": [f"unix:{path}", "127.0.0.1:9"]}
    model = from_dict({"listeners": [listener]})
    assert model.server_groups["http-80"].servers == (Server(f"unix:{path}"), Server("127.0.0.1", 9))
    assert from_dict(to_dict(model)) == model


@pytest.mark.parametrize("path", ["", "/", "run/app.sock", "/run/", "/a\0b", "/a\nb", "/" + "x" * 107, "/" + "ä" * 54])
def test_what_is_no_socket(path: str) -> None:
    with pytest.raises(ConfigErrors, match="is not the path of a socket"):
        from_dict({"listeners": [{"protocol": "http", "port": 80, "servers": [f"unix:{path}"]}]})
