"""Invitations are used once and within their time, by the node they are for; who is revoked stays so until it joins."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control import membership
from control.membership import Member, MembershipError
from control.store_sqlite import SqliteStore

NOW = 1_000_000.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "control.db")
    yield opened
    await opened.close()


async def invited(store: SqliteStore, name: str = "l7-3", role: str = "l7", ttl_s: float = 3600) -> str:
    return (await membership.invite(store, role, name, ttl_s, "admin", NOW))[1]


async def refusal(store: SqliteStore, token: str, name: str = "", key: str = "k", now: float = NOW + 1) -> str:
    with pytest.raises(MembershipError) as caught:
        await membership.join(store, token, name, key, now)
    return str(caught.value)


async def test_a_token_makes_one_member_and_no_other(store: SqliteStore) -> None:
    token = await invited(store)
    member = await membership.join(store, token, "", "key-1", NOW + 1)
    assert member == Member("l7", "l7-3", 1, 1, NOW + 1, by="admin")
    assert "has been used" in await refusal(store, token, key="key-2")
    assert await membership.members(store) == [member]
    # An answer that was lost: the same key asks again, and is the same member.
    assert await membership.join(store, token, "l7-3", "key-1", NOW + 60) == member
    assert "has expired" in await refusal(store, token, key="key-1", now=NOW + 3600)


async def test_only_the_hash_of_a_token_is_kept(store: SqliteStore) -> None:
    token = await invited(store)
    (record,) = await store.records("joins")
    assert token not in f"{record.key}{record.value!r}"
    assert len(token) >= 32


@pytest.mark.parametrize(
    ("name", "asked", "why"),
    [
        ("l7-3", "l7-4", "is for the node l7-3"),
        ("l7-*", "", "give --name NAME"),
        ("l7-*", "l4-1", "does not fit l7-*"),
        ("l7-*", "l7-*", "give --name NAME"),
        ("l7-*", "l7-/../x", "give --name NAME"),
        ("*", "a" * 65, "give --name NAME"),
    ],
)
async def test_a_token_is_for_its_names(store: SqliteStore, name: str, asked: str, why: str) -> None:
    assert why in await refusal(store, await invited(store, name), asked)
    assert await membership.members(store) == []


async def test_within_a_pattern_the_node_chooses(store: SqliteStore) -> None:
    member = await membership.join(store, await invited(store, "l7-*"), "l7-99", "k", NOW + 1)
    assert (member.role, member.name) == ("l7", "l7-99")


@pytest.mark.parametrize(
    ("role", "name", "ttl_s"),
    [
        ("admin", "a", 3600),
        ("l7", "", 3600),
        ("l7", "a/b", 3600),
        ("l7", "a" * 65, 3600),
        ("l7", "a", 1),
    ],
    ids=["role", "no name", "slash", "long", "short time"],
)
async def test_what_cannot_be_invited(store: SqliteStore, role: str, name: str, ttl_s: float) -> None:
    with pytest.raises(MembershipError):
        await membership.invite(store, role, name, ttl_s, "admin", NOW)
    assert await store.records("joins") == ()


async def test_unknown_expired_and_cancelled_tokens_are_refused(store: SqliteStore) -> None:
    assert "is not known" in await refusal(store, "pfj_guess")
    assert "has expired" in await refusal(store, await invited(store, ttl_s=60), now=NOW + 60)
    called, token, _ = await membership.invite(store, "l7", "x", 60, "admin", NOW)
    await membership.cancel(store, called)
    assert "is not known" in await refusal(store, token)
    with pytest.raises(MembershipError, match="there is no invitation"):
        await membership.cancel(store, called)


async def test_invitations_that_are_long_over_are_forgotten(store: SqliteStore) -> None:
    await invited(store)
    await membership.invite(store, "l7", "new", 60, "admin", NOW + 3600 + membership.KEPT_AFTER_S + 1)
    assert [each.name for _, each in await membership.invitations(store)] == ["new"]


async def test_revoking_refuses_all_there_is_and_joining_begins_anew(store: SqliteStore) -> None:
    first = await membership.join(store, await invited(store), "", "k1", NOW + 1)
    revoked = await membership.revoke(store, "l7", "l7-3", "boss", NOW + 2)
    assert revoked.least == first.generation + 1
    assert (revoked.revoked, revoked.by) == (NOW + 2, "boss")
    assert await membership.revoke(store, "l7", "l7-3", "other", NOW + 3) == revoked
    with pytest.raises(MembershipError, match="has been revoked"):
        await membership.certified(store, "l7", "l7-3", first.generation, NOW + 3, NOW + 99)
    again = await membership.join(store, await invited(store), "", "k2", NOW + 4)
    assert again.generation == again.least > revoked.generation
    assert again.revoked == 0
    await membership.certified(store, "l7", "l7-3", again.generation, NOW + 5, NOW + 99)
    assert [each.ends for each in await membership.members(store)] == [NOW + 99]


async def test_a_used_token_brings_no_revoked_node_back(store: SqliteStore) -> None:
    token = await invited(store)
    await membership.join(store, token, "", "k1", NOW + 1)
    await membership.revoke(store, "l7", "l7-3", "boss", NOW + 2)
    assert "has been revoked" in await refusal(store, token, key="k1", now=NOW + 3)


async def test_an_identity_that_was_issued_by_hand_can_be_revoked_and_renewed(store: SqliteStore) -> None:
    await membership.certified(store, "keyserver", "key-1", 0, NOW, NOW + 9)
    member = await membership.revoke(store, "keyserver", "key-1", "boss", NOW)
    assert (member.generation, member.least) == (0, 1)
    with pytest.raises(MembershipError, match="ROLE/NAME"):
        await membership.revoke(store, "nobody", "x", "boss", NOW)


def test_warnings_come_when_a_node_should_have_renewed_long_ago() -> None:
    def member(ends: float, revoked: float = 0.0) -> Member:
        return Member("l7", "a", certified=NOW, ends=ends, revoked=revoked)

    def at(share: float) -> float:
        return NOW + 1000 * share

    assert membership.warnings([member(NOW + 1000)], at(0.7)) == []
    assert "ends in 3m" in membership.warnings([member(NOW + 1000)], at(0.81))[0]
    assert "has ended" in membership.warnings([member(NOW + 1000)], at(1.1))[0]
    assert membership.warnings([member(NOW + 1000, 1.0), Member("l7", "b")], at(1.1)) == []
