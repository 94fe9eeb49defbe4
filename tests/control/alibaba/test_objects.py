"""Rules, certificates, access control lists, tags, health and protection, by both SDKs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable
from typing import Any

import pytest
from aliyunsdkcore.acs_exception.exceptions import ServerException
from darabonba.exceptions import DaraException

from core.answers import Coding, Compression
from core.model import Acl, CheckType, Kind, Model, StickyType
from tests.control.alibaba.conftest import Cloud
from tests.control.conftest import Authority


async def refused(asked: Awaitable[Any]) -> str:
    """The code of a refusal, by either SDK."""
    with pytest.raises((ServerException, DaraException)) as caught:
        await asked
    error: Any = caught.value
    return str(error.error_code if isinstance(error, ServerException) else error.code)


@pytest.fixture
async def balancer(cloud: Cloud) -> str:
    """One with an http listener on port 80, to port 8080 of its default servers."""
    found = str((await cloud.new("CreateLoadBalancer", load_balancer_name="shop"))["LoadBalancerId"])
    await cloud.new("AddBackendServers", load_balancer_id=found, backend_servers='[{"ServerId": "10.0.0.7"}]')
    await cloud.new(
        "CreateLoadBalancerHTTPListener", load_balancer_id=found, listener_port=80, backend_server_port=8080,
        bandwidth=-1, health_check="on", sticky_session="off",
    )  # fmt: skip
    return found


async def group(cloud: Cloud, balancer: str, *addresses: str) -> str:
    servers = json.dumps([{"ServerId": each, "Port": 80} for each in addresses])
    made = await cloud.new("CreateVServerGroup", load_balancer_id=balancer, backend_servers=servers)
    return str(made["VServerGroupId"])


async def test_rules(cloud: Cloud, balancer: str) -> None:
    blue = await group(cloud, balancer, "10.0.0.8")
    listed = [
        {"RuleName": "api", "Domain": "API.example.com", "Url": "/v1", "VServerGroupId": blue},
        {"RuleName": "any", "Domain": "*.example.com", "VServerGroupId": blue, "ListenerSync": "off",
         "Scheduler": "rr", "HealthCheck": "off", "StickySession": "on", "StickySessionType": "insert",
         "CookieTimeout": 60},
    ]  # fmt: skip
    made = await cloud.old("CreateRules", LoadBalancerId=balancer, ListenerPort=80, RuleList=json.dumps(listed))
    first, second = (each["RuleId"] for each in made["Rules"]["Rule"])
    model = cloud.plane.current.model
    assert (model.rules[first].domain, model.rules[first].url) == ("api.example.com", "/v1")
    own = model.backend_services[model.rules[second].backend_service]
    assert (own.scheduler.value, own.health_check, own.server_group) == ("rr", None, blue)
    assert own.sticky_session is not None
    assert own.sticky_session.type is StickyType.INSERT
    again = cloud.new("CreateRules", load_balancer_id=balancer, listener_port=80, rule_list=json.dumps(listed[:1]))
    assert await refused(again) == "DomainExist"
    # What a rule takes over from its listener changes with that; what is its own does not.
    await cloud.new(
        "SetLoadBalancerHTTPListenerAttribute", load_balancer_id=balancer, listener_port=80, scheduler="wlc"
    )
    model = cloud.plane.current.model
    assert [model.backend_services[each].scheduler.value for each in (first, second)] == ["wlc", "rr"]
    seen = await cloud.new("DescribeRuleAttribute", rule_id=second)
    assert (seen["ListenerSync"], seen["Scheduler"], seen["CookieTimeout"]) == ("off", "rr", 60)
    assert (seen["ListenerPort"], seen["LoadBalancerId"], seen["VServerGroupId"]) == ("80", balancer, blue)
    assert await refused(cloud.new("SetRule", rule_id=first, scheduler="rr")) == "InvalidParameter"
    green = await group(cloud, balancer, "10.0.0.9")
    await cloud.old("SetRule", RuleId=second, ListenerSync="on", VServerGroupId=green, RuleName="all")
    rows = (await cloud.old("DescribeRules", LoadBalancerId=balancer, ListenerPort=80))["Rules"]["Rule"]
    assert [(each["RuleName"], each["ListenerSync"], each["VServerGroupId"]) for each in rows] == [
        ("api", "on", blue), ("all", "on", green),
    ]  # fmt: skip
    assert cloud.plane.current.model.backend_services[second].scheduler.value == "wlc"
    assert await refused(cloud.new("DeleteVServerGroup", vserver_group_id=green)) == "RspoolVipExist"
    await cloud.new("DeleteRules", rule_ids=json.dumps([first, second]))
    await cloud.new("DeleteVServerGroup", vserver_group_id=green)
    assert not cloud.plane.current.model.rules
    assert list(cloud.plane.current.model.backend_services) == [f"{balancer}-http-80"]
    assert await refused(cloud.new("DescribeRuleAttribute", rule_id=first)) == "InvalidRuleId.NotFound"


async def test_vserver_groups(cloud: Cloud, balancer: str) -> None:
    identity = await group(cloud, balancer, "10.0.1.1", "10.0.1.2")

    async def servers(action: str, **parameters: Any) -> list[tuple[str, int, int]]:
        found = await cloud.old(action, VServerGroupId=identity, **parameters)
        return [(each["ServerId"], each["Port"], each["Weight"]) for each in found["BackendServers"]["BackendServer"]]

    one, two = ("10.0.1.1", 80, 100), ("10.0.1.2", 80, 100)
    more = json.dumps([{"ServerId": "10.0.1.2", "Port": "81", "Weight": "0", "ServerIp": "10.0.1.2", "Type": "eni"}])
    assert await servers("AddVServerGroupBackendServers", BackendServers=more) == [one, two, ("10.0.1.2", 81, 0)]
    weights = json.dumps([{"ServerId": "10.0.1.1", "Port": 80, "Weight": 7}])
    assert (await servers("SetVServerGroupAttribute", BackendServers=weights))[0] == ("10.0.1.1", 80, 7)
    gone = json.dumps([{"ServerId": "10.0.1.1", "Port": 80}])
    assert await servers("RemoveVServerGroupBackendServers", BackendServers=gone) == [two, ("10.0.1.2", 81, 0)]
    old, new = json.dumps([{"ServerId": "10.0.1.2", "Port": 81}]), json.dumps([{"ServerId": "10.0.1.3", "Port": 80}])
    changed = await servers("ModifyVServerGroupBackendServers", OldBackendServers=old, NewBackendServers=new)
    assert changed == [two, ("10.0.1.3", 80, 100)]
    assert await servers("DescribeVServerGroupAttribute") == changed
    rows = (await cloud.new("DescribeVServerGroups", load_balancer_id=balancer))["VServerGroups"]["VServerGroup"]
    assert [(each["VServerGroupId"], each["ServerCount"]) for each in rows] == [(identity, 2)]
    for wrong, code in (
        ([{"ServerId": "i-123", "Port": 80}], "ObtainIpFail"),
        ([{"ServerId": "10.0.1.1"}], "MissingParameter.BackendServers.Port"),
        ([{"ServerId": "10.0.1.1", "Port": 0}], "InvalidParameter"),
        ([{"ServerId": "10.0.1.1", "Port": 80, "Weight": 101}], "InvalidParameter"),
        ([{"ServerId": "10.0.1.1", "Port": 80, "Description": "a"}], "UnsupportedParameter"),
        ([{"ServerId": "10.0.1.1", "Port": 80, "VpcId": "a"}], "UnsupportedParameter"),
        ([{"ServerId": "10.0.1.1", "Port": 80}] * 2, "InvalidParameter"),
        ([{"ServerId": "10.0.1.1", "Port": 80, "ServerIp": "10.0.1.9"}], "InvalidParameter"),
        ("x", "InvalidParameter"),
    ):  # fmt: skip
        request = cloud.old("AddVServerGroupBackendServers", VServerGroupId=identity, BackendServers=json.dumps(wrong))
        assert await refused(request) == code


async def test_answers_are_compressed(cloud: Cloud, balancer: str) -> None:
    """From the beginning, as the API has it; what the REST API has said of other codings stays, where gzip is one."""
    place = {"load_balancer_id": balancer, "listener_port": 80}
    (name,) = cloud.plane.current.model.listeners

    async def told(**parameters: str) -> tuple[str, Compression | None]:
        if parameters:
            await cloud.new("SetLoadBalancerHTTPListenerAttribute", **place, **parameters)
        seen = await cloud.new("DescribeLoadBalancerHTTPListenerAttribute", **place)
        return seen["Gzip"], cloud.plane.current.model.listeners[name].compression

    gzip = Compression((Coding.GZIP,))
    assert await told() == ("on", gzip)
    assert await told(gzip="off") == ("off", None)
    assert await told(gzip="on") == ("on", gzip)
    every = Compression()

    def compressed(before: Model) -> Model:
        item = dataclasses.replace(before.listeners[name], compression=every)
        return dataclasses.replace(before, listeners={name: item})

    await cloud.plane.change(compressed, author="ann", comment="", expected=None)
    assert await told(gzip="on") == ("on", every)
    assert await told(idle_timeout="20") == ("on", every)


async def test_a_listener_goes_over_to_a_group_and_back(cloud: Cloud, balancer: str) -> None:
    async def change(**parameters: Any) -> dict[str, Any]:
        place = {"load_balancer_id": balancer, "listener_port": 80}
        await cloud.new("SetLoadBalancerHTTPListenerAttribute", **place, **parameters)
        return await cloud.new("DescribeLoadBalancerHTTPListenerAttribute", **place)

    identity = await group(cloud, balancer, "10.0.0.8")
    seen = await change(vserver_group="on", vserver_group_id=identity)
    assert (seen["VServerGroupId"], seen["BackendServerPort"]) == (identity, 8080)
    assert f"{balancer}.default.8080" not in cloud.plane.current.model.server_groups
    seen = await change(vserver_group="off")
    assert seen["BackendServerPort"] == 8080
    assert "VServerGroupId" not in seen
    assert f"{balancer}.default.8080" in cloud.plane.current.model.server_groups
    seen = await change(health_check="off", sticky_session="on", sticky_session_type="server", cookie="SID", gzip="off")
    assert (seen["HealthCheck"], seen["Cookie"]) == ("off", "SID")
    seen = await change(health_check="on", health_check_interval=9, xforwarded_for_slbip="on", idle_timeout=20)
    assert (seen["HealthCheckInterval"], seen["XForwardedFor_SLBIP"], seen["IdleTimeout"]) == (9, "on", 20)
    for parameters, code in (
        ({"gzip": "yes"}, "InvalidParameter"), ({"vserver_group_id": "rsp-no"}, "InvalidParameter"),
        ({"acl_status": "on"}, "MissingParameter.AclId"), ({"acl_id": "a"}, "AclNotExist"),
        ({"idle_timeout": 61}, "InvalidParameter"), ({"cookie_timeout": 5}, "InvalidParameter"),
        ({"health_check_uri": "no-path"}, "InvalidParameter"), ({"bandwidth": 6000}, "InvalidParameter"),
    ):  # fmt: skip
        before = cloud.plane.current.version
        request: dict[str, Any] = parameters  # type: ignore[assignment]
        assert await refused(change(**request)) == code
        assert cloud.plane.current.version == before


async def test_a_service_that_others_use_is_left_to_them(cloud: Cloud, balancer: str) -> None:
    """A listener of the REST API may forward to the same backend service."""
    from control.edit import Edit, Op
    from control.handling import after_edits

    table = {
        "name": "mine",
        "instance": balancer,
        "protocol": "http",
        "port": 81,
        "backend_service": f"{balancer}-http-80",
    }
    edit = Edit(Op.CREATE, Kind.LISTENERS, "mine", table)
    await cloud.plane.change(lambda model: after_edits(model, [edit]), author="x", comment="", expected=None)
    await cloud.new("SetLoadBalancerHTTPListenerAttribute", load_balancer_id=balancer, listener_port=81, scheduler="rr")
    model = cloud.plane.current.model
    assert model.listeners["mine"].backend_service == "mine"
    assert model.backend_services[f"{balancer}-http-80"].scheduler.value == "wrr"
    await cloud.new("DeleteLoadBalancerListener", load_balancer_id=balancer, listener_port=80)
    await cloud.new("DeleteLoadBalancerListener", load_balancer_id=balancer, listener_port=81)
    assert not cloud.plane.current.model.backend_services


async def test_certificates(cloud: Cloud, balancer: str, authority: Authority) -> None:
    def pem(*names: str) -> str:
        return (authority.issue("l7", names[0], []) / "cert.pem").read_text()

    made = await cloud.old("UploadServerCertificate", ServerCertificate=pem("www.example"), ServerCertificateName="www")
    first = made["ServerCertificateId"]
    assert made["CommonName"] == "www.example"
    assert made["Fingerprint"].count(":") == 19
    assert made["SubjectAlternativeNames"]["SubjectAlternativeName"] == ["www.example"]
    second = (await cloud.new("UploadServerCertificate", server_certificate=pem("api.example")))["ServerCertificateId"]
    ca = (await cloud.new("UploadCACertificate", cacertificate=(authority.issue("l7", "x") / "ca.pem").read_text()))[
        "CACertificateId"
    ]
    await cloud.new(
        "CreateLoadBalancerHTTPSListener", load_balancer_id=balancer, listener_port=443, backend_server_port=8080,
        bandwidth=-1, health_check="off", sticky_session="off", server_certificate_id=first, cacertificate_id=ca,
        tlscipher_policy="tls_cipher_policy_1_2",
    )  # fmt: skip
    place = {"load_balancer_id": balancer, "listener_port": 443}
    extension = await cloud.new("CreateDomainExtension", **place, domain="api.example", server_certificate_id=second)
    seen = await cloud.new("DescribeLoadBalancerHTTPSListenerAttribute", **place)
    assert (seen["ServerCertificateId"], seen["CACertificateId"]) == (first, ca)
    assert (seen["TLSCipherPolicy"], seen["EnableHttp2"]) == ("tls_cipher_policy_1_2", "on")
    assert seen["DomainExtensions"]["DomainExtension"] == [
        {"DomainExtensionId": extension["DomainExtensionId"], "Domain": "api.example", "ServerCertificateId": second}
    ]
    listener = cloud.plane.current.model.listeners[f"{balancer}-https-443"]
    assert listener.certificates == (first, second)
    assert listener.http2
    await cloud.new("SetLoadBalancerHTTPSListenerAttribute", **place, enable_http_2="off")
    await cloud.new("SetLoadBalancerHTTPSListenerAttribute", **place, idle_timeout=20)  # leaves it
    assert (await cloud.new("DescribeLoadBalancerHTTPSListenerAttribute", **place))["EnableHttp2"] == "off"
    assert not cloud.plane.current.model.listeners[listener.name].http2
    wrong = cloud.new("CreateDomainExtension", **place, domain="other.example", server_certificate_id=second)
    assert await refused(wrong) == "InvalidParameter"
    deleting = cloud.new("DeleteServerCertificate", server_certificate_id=second)
    assert await refused(deleting) == "CertificateAndPrivateKeyIsRefered"
    identity = extension["DomainExtensionId"]
    one = await cloud.old("DescribeDomainExtensionAttribute", DomainExtensionId=identity)
    assert (one["ListenerPort"], one["LoadBalancerId"]) == (443, balancer)
    third = (await cloud.new("UploadServerCertificate", server_certificate=pem("api.example.")[:]))[
        "ServerCertificateId"
    ]
    unknown = cloud.new("DescribeDomainExtensionAttribute", domain_extension_id="de-x")
    assert await refused(unknown) == "InvalidParameter.DomainExtensionId"
    refusal = cloud.new("SetDomainExtensionAttribute", domain_extension_id=identity, server_certificate_id=third)
    assert await refused(refusal) == "InvalidParameter"
    await cloud.old("DeleteDomainExtension", DomainExtensionId=identity)
    assert cloud.plane.current.model.listeners[listener.name].certificates == (first,)
    await cloud.new("DeleteServerCertificate", server_certificate_id=second)
    await cloud.new("SetServerCertificateName", server_certificate_id=first, server_certificate_name="renamed")
    rows = (await cloud.new("DescribeServerCertificates"))["ServerCertificates"]["ServerCertificate"]
    assert [each["ServerCertificateName"] for each in rows] == ["renamed", third]
    assert await refused(cloud.new("DeleteCACertificate", cacertificate_id=ca)) == "CACertificateIsRefered"
    old_tls = cloud.new("SetLoadBalancerHTTPSListenerAttribute", **place, tlscipher_policy="tls_cipher_policy_1_0")
    assert await refused(old_tls) == "UnsupportedParameter"


async def test_private_keys_are_refused_and_stand_nowhere(
    cloud: Cloud, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "control")
    directory = authority.issue("l7", "www.example")
    chain, key = ((directory / name).read_text() for name in ("cert.pem", "key.pem"))
    for request in (
        cloud.new("UploadServerCertificate", server_certificate=chain, private_key=key),
        cloud.old("UploadServerCertificate", ServerCertificate=chain, PrivateKey=key),
    ):
        with pytest.raises(
            (ServerException, DaraException), match="private keys do not come to the control plane"
        ) as caught:
            await request
        assert key.splitlines()[1] not in str(caught.value)
    wrong = (cloud.key[0], "wrong")
    with pytest.raises(ServerException) as unsigned:
        await cloud.old("UploadServerCertificate", wrong, ServerCertificate=chain, PrivateKey=key)
    assert "KEY" not in unsigned.value.message
    assert await refused(cloud.new("UploadServerCertificate", server_certificate=chain + key)) == "OperationDenied"
    assert key.splitlines()[1] not in caplog.text
    assert not cloud.plane.current.model.certificates


async def test_access_control_lists(cloud: Cloud, balancer: str) -> None:
    identity = (await cloud.old("CreateAccessControlList", AclName="office"))["AclId"]
    entries = json.dumps([{"entry": "10.1.0.0/16"}, {"entry": "192.0.2.1"}])
    await cloud.new("AddAccessControlListEntry", acl_id=identity, acl_entrys=entries)
    assert cloud.plane.current.model.access_lists[identity].entries == ("10.1.0.0/16", "192.0.2.1/32")
    for wrong, code in (
        ('[{"entry": "10.1.0.0/16"}]', "DuplicateAclEntry"), ('[{"entry": "2001:db8::/32"}]', "InvalidParameter"),
        ('[{"entry": "10.1.0.1/16"}]', "InvalidParameter"), ("[]", "AclEntryEmpty"),
        ('[{"entry": "10.2.0.0/16", "comment": "x"}]', "UnsupportedParameter"),
    ):  # fmt: skip
        assert await refused(cloud.new("AddAccessControlListEntry", acl_id=identity, acl_entrys=wrong)) == code
    place = {"load_balancer_id": balancer, "listener_port": 80}
    await cloud.new("SetLoadBalancerHTTPListenerAttribute", **place, acl_status="on", acl_type="black", acl_id=identity)
    listener = cloud.plane.current.model.listeners[f"{balancer}-http-80"]
    assert (listener.acl, listener.access_list) == (Acl.BLACK, identity)
    assert await refused(cloud.old("DeleteAccessControlList", AclId=identity)) == "AclInUsed"
    seen = await cloud.old("DescribeAccessControlListAttribute", AclId=identity)
    assert seen["RelatedListeners"]["RelatedListener"] == [
        {"LoadBalancerId": balancer, "ListenerPort": 80, "Protocol": "http", "AclType": "black"}
    ]
    assert [each["AclEntryIP"] for each in seen["AclEntrys"]["AclEntry"]] == ["10.1.0.0/16", "192.0.2.1/32"]
    opening = cloud.new("SetListenerAccessControlStatus", **place, access_control_status="open_white_list")
    assert await refused(opening) == "OperationDenied"
    await cloud.new("SetLoadBalancerHTTPListenerAttribute", **place, acl_status="off")
    await cloud.new("RemoveAccessControlListEntry", acl_id=identity, acl_entrys='[{"entry": "192.0.2.1/32"}]')
    await cloud.new("SetAccessControlListAttribute", acl_id=identity, acl_name="home")
    rows = (await cloud.new("DescribeAccessControlLists"))["Acls"]["Acl"]
    assert [(each["AclId"], each["AclName"]) for each in rows] == [(identity, "home")]
    # The older way.
    await cloud.old(
        "AddListenerWhiteListItem", LoadBalancerId=balancer, ListenerPort=80, SourceItems="10.0.0.1,10.9.0.0/16"
    )
    await cloud.old(
        "SetListenerAccessControlStatus",
        LoadBalancerId=balancer,
        ListenerPort=80,
        AccessControlStatus="open_white_list",
    )
    listener = cloud.plane.current.model.listeners[listener.name]
    assert listener.acl is Acl.WHITE
    assert cloud.plane.current.model.access_lists[listener.access_list].entries == ("10.0.0.1/32", "10.9.0.0/16")
    await cloud.old("RemoveListenerWhiteListItem", LoadBalancerId=balancer, ListenerPort=80, SourceItems="10.9.0.0/16")
    told = await cloud.old("DescribeListenerAccessControlAttribute", LoadBalancerId=balancer, ListenerPort=80)
    assert (told["AccessControlStatus"], told["SourceItems"]) == ("open_white_list", "10.0.0.1/32")
    await cloud.new("DeleteLoadBalancerListener", **place)
    await cloud.new("DeleteAccessControlList", acl_id=identity)
    assert not cloud.plane.current.model.access_lists


async def test_tags(cloud: Cloud, balancer: str) -> None:
    tag = [{"Key": "team", "Value": "web"}, {"Key": "env", "Value": "test"}]
    from alibabacloud_slb20140515.models import TagResourcesRequestTag

    made = [TagResourcesRequestTag(key=each["Key"], value=each["Value"]) for each in tag]
    await cloud.new("TagResources", resource_type="instance", resource_id=[balancer], tag=made)
    await cloud.old("TagResources", ResourceType="listener", ResourceIds=[f"{balancer}_http_80"], Tags=tag[:1])
    model = cloud.plane.current.model
    assert dict(model.listeners[f"{balancer}-http-80"].tags)["team"] == "web"
    listed = await cloud.old("ListTagResources", ResourceType="instance", ResourceIds=[balancer])
    rows = listed["TagResources"]["TagResource"]
    assert [(each["TagKey"], each["TagValue"]) for each in rows] == [("env", "test"), ("team", "web")]
    found = await cloud.old("DescribeLoadBalancers", Tags='[{"TagKey": "team", "TagValue": "web"}]')
    assert found["TotalCount"] == 1
    found = await cloud.old("DescribeLoadBalancers", Tags='[{"TagKey": "team", "TagValue": "api"}]')
    assert found["TotalCount"] == 0
    await cloud.new("UntagResources", resource_type="instance", resource_id=[balancer], tag_key=["env"])
    await cloud.old("AddTags", LoadBalancerId=balancer, Tags='[{"TagKey": "old", "TagValue": "way"}]')
    sets = (await cloud.old("DescribeTags", LoadBalancerId=balancer))["TagSets"]["TagSet"]
    assert [(each["TagKey"], each["InstanceCount"]) for each in sets] == [("old", 1), ("team", 1)]
    await cloud.old("RemoveTags", LoadBalancerId=balancer, Tags='[{"TagKey": "old", "TagValue": "other"}]')
    assert "old" in dict(cloud.plane.current.model.instances[balancer].tags)
    await cloud.new("UntagResources", resource_type="instance", resource_id=[balancer], all=True)
    assert [key for key, _ in cloud.plane.current.model.instances[balancer].tags] == ["paifang:slb"]
    own = cloud.new("UntagResources", resource_type="instance", resource_id=[balancer], tag_key=["paifang:slb"])
    assert await refused(own) == "InvalidTagKey.Malformed"


async def test_health_is_what_the_nodes_report(cloud: Cloud, balancer: str) -> None:
    await cloud.new("AddBackendServers", load_balancer_id=balancer, backend_servers='[{"ServerId": "10.0.0.8"}]')
    await cloud.new("StartLoadBalancerListener", load_balancer_id=balancer, listener_port=80)

    async def health() -> dict[str, str]:
        found = await cloud.old("DescribeHealthStatus", LoadBalancerId=balancer, ListenerPort=80)
        return {each["ServerId"]: each["ServerHealthStatus"] for each in found["BackendServers"]["BackendServer"]}

    def report(node: str, **healthy: bool) -> None:
        rows = [
            {"service": f"{balancer}-http-80", "server": f"10.0.0.{number[1:]}:8080", "healthy": up, "why": ""}
            for number, up in healthy.items()
        ]
        cloud.plane.report("l7", node, cloud.plane.current.version, None, {"health": rows})

    assert await health() == {"10.0.0.7": "unavailable", "10.0.0.8": "unavailable"}
    report("l7-1", n7=True, n8=True)
    assert await health() == {"10.0.0.7": "normal", "10.0.0.8": "normal"}
    report("l7-2", n7=True, n8=False)
    assert await health() == {"10.0.0.7": "normal", "10.0.0.8": "abnormal"}
    await cloud.new("StopLoadBalancerListener", load_balancer_id=balancer, listener_port=80)
    assert set((await health()).values()) == {"unavailable"}


async def test_status_names_bandwidth_and_protection(cloud: Cloud, balancer: str) -> None:
    async def seen() -> dict[str, Any]:
        return await cloud.old("DescribeLoadBalancerAttribute", LoadBalancerId=balancer)

    await cloud.new(
        "CreateLoadBalancerTCPListener", load_balancer_id=balancer, listener_port=25, backend_server_port=25,
        bandwidth=-1,
    )  # fmt: skip
    await cloud.new("StartLoadBalancerListener", load_balancer_id=balancer, listener_port=80)
    await cloud.old("SetLoadBalancerStatus", LoadBalancerId=balancer, LoadBalancerStatus="inactive")
    assert (await seen())["LoadBalancerStatus"] == "inactive"
    assert not any(each.enabled for each in cloud.plane.current.model.listeners.values())
    starting = cloud.new("StartLoadBalancerListener", load_balancer_id=balancer, listener_port=25)
    assert await refused(starting) == "OperationDenied"
    await cloud.old("SetLoadBalancerStatus", LoadBalancerId=balancer, LoadBalancerStatus="active")
    running = {each.port: each.enabled for each in cloud.plane.current.model.listeners.values()}
    assert running == {80: True, 25: False}
    await cloud.new("ModifyLoadBalancerInternetSpec", load_balancer_id=balancer, bandwidth=50)
    limits = {each.bandwidth_in_mbit_s for each in cloud.plane.current.model.instances.values()}
    assert limits == {50}
    await cloud.old("SetLoadBalancerName", LoadBalancerId=balancer, LoadBalancerName="other")
    await cloud.old(
        "SetLoadBalancerModificationProtection", LoadBalancerId=balancer, ModificationProtectionReason="it is night",
        ModificationProtectionStatus="ConsoleProtection",
    )  # fmt: skip
    told = await seen()
    assert (told["LoadBalancerName"], told["Bandwidth"]) == ("other", 50)
    assert told["ModificationProtectionReason"] == "it is night"
    renaming = cloud.old("SetLoadBalancerName", LoadBalancerId=balancer, LoadBalancerName="x")
    assert await refused(renaming) == "OperationDenied"
    await cloud.new(
        "SetLoadBalancerModificationProtection", load_balancer_id=balancer,
        modification_protection_status="NonProtection",
    )  # fmt: skip
    await cloud.old("SetLoadBalancerDeleteProtection", LoadBalancerId=balancer, DeleteProtection="on")
    assert await refused(cloud.old("DeleteLoadBalancer", LoadBalancerId=balancer)) == "OperationDenied"
    await cloud.old("SetLoadBalancerDeleteProtection", LoadBalancerId=balancer, DeleteProtection="off")
    await cloud.old("DeleteLoadBalancer", LoadBalancerId=balancer)
    assert await refused(seen()) == "InvalidLoadBalancerId.NotFound"
    model = cloud.plane.current.model
    assert not any(model.of(kind) for kind in Kind)


async def test_pages_and_filters(cloud: Cloud) -> None:
    made = [
        (await cloud.new("CreateLoadBalancer", load_balancer_name=f"n{each}"))["LoadBalancerId"] for each in range(3)
    ]
    page = await cloud.new("DescribeLoadBalancers", page_number=2, page_size=2)
    assert [each["LoadBalancerId"] for each in page["LoadBalancers"]["LoadBalancer"]] == made[2:]
    assert (page["TotalCount"], page["PageNumber"], page["PageSize"]) == (3, 2, 2)
    named = await cloud.new("DescribeLoadBalancers", load_balancer_id=",".join(made[:2]), address="192.0.2.18")
    assert [each["LoadBalancerName"] for each in named["LoadBalancers"]["LoadBalancer"]] == ["n1"]
    assert await refused(cloud.new("CreateLoadBalancer", address="192.0.2.18")) == "IpNotAvailable"
    for port in range(1, 4):
        await cloud.new(
            "CreateLoadBalancerHTTPListener", load_balancer_id=made[0], listener_port=port, backend_server_port=80,
            bandwidth=-1,
        )  # fmt: skip
    first = await cloud.new("DescribeLoadBalancerListeners", load_balancer_id=made[:1], max_results=2)
    rest = await cloud.new("DescribeLoadBalancerListeners", max_results=2, next_token=first["NextToken"])
    ports = [each["ListenerPort"] for found in (first, rest) for each in found["Listeners"]]
    assert ports == [1, 2, 3]
    assert first["Listeners"][0]["HTTPListenerConfig"]["HealthCheckMethod"] == "head"
    assert "NextToken" not in rest


async def test_a_redirect_and_a_dry_run(cloud: Cloud, balancer: str, authority_chain: str) -> None:
    certificate = (await cloud.new("UploadServerCertificate", server_certificate=authority_chain))[
        "ServerCertificateId"
    ]
    await cloud.new(
        "CreateLoadBalancerHTTPSListener", load_balancer_id=balancer, listener_port=443, backend_server_port=8080,
        bandwidth=-1, server_certificate_id=certificate,
    )  # fmt: skip
    await cloud.new(
        "CreateLoadBalancerHTTPListener", load_balancer_id=balancer, listener_port=81, listener_forward="on",
        forward_port=443, bandwidth=-1,
    )  # fmt: skip
    seen = await cloud.new("DescribeLoadBalancerHTTPListenerAttribute", load_balancer_id=balancer, listener_port=81)
    assert (seen["ListenerForward"], seen["ForwardPort"]) == ("on", 443)
    before = cloud.plane.current
    dry = cloud.new(
        "SetLoadBalancerHTTPListenerAttribute",
        load_balancer_id=balancer,
        listener_port=80,
        scheduler="rr",
        dry_run=True,
    )
    assert await refused(dry) == "DryRunOperation"
    assert cloud.plane.current is before
    twice = cloud.new(
        "CreateLoadBalancerTCPListener",
        load_balancer_id=balancer,
        listener_port=80,
        backend_server_port=1,
        bandwidth=-1,
    )
    assert await refused(twice) == "ListenerAlreadyExists"


async def test_a_load_balancer_of_the_rest_api(cloud: Cloud) -> None:
    """What was made elsewhere is seen, and changed, with its own names."""
    from control.handling import checked

    document = {
        "server_groups": [{"name": "g", "servers": [{"address": "10.0.0.1", "port": 53}]}],
        "backend_services": [{"name": "b", "protocol": "udp", "server_group": "g", "scheduler": "maglev"}],
        "instances": [{"name": "dns", "type": "nlb", "vips": ["192.0.2.99"]}],
        "listeners": [{"name": "l", "instance": "dns", "protocol": "udp", "port": 53, "backend_service": "b"}],
    }
    await cloud.plane.change(lambda _: checked(document), author="x", comment="", expected=None)
    seen = await cloud.new("DescribeLoadBalancerUDPListenerAttribute", load_balancer_id="dns", listener_port=53)
    assert (seen["VServerGroupId"], seen["Scheduler"], seen["Status"]) == ("g", "maglev", "running")
    assert (await cloud.new("DescribeVServerGroupAttribute", vserver_group_id="g"))["LoadBalancerId"] == "dns"
    await cloud.new(
        "CreateLoadBalancerHTTPListener", load_balancer_id="dns", listener_port=80, vserver_group_id="g", bandwidth=-1
    )
    model = cloud.plane.current.model
    assert model.listeners["dns-http-80"].instance == "dns.l7"
    check = model.backend_services["dns-http-80"].health_check
    assert check is not None
    assert check.type is CheckType.HTTP
    rows = (await cloud.new("DescribeLoadBalancers"))["LoadBalancers"]["LoadBalancer"]
    assert [each["LoadBalancerId"] for each in rows] == ["dns"]
    await cloud.new("DeleteLoadBalancer", load_balancer_id="dns")
    assert list(cloud.plane.current.model.server_groups) == ["g"]
