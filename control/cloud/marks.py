"""What an API's objects have that ours have not, kept in a tag whose key begins with `paifang:`. Pure.

It holds several texts by name, encoded as a query. Users' tags are the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, urlencode

OWN = "paifang:"
VALUE_MOST = 256

Tags = tuple[tuple[str, str], ...]


def kept(tags: Tags, key: str) -> Mapping[str, str]:
    """What is kept in the tag of this key."""
    return dict(parse_qsl(dict(tags).get(key, ""), keep_blank_values=True))


def packed(tags: Tags, key: str, changes: Mapping[str, str]) -> str | None:
    """What the tag is with this in it; an empty text removes. None where it is too long."""
    text = urlencode({name: value for name, value in {**kept(tags, key), **changes}.items() if value})
    return text if len(text) <= VALUE_MOST else None


def users(tags: Tags) -> Tags:
    """The tags of users."""
    return tuple((key, value) for key, value in tags if not key.startswith(OWN))


def matches(tags: Tags, wanted: Iterable[tuple[str, str]]) -> bool:
    """Whether all these tags are there; an empty value is any."""
    have = dict(users(tags))
    return all(key in have and (not value or have[key] == value) for key, value in wanted)
