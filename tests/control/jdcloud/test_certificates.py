"""Certificates, extension certificates and security policies by the SDK; and https listeners with real handshakes."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from typing import Any

import pytest

from control.cloud.certificates import names_of
from control.jdcloud.policies import OF_1_3, POLICIES, V1_2, V1_3
from core.model import Model, TlsPolicy
from proxy.tls import TlsServer
from proxy.tls_profile import Profile, new_context
from tests.control.jdcloud.conftest import Cloud
from tests.control.jdcloud.made import another, backend, balancer, listener, refused, target_group
from tests.proxy.support import Backend, Client, free_port, proxy
from tests.proxy.tls_support import LocalKeys, certificate, client_context, new_key

KEY, OTHER = new_key("P-256"), new_key("P-256", 1)


def chain(*names: str, key: Any = KEY) -> str:
    return certificate(key, names).chain


async def upload(cloud: Cloud, pem: str, name: str = "web") -> str:
    made = await cloud.call("uploadCert", certName=name, certFile=pem, keyFile="", aliasName=another())
    return str(made["certId"])


async def secure(cloud: Cloud, *more: str, port: int = 443, **fields: Any) -> tuple[str, str]:
    """A load balancer and its https listener, whose default certificate is for web.test."""
    default = await upload(cloud, chain("web.test"))
    lb = await balancer(cloud, description=another(), privateIpAddress="127.0.0.1")
    service = await backend(cloud, lb, await target_group(cloud, lb, 8080))
    specs = [{"certificateId": default}]
    return lb, await listener(cloud, lb, service, "Https", port, certificateSpecs=specs, **fields)


async def test_a_certificate_is_its_chain(cloud: Cloud) -> None:
    made = await upload(cloud, chain("web.test", "www.web.test"))
    held = cloud.plane.current.model.certificates[made]
    assert held.chain == (await cloud.call("downloadCert", certId=made, serverType="Nginx"))["certFile"]
    await cloud.call("updateCertName", certId=made, certName="shop")
    seen = await cloud.call("describeCert", certId=made)
    assert (seen["certName"], seen["commonName"], seen["dnsNames"], seen["issuer"]) == (
        "shop", "web.test", ["web.test", "www.web.test"], "CN=web.test",
    )  # fmt: skip
    assert seen["startTime"] < seen["endTime"]
    renewed = chain("web.test")
    await cloud.call("updateCert", certId=made, certFile=renewed, keyFile="")
    assert cloud.plane.current.model.certificates[made].chain == renewed
    other = await upload(cloud, chain("api.test"), "api")
    found = await cloud.call("describeCerts", domainName="API.test")
    assert ([each["certId"] for each in found["certListDetails"]], found["totalCount"]) == ([other], 1)
    assert (await cloud.call("describeCerts", certIds=made))["totalCount"] == 1
    assert (await cloud.call("describeCerts"))["totalCount"] == 2
    await cloud.call("deleteCerts", certId=made)
    assert list(cloud.plane.current.model.certificates) == [other]


@pytest.mark.parametrize("action", ["uploadCert", "updateCert"])
async def test_private_keys_are_refused(cloud: Cloud, action: str, caplog: pytest.LogCaptureFixture) -> None:
    made = await upload(cloud, chain("web.test"))
    given = {"certName": "w"} if action == "uploadCert" else {"certId": made}
    key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    code, message = await refused(cloud.call(action, certFile=chain("a.test"), keyFile=key, **given))
    assert (code, "paifang keyserver encrypt" in message, "c2VjcmV0" in message) == (400, True, False)
    inside = cloud.call(action, certFile=chain("a.test") + key, keyFile="", **given)
    assert await refused(inside) == (400, "A private key does not belong here.")
    assert "c2VjcmV0" not in caplog.text
    assert len(cloud.plane.current.model.certificates) == 1
    code, message = await refused(cloud.call(action, certFile="no PEM", keyFile="", **given))
    assert (code, "leaf first" in message) == (400, True)


async def test_who_is_in_use_stays(cloud: Cloud) -> None:
    _, web = await secure(cloud)
    (name,) = cloud.plane.current.model.certificates
    assert await refused(cloud.call("deleteCerts", certId=name)) == (400, f"Certificate '{name}' is in use.")
    seen = await cloud.call("describeCert", certId=name)
    assert (seen["deletable"], seen["totalCount"], seen["usedBy"][0]["bindId"]) == (0, 1, web)


async def test_extension_certificates(cloud: Cloud) -> None:
    _, web = await secure(cloud)
    api, wild = await upload(cloud, chain("api.test")), await upload(cloud, chain("*.wild.test"))

    async def bound() -> dict[str, tuple[str, str]]:
        seen = (await cloud.call("describeListener", listenerId=web))["listener"]["extensionCertificateSpecs"]
        return {each["domain"]: (each["certificateBindId"], each["certificateId"]) for each in seen}

    specs = [{"certificateId": api, "domain": "API.test"}, {"certificateId": wild, "domain": "a.wild.test"}]
    await cloud.call("addListenerCertificates", listenerId=web, certificates=specs)
    found = await bound()
    assert {domain: certificate for domain, (_, certificate) in found.items()} == {"api.test": api, "a.wild.test": wild}
    assert cloud.plane.current.model.listeners[web].certificates[1:] == (api, wild)
    newer = await upload(cloud, chain("api.test"), "newer")
    change = {"certificateBindId": found["api.test"][0], "certificateId": newer}
    await cloud.call("updateListenerCertificates", listenerId=web, certificates=[change])
    assert (await bound())["api.test"] == (found["api.test"][0], newer)
    assert cloud.plane.current.model.listeners[web].certificates[1:] == (wild, newer)
    await cloud.call("deleteListenerCertificates", listenerId=web, certificateBindIds=[found["a.wild.test"][0]])
    assert (list(await bound()), cloud.plane.current.model.listeners[web].certificates[1:]) == (["api.test"], (newer,))

    async def told(certificate: str, domain: str) -> str:
        specs = [{"certificateId": certificate, "domain": domain}]
        return (await refused(cloud.call("addListenerCertificates", listenerId=web, certificates=specs)))[1]

    assert "a name in the certificate is: api.test" in await told(api, "b.test")
    assert "has a certificate for api.test already" in await told(api, "api.test")
    assert "Certificate 'cert-x' not found" in await told("cert-x", "x.test")
    gone = cloud.call("deleteListenerCertificates", listenerId=web, certificateBindIds=["bind-x"])
    assert (await refused(gone))[0] == 404


async def test_a_certificate_that_the_rest_api_has_bound(cloud: Cloud) -> None:
    """It has a binding for each of its names; another certificate takes its place in the list."""
    _, web = await secure(cloud)
    old, new = await upload(cloud, chain("api.test"), "old"), await upload(cloud, chain("api.test"), "new")

    def bound(before: Model) -> Model:
        item = before.listeners[web]
        item = dataclasses.replace(item, certificates=(*item.certificates, old))
        return dataclasses.replace(before, listeners={**before.listeners, web: item})

    await cloud.plane.change(bound, author="ann", comment="", expected=None)
    (spec,) = (await cloud.call("describeListener", listenerId=web))["listener"]["extensionCertificateSpecs"]
    assert (spec["domain"], spec["certificateId"]) == ("api.test", old)
    change = {"certificateBindId": spec["certificateBindId"], "certificateId": new}
    await cloud.call("updateListenerCertificates", listenerId=web, certificates=[change])
    assert cloud.plane.current.model.listeners[web].certificates[1:] == (new,)


@pytest.mark.parametrize("policy", TlsPolicy)
def test_policies_are_what_the_nodes_serve(policy: TlsPolicy) -> None:
    context = new_context(Profile(policy))
    theirs = [each["name"] for each in context.get_ciphers()]
    assert [each for each in theirs if each not in OF_1_3] == list(POLICIES[policy].get(V1_2, [])) or (
        V1_2 not in POLICIES[policy]
    )
    assert (V1_3 in POLICIES[policy]) is (context.maximum_version is ssl.TLSVersion.TLSv1_3)
    assert (V1_2 in POLICIES[policy]) is (context.minimum_version is ssl.TLSVersion.TLSv1_2)
    if V1_3 in POLICIES[policy]:
        assert [each for each in theirs if each in OF_1_3] == list(POLICIES[policy][V1_3])


async def test_security_policies_are_those_of_the_configuration(cloud: Cloud) -> None:
    _, web = await secure(cloud, securityPolicyId="tls_1_3")
    found = await cloud.call("describeSecurityPolicies")
    assert [each["securityPolicyId"] for each in found["securityPolicies"]] == list(TlsPolicy)
    one = (await cloud.call("describeSecurityPolicy", securityPolicyId="tls_1_3"))["securityPolicy"]
    assert (one["protocols"], one["ciphers"], one["listenerIds"]) == (["TLSv1.3"], list(OF_1_3), [web])
    assert (await refused(cloud.call("describeSecurityPolicy", securityPolicyId="ssl_3")))[0] == 404
    filters = [{"name": "protocols", "values": ["TLSv1.3"]}]
    suites = (await cloud.call("describeSupportedCiphers", filters=filters))["supportedCiphers"]
    assert [each["cipher"] for each in suites] == list(OF_1_3)
    filters = [{"name": "securityPolicyIds", "values": ["tls_1_2"]}]
    assert (await cloud.call("describeListeners", filters=filters))["totalCount"] == 0
    assert (await refused(cloud.call("createSecurityPolicy", securityPolicyName="p", protocols=[], ciphers=[])))[
        1
    ].startswith("createSecurityPolicy is not supported here")


async def test_https_is_served(cloud: Cloud) -> None:
    """By name, with the certificate that was bound to it; with HSTS; and by no older TLS than the policy has."""
    async with Backend().running() as server:
        port = free_port()
        lb, web = await secure(cloud, port=port, hstsEnable=True, hstsMaxAge=600, securityPolicyId="tls_1_3")
        service = await backend(cloud, lb, await target_group(cloud, lb, server.port))
        await cloud.call("updateBackend", backendId=service, closeHealthCheck=True)
        await cloud.call("updateListener", listenerId=web, backendId=service)
        api = await upload(cloud, chain("api.test", key=OTHER))
        specs = [{"certificateId": api, "domain": "api.test"}]
        await cloud.call("addListenerCertificates", listenerId=web, certificates=specs)
        tls = TlsServer(LocalKeys([KEY, OTHER]))
        async with proxy(cloud.plane.current.model, tls):
            for name in ("web.test", "api.test"):
                context = client_context(trust=chain_of(cloud, name))
                client = Client(
                    *await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
                )  # fmt: skip
                status, head, body = await _asked(client)
                assert (status, body, b"max-age=600" in head) == (200, b"ok", True)
                await client.close()
            with pytest.raises(ssl.SSLError):
                await asyncio.open_connection("127.0.0.1", port, ssl=client_context("1.2"), server_hostname="web.test")
        await tls.close()


async def _asked(client: Client) -> tuple[int, bytes, bytes]:
    client.writer.write(b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
    return await client.whole_answer()


def chain_of(cloud: Cloud, name: str) -> str:
    """What a client that knows this name's certificate alone trusts."""
    return next(each.chain for each in cloud.plane.current.model.certificates.values() if name in names_of(each))
