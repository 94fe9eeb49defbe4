"""What a field of an object may hold, and the names that objects and fields are checked by.

A field's annotation carries it: `Annotated[int, Range(1, 65535)]`. The reader of configurations, the API, the console
and the reference page (`core.reader`, `core.reference`) validate and explain from that one definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Range:
    """An inclusive numeric range, with the unit that messages show."""

    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that the whole string must match, and what to call it in a message.

    It stands in the API's OpenAPI document too and has to mean the same to Python and to ECMA 262 with the flag u: no
    \\d (Python's has the digits of all scripts), no (?s), no \\U escapes.
    """

    regex: str
    what: str


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address (`network=False`) or prefix (`network=True`) of one of `versions`; with `unix`, "unix:/PATH" too.

    What is read is the canonical text: of IPv6 that of RFC 5952, so that equal addresses are equal strings.
    """

    network: bool = False
    versions: tuple[int, ...] = (4, 6)
    unix: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """A table of strings by key, at most `most` of them. What is read is a tuple of its pairs, in the order of keys."""

    key: Pattern
    value: Pattern
    most: int


@dataclass(frozen=True, slots=True)
class Ref:
    """The name of an object of `kind`, which has to exist."""

    kind: Kind


class Kind(StrEnum):
    """The kinds of object, in the order in which they may be created: what is referred to comes first."""

    NODES = "nodes"
    CERTIFICATES = "certificates"
    CA_CERTIFICATES = "ca_certificates"
    SERVER_GROUPS = "server_groups"
    AVAILABILITY_GROUPS = "availability_groups"
    BACKEND_SERVICES = "backend_services"
    AUTHENTICATIONS = "authentications"
    ACCESS_LISTS = "access_lists"
    REDIRECT_MAPS = "redirect_maps"
    INSTANCES = "instances"
    LISTENERS = "listeners"
    RULES = "rules"


NAME = Pattern(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", "a name: letters, digits, '.', '_', '-', at most 80")
HOST_NAME = (
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)
GRPC_SERVICE = Pattern(r"[A-Za-z0-9_./-]{0,200}", "a service of gRPC such as 'shop.Cart', or nothing")
DOMAIN = Pattern(rf"(\*\.)?{HOST_NAME}", "a host name, or '*.' and a host name")
URL_PREFIX = Pattern(r"/[!-~]{0,1023}", "a path that starts with '/'")
URL_PATH = Pattern(r"/[!-~]{0,1023}", "a path that starts with '/'")
PATH_PATTERN = Pattern(
    r"|/[!-~]{0,1023}", "a path in which * stands for characters of one segment, and ** at its end for all that follows"
)
FILE_PATH = Pattern(r"|/[^\x00-\x1f\x7f]{1,1023}", "an absolute path such as /etc/paifang/members.toml")
METHOD = Pattern(r"[A-Z][A-Z-]{0,31}", "a method in capitals, such as GET")
CONDITION_NAME = Pattern(r"[^\x00-\x20\x7f]{1,128}", "a name without blanks, of at most 128 characters")
CONDITION_VALUE = Pattern(
    r"[^\x00-\x1f\x7f]{0,128}", "text of at most 128 characters, in which * stands for any characters and ? for one"
)
# What stands in a place of `Redirect` as it is; `$` begins a variable.
_HOST_CHARACTER, _PATH_CHARACTER = r"[A-Za-z0-9._-]", r"(?![$?#\\])[!-~]"
HOST_TEMPLATE = Pattern(rf"({_HOST_CHARACTER}|\$\{{host\}}){{1,253}}", "a host name, in which ${host} may stand")
PATH_TEMPLATE = Pattern(
    rf"(/|\$\{{(path|rest)\}})({_PATH_CHARACTER}|\$\{{(host|path|rest|[1-9])\}}){{0,1023}}",
    "a path that starts with '/', ${path} or ${rest}, and in which ${host} and ${1} may stand too",
)
QUERY_TEMPLATE = Pattern(
    rf"({_PATH_CHARACTER}|\?|\$\{{(host|path|rest|query|[1-9])\}}){{0,1024}}",
    "a query, in which ${host}, ${path}, ${rest}, ${query} and ${1} may stand",
)
# The name is a token, RFC 9110 §5.6.2.
RESOLVER = Pattern(
    r"([0-9.]{7,15}|\[[0-9A-Fa-f:.]{2,45}\]):[1-9][0-9]{0,4}", "an address and port such as '127.0.0.1:53'"
)
HASH_KEY = Pattern(
    r"source|path|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", "source, path, header:NAME or cookie:NAME"
)
_CODES = "([1-5][0-9]{2}(-[1-5][0-9]{2})?|[1-5]xx)"
CODES = Pattern(rf"{_CODES}(,{_CODES})*", "status codes such as 200,202-207,4xx")

Name = Annotated[str, NAME]
Port = Annotated[int, Range(1, 65535)]
IP = Annotated[str, Address()]
IPv6 = Annotated[str, Address(versions=(6,))]
IPNetwork = Annotated[str, Address(network=True)]
# As Alibaba Cloud's: twenty tags of 64 and 256 characters.
Description = Annotated[str, Pattern(r"[^\x00-\x1f\x7f]{0,256}", "one line of at most 256 characters")]
Tags = Annotated[
    tuple[tuple[str, str], ...],
    Pairs(
        Pattern(r"[^\x00-\x1f\x7f]{1,64}", "a key of 1 to 64 characters, on one line"),
        Pattern(r"[^\x00-\x1f\x7f]{0,256}", "one line of at most 256 characters"),
        20,
    ),
]
