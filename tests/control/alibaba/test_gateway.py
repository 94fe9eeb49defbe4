"""Who is let in, and in which words the others are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import aiohttp
import pytest
from aliyunsdkcore.acs_exception.exceptions import ServerException
from darabonba.exceptions import DaraException

from control.alibaba.signature import canonical_query
from control.audit import HEAD, SPACE
from control.limits import Buckets
from control.roles import ApiRole
from control.store import StoreUnavailableError
from tests.control.alibaba.conftest import REGION, Cloud

Pairs = dict[str, str]


def signed(cloud: Cloud, key: tuple[str, str] | None = None, method: str = "GET", **parameters: str) -> Pairs:
    """Parameters and their signature of version 1.0."""
    identity, secret = key or cloud.key
    found = {
        "Action": "DescribeRegions", "Version": "2014-05-15", "AccessKeyId": identity, "Format": "JSON",
        "SignatureMethod": "HMAC-SHA1", "SignatureVersion": "1.0", "SignatureNonce": f"{time.monotonic_ns()}",
        "Timestamp": stamp(0), **parameters,
    }  # fmt: skip
    to_sign = f"{method}&%2F&{quote(canonical_query(found), safe='~')}"
    made = hmac.new(f"{secret}&".encode(), to_sign.encode(), hashlib.sha1).digest()
    return found | {"Signature": base64.b64encode(made).decode()}


def stamp(later_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + later_s))


async def ask(cloud: Cloud, query: Pairs | str, method: str = "GET", data: bytes | None = None) -> tuple[int, str]:
    text = query if isinstance(query, str) else urlencode(query)
    host, port = cloud.address
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{host}:{port}/?{text}", data=data) as answer,
    ):
        assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", answer.headers["x-acs-request-id"])
        assert answer.headers["Cache-Control"] == "no-store"
        return answer.status, await answer.text()


async def code(cloud: Cloud, query: Pairs | str, method: str = "GET") -> tuple[int, str]:
    status, text = await ask(cloud, query, method)
    document = json.loads(text)
    assert set(document) >= {"RequestId", "HostId", "Code", "Message"}
    return status, document["Code"]


async def test_answers_come_as_json_and_as_xml(cloud: Cloud) -> None:
    status, text = await ask(cloud, signed(cloud))
    assert status == 200
    row = {"RegionId": REGION, "LocalName": REGION, "RegionEndpoint": "slb.example"}
    assert json.loads(text)["Regions"] == {"Region": [row]}
    status, text = await ask(cloud, signed(cloud, Format="XML"))
    root = ElementTree.fromstring(text)
    assert (status, root.tag) == (200, "DescribeRegionsResponse")
    assert root.findtext("Regions/Region/RegionId") == REGION
    assert root.findtext("RequestId")
    status, text = await ask(cloud, signed(cloud, Format="XML", RegionId="<&>"))
    root = ElementTree.fromstring(text)
    assert (status, root.tag, root.findtext("Code")) == (404, "Error", "InvalidRegionId.NotFound")
    assert root.findtext("HostId") == f"{cloud.address[0]}:{cloud.address[1]}"


async def test_a_body_may_have_the_parameters(cloud: Cloud) -> None:
    data = urlencode(signed(cloud, method="POST")).encode()
    host, port = cloud.address
    async with aiohttp.ClientSession() as session:
        heads = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        async with session.post(f"http://{host}:{port}/", data=data, headers=heads) as answer:
            assert answer.status == 200
        async with session.post(f"http://{host}:{port}/", data=b"a" * (1 << 18), headers=heads) as answer:
            assert answer.status == 413


async def test_a_request_is_served_once(cloud: Cloud) -> None:
    query = signed(cloud)
    assert (await ask(cloud, query))[0] == 200
    assert await code(cloud, query) == (400, "SignatureNonceUsed")
    assert (await ask(cloud, signed(cloud)))[0] == 200


async def test_a_change_is_served_once_by_all_control_nodes(cloud: Cloud, second: Cloud) -> None:
    """The other one has the same storage, and nothing in its memory; as this one after a restart."""
    query = signed(cloud, Action="CreateLoadBalancer")
    assert (await ask(cloud, query))[0] == 200
    assert await code(second, query) == (400, "SignatureNonceUsed")
    assert len(cloud.plane.current.model.instances) == 1


@pytest.mark.parametrize("later_s", [-901, 905], ids=["old", "early"])
async def test_a_request_has_its_time(cloud: Cloud, later_s: float) -> None:
    assert await code(cloud, signed(cloud, Timestamp=stamp(later_s))) == (400, "InvalidTimeStamp.Expired")


async def test_wrong_secrets_and_unknown_keys(cloud: Cloud) -> None:
    wrong = (cloud.key[0], cloud.key[1][:-1] + "0")
    unknown = ("PFAK0000000000", cloud.key[1])
    assert await code(cloud, signed(cloud, wrong)) == (400, "SignatureDoesNotMatch")
    assert await code(cloud, signed(cloud, unknown)) == (404, "InvalidAccessKeyId.NotFound")
    assert await code(cloud, signed(cloud, ("LTAIxyz", "s"))) == (404, "InvalidAccessKeyId.NotFound")
    with pytest.raises(ServerException) as old:
        await cloud.old("DescribeRegions", wrong)
    # The older SDK compares the text that we would have signed with its own, and finds the secret to be wrong.
    assert old.value.error_code == "InvalidAccessKeySecret"
    with pytest.raises(DaraException) as new:
        await cloud.new("DescribeRegions", wrong)
    assert new.value.code == "SignatureDoesNotMatch"


async def test_what_was_tampered_with_is_refused(cloud: Cloud) -> None:
    query = signed(cloud)
    for name in ("Action", "Timestamp", "SignatureNonce", "RegionId"):
        changed = query | {name: stamp(5) if name == "Timestamp" else "DescribeZones"}
        assert await code(cloud, changed) == (400, "SignatureDoesNotMatch")
    assert (await ask(cloud, query))[0] == 200  # and none of that has used the nonce up


async def test_who_guesses_has_to_wait_and_others_do_not(cloud: Cloud) -> None:
    cloud.access.of_failures = Buckets(0.001, 2, 10)
    wrong = (cloud.key[0], "guess")
    codes = [(await code(cloud, signed(cloud, wrong)))[1] for _ in range(4)]
    assert codes == ["SignatureDoesNotMatch"] * 2 + ["Throttling"] * 2
    assert (await ask(cloud, signed(cloud)))[0] == 200


async def test_an_access_key_has_the_rate_of_its_token(cloud: Cloud) -> None:
    cloud.access.of_tokens = Buckets(0.001, 2, 10)
    codes = [(await ask(cloud, signed(cloud)))[0] for _ in range(2)]
    assert codes == [200, 200]
    assert await code(cloud, signed(cloud)) == (400, "Throttling.User")


async def test_an_access_key_has_the_life_of_its_token(cloud: Cloud) -> None:
    token, key = await cloud.access_key("ci")
    assert (await ask(cloud, signed(cloud, key)))[0] == 200
    after, _ = await cloud.access.tokens.rotate(token.id, (await cloud.access_key("boss"))[0], 3600)
    assert (await ask(cloud, signed(cloud, key)))[0] == 200  # by the secret before
    assert (await ask(cloud, signed(cloud, (key[0], cloud.keyring.secret(after)))))[0] == 200
    after, _ = await cloud.access.tokens.rotate(token.id, (await cloud.access_key("boss"))[0], 0)
    assert await code(cloud, signed(cloud, key)) == (400, "SignatureDoesNotMatch")
    key = (key[0], cloud.keyring.secret(after))
    assert (await ask(cloud, signed(cloud, key)))[0] == 200
    await cloud.access.tokens.revoke(token.id)
    assert await code(cloud, signed(cloud, key)) == (404, "InvalidAccessKeyId.NotFound")


async def test_an_access_key_ends_with_its_token(cloud: Cloud) -> None:
    boss, _ = await cloud.access_key("boss")
    now = cloud.access.tokens.now()
    token, _ = await cloud.access.tokens.create("brief", ApiRole.READ, boss, now + 3600)
    identity = f"PFAK{token.id}"
    key = (identity, cloud.keyring.secret(token))
    assert (await ask(cloud, signed(cloud, key)))[0] == 200
    cloud.access.tokens.now = lambda: now + 3600  # type: ignore[method-assign]
    assert await code(cloud, signed(cloud, key)) == (403, "InvalidAccessKeyId.Inactive")
    assert await code(cloud, signed(cloud, (identity, "wrong"))) == (400, "SignatureDoesNotMatch")


async def test_an_access_key_has_the_role_of_its_token(cloud: Cloud) -> None:
    _, key = await cloud.access_key("reader", ApiRole.READ)
    assert (await ask(cloud, signed(cloud, key, Action="DescribeLoadBalancers")))[0] == 200
    assert await code(cloud, signed(cloud, key, Action="CreateLoadBalancer")) == (403, "Forbidden.RAM")
    _, key = await cloud.access_key("operator", ApiRole.OPERATE)
    assert await code(cloud, signed(cloud, key, Action="CreateLoadBalancer")) == (403, "Forbidden.RAM")
    assert not cloud.plane.current.model.instances


@pytest.mark.parametrize(
    ("parameters", "status", "expected"),
    [
        ({"Action": "DescribeMoon"}, 404, "InvalidAction.NotFound"),
        ({"Version": "2020-06-16"}, 400, "InvalidVersion"),
        ({"Action": "CreateTLSCipherPolicy"}, 400, "UnsupportedOperation"),
        ({"RegionId": "cn-elsewhere"}, 404, "InvalidRegionId.NotFound"),
        ({"DryRunn": "true"}, 400, "UnsupportedParameter"),
        ({"Action": "CreateLoadBalancer", "VpcId": "vpc-1"}, 400, "UnsupportedParameter"),
        ({"Action": "CreateLoadBalancer", "VpcId": ""}, 400, "UnsupportedParameter"),
        ({"Action": "CreateLoadBalancer", "Bandwidth": "0"}, 400, "InvalidParameter"),
        ({"Action": "CreateLoadBalancer", "MasterZoneId": "cn-a"}, 404, "InvalidZoneId.NotFound"),
        (
            {"Action": "CreateLoadBalancer", "Tag.1.Key": "paifang:slb", "Tag.1.Value": "x"},
            400,
            "InvalidTagKey.Malformed",
        ),
        ({"Action": "DescribeLoadBalancerAttribute"}, 400, "MissingParameter.LoadBalancerId"),
        ({"Action": "DescribeLoadBalancerAttribute", "LoadBalancerId": "lb-no"}, 404, "InvalidLoadBalancerId.NotFound"),
    ],
    ids=lambda each: each.get("Action", next(iter(each))) if isinstance(each, dict) else None,
)
async def test_refusals(cloud: Cloud, parameters: Pairs, status: int, expected: str) -> None:
    assert await code(cloud, signed(cloud, **parameters)) == (status, expected)


async def test_the_audit_log_has_changes_and_refusals_and_no_parameters(cloud: Cloud) -> None:
    await ask(cloud, signed(cloud, Action="DescribeLoadBalancers"))
    await ask(cloud, signed(cloud, Action="CreateLoadBalancer", LoadBalancerName="hush"))
    await ask(cloud, signed(cloud, (cloud.key[0], "wrong")))
    await ask(cloud, signed(cloud, Action="CreateLoadBalancer", Bandwidth="0"))
    records = await cloud.plane.store.records(SPACE)
    entries = [json.loads(each.value) for each in records if each.key != HEAD]
    told = [(each["who"], each["path"], each["status"], each["result"]) for each in entries]
    assert told == [
        ("ann", "/alibaba/CreateLoadBalancer", 200, "done"), ("-", "/alibaba/-", 401, "refused"),
        ("ann", "/alibaba/CreateLoadBalancer", 400, "failed"),
    ]  # fmt: skip
    assert entries[0]["version"] == 1
    assert entries[0]["objects"][0].startswith("instances/lb-")
    assert entries[1]["token"] == cloud.key[0].removeprefix("PFAK")
    assert "hush" not in json.dumps(entries)
    assert cloud.key[1] not in json.dumps(entries)


async def test_a_failure_of_ours_says_nothing_of_itself(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("hush")

    monkeypatch.setattr(cloud.plane, "status", fail)
    status, text = await ask(cloud, signed(cloud))
    assert (status, json.loads(text)["Code"]) == (500, "InternalError")
    assert "hush" not in text

    async def away(*_: object) -> None:
        raise StoreUnavailableError("etcd is away")

    monkeypatch.setattr(cloud.access.tokens, "get", away)
    assert await code(cloud, signed(cloud)) == (503, "ServiceUnavailable")


async def test_the_same_client_token_makes_one(cloud: Cloud) -> None:
    first = await cloud.new("CreateLoadBalancer", client_token="once", load_balancer_name="a")
    again = await cloud.new("CreateLoadBalancer", client_token="once", load_balancer_name="a")
    assert again["LoadBalancerId"] == first["LoadBalancerId"]
    assert again["Address"] == first["Address"]
    with pytest.raises(DaraException) as caught:
        await cloud.new("CreateLoadBalancer", client_token="once", load_balancer_name="b")
    assert caught.value.code == "IdempotentParameterMismatch"
    _, other = await cloud.access_key("other")
    elsewhere = await cloud.new("CreateLoadBalancer", other, client_token="once", load_balancer_name="a")
    assert elsewhere["LoadBalancerId"] != first["LoadBalancerId"]
    assert len(cloud.plane.current.model.instances) == 2


async def test_the_log_has_no_parameters(cloud: Cloud, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level("INFO", "control")
    await ask(cloud, signed(cloud, Action="CreateLoadBalancer", LoadBalancerName="hush"))
    assert "ann CreateLoadBalancer 200" in caplog.text
    assert "hush" not in caplog.text
