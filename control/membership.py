"""Who may join the cluster, who has, and who is refused: records of the spaces `joins` and `nodes`.

An *invitation* is for one node of a role and name (or a name within a pattern: `l7-*`), for a while, by a token of 192
random bits of which only the SHA-256 is kept. It is used once: by one key. That key may ask again within the
invitation's time, so that an answer that is lost, or a control plane that dies in between, costs no second invitation.

A *member* is a node by role and name. Each time that it joins, its `generation` grows; certificates of generations
before the `least` are refused by everybody (control.node.identity). So joining anew ends what the name had before, and
revoking is to raise the least beyond every certificate that exists. Identities that `paifang certs issue` has made are
of generation 0 and have no record until they are renewed or revoked.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from certs.authority import MAX_COMMON_NAME, ROLES
from control.durations import shown
from control.store import Record, RecordConflictError, Store, Write

JOINS, NODES = "joins", "nodes"
TOKEN_BYTES = 24
TTL_S = (60, 7 * 86_400)
ID_CHARACTERS = 12
PATTERN = re.compile(rf"[A-Za-z0-9*][A-Za-z0-9._*-]{{0,{MAX_COMMON_NAME - 1}}}")
NODE_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_COMMON_NAME - 1}}}")
TRIES = 5  # to write what somebody else changes at the same time
SOON_SHARE = 0.2  # of its life: a node renews when a third is left
KEPT_AFTER_S = 86_400.0  # invitations that are over are shown for so long


class MembershipError(Exception):
    """What was asked for is refused; the text has the remedy. `status` is that of HTTP."""

    def __init__(self, text: str, status: int = 409) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Invitation:
    """`name` may have `*`. Times are Unix time. `key` (SHA-256) and `node` are of whoever has used it."""

    role: str
    name: str
    created: float
    expires: float
    by: str
    key: str = ""
    node: str = ""
    used: float = 0.0


@dataclass(frozen=True, slots=True)
class Member:
    """A node. `certified`, `ends`: of its last certificate. `revoked`: when, 0 for not."""

    role: str
    name: str
    generation: int = 0
    least: int = 0
    joined: float = 0.0
    certified: float = 0.0
    ends: float = 0.0
    revoked: float = 0.0
    by: str = ""

    @property
    def key(self) -> str:
        return f"{self.role}/{self.name}"


def invitation_id(key: str) -> str:
    """How an invitation is called: the beginning of its record's key, which is the hash of its token."""
    return key[:ID_CHARACTERS]


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read(record: Record, cls: type[Any]) -> Any:
    return cls(**json.loads(record.value))


def _write(space: str, key: str, value: Any, expected: int | None) -> Write:
    return Write(space, key, json.dumps(asdict(value)).encode(), expected)


async def _all(store: Store, space: str) -> list[Record]:
    found: list[Record] = []
    while page := await store.records(space, found[-1].key if found else ""):
        found += page
    return found


# --- invitations


async def invite(store: Store, role: str, name: str, ttl_s: float, by: str, now: float) -> tuple[str, str, Invitation]:
    """Make an invitation: its id, its token, and what it is. Raises MembershipError."""
    if role not in ROLES:
        raise MembershipError(f"role {role!r}: give one of {', '.join(ROLES)}", 422)
    if not PATTERN.fullmatch(name):
        what = f"letters, digits, '.', '_', '-' and '*', at most {MAX_COMMON_NAME}"
        raise MembershipError(f"name {name!r}: give {what}", 422)
    if not TTL_S[0] <= ttl_s <= TTL_S[1]:
        raise MembershipError(f"ttl_s {ttl_s:g}: give {TTL_S[0]} to {TTL_S[1]} seconds", 422)
    token = "pfj_" + secrets.token_urlsafe(TOKEN_BYTES)
    made = Invitation(role, name, now, now + ttl_s, by)
    over = [key for key, each in await invitations(store) if each.expires + KEPT_AFTER_S < now]
    gone = [Write(JOINS, key, None) for key in over[:50]]
    await store.write(_write(JOINS, _hash(token), made, 0), *gone)
    return invitation_id(_hash(token)), token, made


async def invitations(store: Store) -> list[tuple[str, Invitation]]:
    """All that are known, by the key of their record."""
    return [(record.key, _read(record, Invitation)) for record in await _all(store, JOINS)]


async def cancel(store: Store, called: str) -> Invitation:
    """Delete an invitation. Raises MembershipError."""
    for key, each in await invitations(store):
        if invitation_id(key) == called:
            await store.write(Write(JOINS, key, None))
            return each
    raise MembershipError(f"there is no invitation {called!r}; `paifang node invitations` lists them", 404)


