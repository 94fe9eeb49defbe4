"""What the API's objects have that ours have not, kept in tags whose keys begin with `paifang:`. Pure.

An object has one, `paifang:slb`, with what it holds encoded as a query; a listener one for each domain extension, too.
Users' tags are the others; they can neither see nor set these by the API.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from control.alibaba.errors import SlbError, denied
from control.cloud.marks import OWN, Tags, kept, matches, packed, users

__all__ = [
    "Tags", "mark", "marked", "matches", "shown", "tagged", "untagged", "users",
]  # fmt: skip

KEY = "paifang:slb"
RESERVED = (OWN, "aliyun", "acs:", "http://", "https://")
MOST = 20


def shown(tags: Tags) -> list[dict[str, str]]:
    """The tags of users, as answers have them."""
    return [{"TagKey": key, "TagValue": value} for key, value in tags if not key.startswith(OWN)]


def mark(tags: Tags) -> Mapping[str, str]:
    """What is kept in `paifang:slb`."""
    return kept(tags, KEY)


def marked(tags: Tags, **changes: str) -> Tags:
    """The tags with this kept in them; an empty text removes. Raises SlbError."""
    text = packed(tags, KEY, changes)
    if text is None:
        raise SlbError("InvalidParameter", 400, "The texts given are too long to be kept.")
    return _with(tags, {KEY: text} if text else {}, {KEY})


def tagged(tags: Tags, new: Iterable[tuple[str, str]]) -> Tags:
    """The tags with more of a user's. Raises SlbError."""
    added = dict(new)
    for key in added:
        _check(key)
    return _with(tags, added, set())


def untagged(tags: Tags, keys: Iterable[str]) -> Tags:
    """The tags without these of a user. Raises SlbError."""
    gone = set(keys)
    for key in gone:
        _check(key)
    return tuple((key, value) for key, value in tags if key not in gone)


def _check(key: str) -> None:
    if key.lower().startswith(RESERVED):
        raise SlbError("InvalidTagKey.Malformed", 400, f"A tag's key does not begin with {', '.join(RESERVED)}.")


def _with(tags: Tags, new: Mapping[str, str], gone: set[str]) -> Tags:
    result = {key: value for key, value in tags if key not in gone} | dict(new)
    if len(result) > MOST:
        raise denied(f"An object has at most {MOST} tags, those of its own included.")
    return tuple(sorted(result.items()))
