"""Tokens in a store: who is let in, what they may give, and that two who change one do not undo each other."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control import tokens as module
from control.roles import ApiRole
from control.store import Store, Write
from control.store_sqlite import SqliteStore
from control.token_format import again, digest, made
from control.token_record import BeyondRightsError, NoSuchTokenError, Token, TokenError, decoded, document, encoded
from control.tokens import KEPT_AFTER_END_S, SPACE, USED_EVERY_S, Refusal, Refused, Tokens, set_token


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await SqliteStore.open(tmp_path / "db")
    yield store
    await store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(store: Store, clock: Clock) -> Tokens:
    return Tokens(store, clock)


@pytest.fixture
async def admin(tokens: Tokens) -> Token:
    return (await tokens.make_own("admin", "here"))[0]


async def admitted(tokens: Tokens, text: str) -> str:
    """The name, or why not."""
    found = await tokens.find(text)
    return found.name if isinstance(found, Token) else found.why.value


async def test_a_token_is_known_by_its_text_alone(tokens: Tokens, admin: Token, store: Store) -> None:
    token, text = await tokens.create("ci", ApiRole.OPERATE, admin)
    assert await tokens.find(text) == token
    assert (token.role, token.creator, token.creator_id, token.expires) == (ApiRole.OPERATE, "admin", admin.id, None)
    kept = b"".join(record.value for record in await store.records(SPACE))
    assert text.encode() not in kept
    assert text[-49:-6].encode() not in kept
    for shown in (token.hash, text):
        assert shown not in json.dumps(document(token))
    other = made(0, 5)[1]
    wrong = await tokens.find(text[:14] + other[14:])
    assert isinstance(wrong, Refused)
    assert wrong.why is Refusal.MALFORMED, "the checksum is of another ID"
    _, forged = made(0, 5)
    assert await admitted(tokens, forged) == "unknown"
    assert await admitted(tokens, "x") == "unknown"
    assert await admitted(tokens, "pft_x") == "malformed"


async def test_the_secret_is_compared_and_not_the_id(tokens: Tokens, admin: Token) -> None:
    token, _ = await tokens.create("ci", ApiRole.READ, admin)
    forged = again(token.id, 1)
    refused = await tokens.find(forged)
    assert isinstance(refused, Refused)
    assert (refused.why, refused.id) == (Refusal.UNKNOWN, token.id)


@pytest.mark.parametrize(
    ("role", "lifetime_s", "asked", "wanted_s", "told"),
    [
        (ApiRole.OPERATE, None, ApiRole.ADMIN, None, "it can give no token of role admin"),
        (ApiRole.READ, None, ApiRole.OPERATE, None, "it can give no token of role operate"),
        (ApiRole.ADMIN, 100, ApiRole.READ, 101, "cannot outlive the one that made it"),
        (ApiRole.ADMIN, 100, ApiRole.READ, 100, ""),
        (ApiRole.ADMIN, None, ApiRole.ADMIN, None, ""),
        (ApiRole.OPERATE, None, ApiRole.OPERATE, 10, ""),
    ],
)
async def test_nobody_gives_more_than_he_has(
    tokens: Tokens, admin: Token, clock: Clock, role: ApiRole, lifetime_s: int | None, asked: ApiRole,
    wanted_s: int | None, told: str,
) -> None:  # fmt: skip
    giver, _ = await tokens.create("giver", role, admin, lifetime_s and clock.now + lifetime_s)
    expires = wanted_s and clock.now + wanted_s
    if told:
        with pytest.raises(BeyondRightsError, match=told):
            await tokens.create("new", asked, giver, expires)
    else:
        assert (await tokens.create("new", asked, giver, expires))[0].expires == expires


async def test_without_an_end_it_ends_with_its_creator(tokens: Tokens, admin: Token, clock: Clock) -> None:
    giver, _ = await tokens.create("giver", ApiRole.ADMIN, admin, clock.now + 100)
    token, text = await tokens.create("new", ApiRole.READ, giver)
    assert token.expires == clock.now + 100
    clock.now += 99
    assert await admitted(tokens, text) == "new"
    clock.now += 1
    assert await admitted(tokens, text) == "expired"
    with pytest.raises(BeyondRightsError, match="outlive"):
        await tokens.rotate(admin.id, giver, 0)


async def test_names_are_there_once(tokens: Tokens, admin: Token, clock: Clock) -> None:
    first, _ = await tokens.create("ci", ApiRole.READ, admin, clock.now + 10)
    with pytest.raises(TokenError, match="there is a token 'ci' already; give another name"):
        await tokens.create("ci", ApiRole.READ, admin)
    clock.now += 10
    await tokens.create("ci", ApiRole.READ, admin)
    clock.now += KEPT_AFTER_END_S + 1
    assert await tokens.get(first.id) is not None, "who looks for it finds that it has expired"
    await tokens.create("other", ApiRole.READ, admin)
    assert await tokens.get(first.id) is None
    with pytest.raises(TokenError, match="would have expired already"):
        await tokens.create("late", ApiRole.READ, admin, clock.now)


async def test_there_is_a_limit(tokens: Tokens, admin: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKEN_LIMIT", 3)
    for name in "ab":
        await tokens.create(name, ApiRole.READ, admin)
    with pytest.raises(TokenError, match="there are 3 tokens, the limit"):
        await tokens.create("c", ApiRole.READ, admin)
    await tokens.make_own("admin", "here")  # in its own place


async def test_a_rotated_token_keeps_its_id_and_the_secret_before_for_a_while(
    tokens: Tokens, admin: Token, clock: Clock
) -> None:
    token, first = await tokens.create("ci", ApiRole.READ, admin)
    again, second = await tokens.rotate(token.id, admin, 60)
    assert (again.id, again.role, again.created, again.rotated) == (token.id, token.role, token.created, clock.now)
    assert [await admitted(tokens, text) for text in (first, second)] == ["ci", "ci"]
    clock.now += 60
    assert [await admitted(tokens, text) for text in (first, second)] == ["unknown", "ci"]
    _, third = await tokens.rotate(token.id, again, 0)
    assert [await admitted(tokens, text) for text in (second, third)] == ["unknown", "ci"]
    with pytest.raises(NoSuchTokenError, match="there is no token 'nothing'; `paifang token list`"):
        await tokens.rotate("nothing", admin, 0)


async def test_a_revoked_token_is_good_for_nothing(tokens: Tokens, admin: Token) -> None:
    token, text = await tokens.create("ci", ApiRole.READ, admin)
    assert (await tokens.revoke(token.id)).id == token.id
    assert await admitted(tokens, text) == "unknown"
    with pytest.raises(NoSuchTokenError):
        await tokens.revoke(token.id)


async def test_the_last_administrator_stays(tokens: Tokens, admin: Token, clock: Clock) -> None:
    await tokens.create("reader", ApiRole.READ, admin)
    await tokens.create("gone", ApiRole.ADMIN, admin, clock.now + 1)
    clock.now += 1
    with pytest.raises(TokenError, match="'admin' is the last token that may make others"):
        await tokens.revoke(admin.id)
    await tokens.create("second", ApiRole.ADMIN, admin)
    await tokens.revoke(admin.id)


async def test_of_two_administrators_who_revoke_each_other_one_stays(tokens: Tokens, admin: Token) -> None:
    second, _ = await tokens.create("second", ApiRole.ADMIN, admin)
    told = await asyncio.gather(*(tokens.revoke(each.id) for each in (admin, second)), return_exceptions=True)
    assert [type(each) for each in told].count(TokenError) == 1, told
    assert len(await tokens.all()) == 1


async def test_a_token_rotates_itself_now_and_then_only(tokens: Tokens, admin: Token, clock: Clock) -> None:
    token, _ = await tokens.create("reader", ApiRole.READ, admin)
    await tokens.rotate(token.id, token, 0)
    clock.now += module.ROTATE_AGAIN_S - 1
    with pytest.raises(TokenError, match="has been rotated just now"):
        await tokens.rotate(token.id, token, 0)
    await tokens.rotate(token.id, admin, 0)
    clock.now += module.ROTATE_AGAIN_S
    await tokens.rotate(token.id, token, 0)


async def test_use_is_noted_now_and_then(tokens: Tokens, admin: Token, clock: Clock, store: Store) -> None:
    _, text = await tokens.create("ci", ApiRole.READ, admin)

    async def use(address: str) -> Token:
        token = await tokens.find(text)
        assert isinstance(token, Token)
        await tokens.note_use(token, address)
        found = await tokens.get(token.id)
        assert found is not None
        return found

    start = clock.now
    assert ((first := await use("192.0.2.1")).used, first.used_from) == (start, "192.0.2.1")
    clock.now += USED_EVERY_S - 1
    assert ((first := await use("192.0.2.2")).used, first.used_from) == (start, "192.0.2.1")
    clock.now += 1
    assert ((first := await use("192.0.2.2")).used, first.used_from) == (clock.now, "192.0.2.2")


async def test_noting_use_never_brings_a_token_back(
    tokens: Tokens, admin: Token, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is revoked between the reading and the writing; the same for one that is rotated."""
    token, text = await tokens.create("ci", ApiRole.READ, admin)
    write = store.write

    async def revoke_first(*changes: Write) -> int:
        monkeypatch.setattr(store, "write", write)
        await tokens.revoke(token.id)
        return await write(*changes)

    monkeypatch.setattr(store, "write", revoke_first)
    await tokens.note_use(token, "192.0.2.1")
    assert await tokens.get(token.id) is None
    assert await admitted(tokens, text) == "unknown"