async def join(store: Store, token: str, name: str, key: str, now: float) -> Member:
    """Use an invitation for the node `name` (empty: the one of the invitation) with this key (SHA-256 in hexadecimal).

    The member as it is to be certified. Raises MembershipError.
    """
    for _ in range(TRIES):
        record = await store.record(JOINS, _hash(token))
        if record is None:
            raise MembershipError("this token is not known; `paifang node invite` makes one", 403)
        invitation: Invitation = _read(record, Invitation)
        called = _name(invitation, name)
        if now >= invitation.expires:
            raise MembershipError("this token has expired; `paifang node invite` makes another", 403)
        if invitation.key and (invitation.key, invitation.node) != (key, called):
            raise MembershipError("this token has been used; `paifang node invite` makes another", 403)
        before = await store.record(NODES, f"{invitation.role}/{called}")
        member: Member = Member(invitation.role, called) if before is None else _read(before, Member)
        if invitation.key:
            if member.revoked or member.joined != invitation.used:
                raise MembershipError("this token has been used, and the node has been revoked or joined since", 403)
            return member
        generation = max(member.generation, member.least) + 1
        member = replace(
            member, generation=generation, least=generation, joined=now, revoked=0.0, by=invitation.by, ends=0.0
        )
        used = replace(invitation, key=key, node=called, used=now)
        try:
            await store.write(
                _write(JOINS, record.key, used, record.revision),
                _write(NODES, member.key, member, before.revision if before else 0),
            )
        except RecordConflictError:
            continue
        return member
    raise MembershipError("others join at the same time; try again", 503)


def _name(invitation: Invitation, name: str) -> str:
    """The node's name. Raises MembershipError."""
    if "*" not in invitation.name:
        if name and name != invitation.name:
            raise MembershipError(f"this token is for the node {invitation.name}, not for {name!r}", 403)
        return invitation.name
    if not NODE_NAME.fullmatch(name):
        raise MembershipError(f"this token lets the node choose: give --name NAME, such as {invitation.name}", 422)
    if not fnmatchcase(name, invitation.name):
        raise MembershipError(f"{name!r} does not fit {invitation.name}, which this token is for", 403)
    return name


# --- members


async def members(store: Store) -> list[Member]:
    """Who has joined, has been renewed or revoked, by role and name."""
    return [_read(record, Member) for record in await _all(store, NODES)]


async def certified(store: Store, role: str, name: str, generation: int, now: float, ends: float) -> None:
    """Note until when a member's certificate is valid. Raises MembershipError where it has been refused meanwhile."""
    for _ in range(TRIES):
        record = await store.record(NODES, f"{role}/{name}")
        member: Member = Member(role, name) if record is None else _read(record, Member)
        if generation < member.least:
            raise MembershipError(f"{role} {name} has been revoked, or has joined anew since", 403)
        try:
            await store.write(
                _write(NODES, member.key, replace(member, certified=now, ends=ends), record.revision if record else 0)
            )
        except RecordConflictError:
            continue
        return
    raise MembershipError("the record changes all the time; try again", 503)


async def revoke(store: Store, role: str, name: str, by: str, now: float) -> Member:
    """Refuse every certificate of a node that exists; it may join again with a new token. Raises MembershipError."""
    if role not in ROLES or not NODE_NAME.fullmatch(name):
        raise MembershipError(f"{role}/{name}: give ROLE/NAME, the role one of {', '.join(ROLES)}", 422)
    for _ in range(TRIES):
        record = await store.record(NODES, f"{role}/{name}")
        member: Member = Member(role, name) if record is None else _read(record, Member)
        if member.revoked:
            return member
        member = replace(member, least=max(member.generation, member.least) + 1, revoked=now, by=by)
        try:
            await store.write(_write(NODES, member.key, member, record.revision if record else 0))
        except RecordConflictError:
            continue
        return member
    raise MembershipError("the record changes all the time; try again", 503)


def warnings(known: Iterable[Member], now: float) -> list[str]:
    """What an operator should know of identities: those that end soon, which nodes renew long before."""
    found = []
    for member in known:
        left_s = member.ends - now
        if member.revoked or not member.ends or left_s > (member.ends - member.certified) * SOON_SHARE:
            continue
        text = "has ended" if left_s < 0 else f"ends in {shown(left_s)}"
        remedy = "see why it is not renewed (its log, `paifang control --ca`), or let it join again"
        found.append(f"the identity of {member.role} {member.name} {text}: {remedy}")
    return found
