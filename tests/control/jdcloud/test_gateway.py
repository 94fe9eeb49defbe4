"""Who is let in, and in which words the others are refused."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from urllib.parse import quote

import aiohttp
import pytest

from control.audit import HEAD, SPACE
from control.jdcloud import signature
from control.limits import Buckets
from control.roles import ApiRole
from tests.control.jdcloud.conftest import REGION, Cloud, RefusedByCloudError

Heads = dict[str, str]
LIST = f"/v1/regions/{REGION}/loadBalancers/"
USED = "This request has been served already; sign it again in another second."
NEW = json.dumps({"loadBalancerName": "shop"})


def signed(
    cloud: Cloud, method: str = "GET", path: str = LIST, body: str = "", key: tuple[str, str] | None = None,
    later_s: float = 0, region: str = REGION, service: str = "lb",
) -> Heads:  # fmt: skip
    """The heads of a request without a query, as the SDK signs them: by the documentation, not by our code."""
    identity, secret = key or cloud.key
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + later_s))
    scope = (at[:8], region, service, "jdcloud3_request")
    hashed = hashlib.sha256(body.encode()).hexdigest()
    heads = f"content-type:application/json\nhost:{cloud.address[0]}:{cloud.address[1]}\n"
    canonical = f"{method}\n{quote(path, safe='/~')}\n\n{heads}\ncontent-type;host\n{hashed}"
    text = f"JDCLOUD3-HMAC-SHA256\n{at}\n{'/'.join(scope)}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    made = signature.signature(text, secret, scope)
    return {
        "Authorization": f"JDCLOUD3-HMAC-SHA256 Credential={identity}/{'/'.join(scope)}, "
        f"SignedHeaders=content-type;host, Signature={made}",
        "x-jdcloud-date": at, "x-jdcloud-nonce": str(uuid.uuid4()), "x-jdcloud-content-sha256": hashed,
        "Content-Type": "application/json",
    }  # fmt: skip


async def ask(
    cloud: Cloud, heads: Heads, method: str = "GET", path: str = LIST, body: str = ""
) -> tuple[int, str, str]:
    """The status of HTTP, the word and the message of the error."""
    host, port = cloud.address
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{host}:{port}{path}", data=body or None, headers=heads) as answer,
    ):
        assert answer.headers["Cache-Control"] == "no-store"
        document = json.loads(await answer.text())
        assert document["requestId"] == answer.headers["x-jdcloud-request-id"]
        if answer.status == 200:
            assert set(document) == {"requestId", "result"}
            return 200, "", ""
        assert set(document["error"]) == {"code", "status", "message"}
        assert document["error"]["code"] == answer.status
        return answer.status, document["error"]["status"], document["error"]["message"]


async def test_a_read_is_served_once_for_its_nonce(cloud: Cloud) -> None:
    heads = signed(cloud)
    assert (await ask(cloud, heads))[0] == 200
    assert await ask(cloud, heads) == (401, "UNAUTHENTICATED", "The nonce has been used already.")
    assert (await ask(cloud, heads | {"x-jdcloud-nonce": "another"}))[0] == 200


async def test_a_change_is_served_once_whatever_its_nonce(cloud: Cloud, second: Cloud) -> None:
    """And by all control nodes: the other one has the same storage, and nothing in its memory."""
    second.address, there = cloud.address, second.address
    heads = signed(cloud, "POST", body=NEW)
    assert (await ask(cloud, heads, "POST", body=NEW))[0] == 200
    other = heads | {"x-jdcloud-nonce": "another"}
    assert await ask(cloud, other, "POST", body=NEW) == (401, "UNAUTHENTICATED", USED)
    second.address = there
    host = {"Host": f"{cloud.address[0]}:{cloud.address[1]}"}
    assert (await ask(second, other | host, "POST", body=NEW))[2] == USED
    assert len(cloud.plane.current.model.instances) == 1


@pytest.mark.parametrize("later_s", [-905, 905], ids=["old", "early"])
async def test_a_request_has_its_time(cloud: Cloud, later_s: float) -> None:
    status, word, message = await ask(cloud, signed(cloud, later_s=later_s))
    assert (status, word) == (401, "UNAUTHENTICATED")
    assert "fifteen minutes" in message


async def test_wrong_secrets_and_unknown_keys(cloud: Cloud) -> None:
    for key, told in (
        ((cloud.key[0], cloud.key[1][:-1] + "0"), "The signature is not right."),
        (("PFAK0000000000", cloud.key[1]), "The access key is not known."),
        (("JDC1234", "s"), "The access key is not known."),
    ):
        assert await ask(cloud, signed(cloud, key=key)) == (401, "UNAUTHENTICATED", told)
        with pytest.raises(RefusedByCloudError, match=told) as error:
            await cloud.call("describeLoadBalancers", key)
        assert (error.value.code, error.value.status) == (401, "UNAUTHENTICATED")


async def test_what_was_tampered_with_is_refused(cloud: Cloud) -> None:
    heads = signed(cloud, "POST", body=NEW)
    changed = NEW.replace("shop", "shot")
    rehashed = {"x-jdcloud-content-sha256": hashlib.sha256(changed.encode()).hexdigest()}
    wrong = "The signature is not right."
    assert (await ask(cloud, heads | rehashed, "POST", body=changed))[2] == wrong
    assert (await ask(cloud, heads, "POST", body=changed))[0] == 401
    assert (await ask(cloud, heads, "PATCH", body=NEW))[2] == wrong
    assert (await ask(cloud, heads, "POST", LIST + "lb-x:associateElasticIp", NEW))[2] == wrong
    assert (await ask(cloud, heads, "POST", LIST + "?a=b", NEW))[2] == wrong
    assert (await ask(cloud, heads | {"Host": "elsewhere"}, "POST", body=NEW))[2] == wrong
    later = signed(cloud, later_s=5)["x-jdcloud-date"]
    assert (await ask(cloud, heads | {"x-jdcloud-date": later}, "POST", body=NEW))[2] == wrong
    for scope in ({"region": "elsewhere"}, {"service": "vm"}):
        assert (await ask(cloud, signed(cloud, **scope)))[0] == 401
    assert (await ask(cloud, heads, "POST", body=NEW))[0] == 200  # and none of that has used it up


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("GET", "/v1/regions/elsewhere/loadBalancers/", "", "404 NOT_FOUND"),
        ("GET", "/v1/regions/cn-paifang/nothing", "", "404 NOT_FOUND"),
        ("GET", "/", "", "404 NOT_FOUND"),
        ("POST", LIST, "[]", "400 INVALID_ARGUMENT"),
        ("POST", LIST, "{", "400 INVALID_ARGUMENT"),
        ("POST", LIST, '{"loadBalancerName": "a", "loadBalancerName": "b"}', "400 INVALID_ARGUMENT"),
        ("POST", LIST, '{"loadBalancerName": "a", "colour": "red"}', "400 INVALID_ARGUMENT"),
        ("POST", LIST, '{"loadBalancerName": 7}', "400 INVALID_ARGUMENT"),
        ("POST", LIST, '{"loadBalancerName": "a", "regionId": "b"}', "400 INVALID_ARGUMENT"),
        ("POST", LIST, "[" * 20000, "400 INVALID_ARGUMENT"),
        ("POST", LIST, "a" * (1 << 18), "413 INVALID_ARGUMENT"),
    ],
    ids=["region", "path", "root", "list", "json", "twice", "unknown", "type", "other", "deep", "long"],
)
async def test_what_no_action_is(cloud: Cloud, method: str, path: str, body: str, told: str) -> None:
    status, word, _ = await ask(cloud, signed(cloud, method, path, body), method, path, body)
    assert f"{status} {word}" == told
    assert cloud.plane.current.model.instances == {}


@pytest.mark.parametrize("name", ["Authorization", "x-jdcloud-date", "x-jdcloud-nonce"])
async def test_what_has_to_be_there(cloud: Cloud, name: str) -> None:
    heads = signed(cloud)
    del heads[name]
    assert (await ask(cloud, heads))[0] in (400, 401)
    assert (await ask(cloud, signed(cloud)))[0] == 200


async def test_who_reads_cannot_change_and_the_audit_log_tells(cloud: Cloud) -> None:
    _, reader = await cloud.access_key("bob", ApiRole.READ)
    assert (await cloud.call("describeLoadBalancers", reader))["totalCount"] == 0
    with pytest.raises(RefusedByCloudError, match="this needs admin") as error:
        await cloud.call("createLoadBalancer", reader, loadBalancerName="a")
    assert (error.value.code, error.value.status) == (403, "PERMISSION_DENIED")
    made = (await cloud.call("createLoadBalancer", loadBalancerName="a"))["loadBalancerId"]
    told = [each.value.decode() for each in await cloud.plane.store.records(SPACE, "", 100) if each.key != HEAD]
    assert any("bob" in each and "/jdcloud/createLoadBalancer" in each and "403" in each for each in told)
    assert any("ann" in each and f"instances/{made}" in each for each in told)


async def test_who_guesses_has_to_wait(cloud: Cloud) -> None:
    cloud.access.of_failures = Buckets(0.001, 2, 10)
    codes = [(await ask(cloud, signed(cloud, key=(cloud.key[0], "guess"))))[0] for _ in range(4)]
    assert codes == [401, 401, 429, 429]