async def test_two_who_rotate_at_once_both_get_what_is_true(tokens: Tokens, admin: Token, store: Store) -> None:
    """The last one's secret is good; the other's answer was true when it was given."""
    token, _ = await tokens.create("ci", ApiRole.READ, admin)
    others = Tokens(store, tokens.now)
    results = await asyncio.gather(*(each.rotate(token.id, admin, 0) for each in (tokens, others)))
    assert sorted([await admitted(tokens, text) for _, text in results]) == ["ci", "unknown"]


async def test_tokens_of_an_earlier_release_go_on(store: Store, tokens: Tokens, admin: Token) -> None:
    old = {"hash": digest("open-sesame"), "created": 11.5}
    await store.write(Write(SPACE, "admin", json.dumps(old).encode()))
    assert await tokens.adopt_old() == 1
    assert await tokens.adopt_old() == 0
    found = await tokens.find("open-sesame")
    assert isinstance(found, Token)
    assert (found.name, found.role, found.created) == ("admin", ApiRole.ADMIN, 11.5)
    with pytest.raises(TokenError, match="cannot be rotated; make another one and revoke it"):
        await tokens.rotate(found.id, admin, 0)
    await tokens.revoke(found.id)
    assert await admitted(tokens, "open-sesame") == "unknown"


async def test_set_token_replaces_its_own(store: Store, tokens: Tokens) -> None:
    first, second = await set_token(store, "ann"), await set_token(store, "ann")
    assert [await admitted(tokens, text) for text in (first, second)] == ["unknown", "ann"]


async def test_the_role_of_a_later_release_lets_nobody_in_by_mistake(admin: Token) -> None:
    kept = json.loads(encoded(admin))
    assert decoded(admin.id, json.dumps({**kept, "colour": "red"}).encode()) == admin
    with pytest.raises(ValueError, match="emperor"):
        decoded(admin.id, json.dumps({**kept, "role": "emperor"}).encode())
