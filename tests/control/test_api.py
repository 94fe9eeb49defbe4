"""The REST API through aiohttp's own server and client, on a real store."""

import io
import json
import logging
import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control.guard import BODY_LIMIT_BYTES
from control.store import StoreUnavailableError
from tests.control.api_user import SITE, User

KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----\n"


async def test_a_configuration_is_put_and_got_with_its_version(user: User) -> None:
    assert await user.ask("GET", "/v1/config") == {}
    assert user.etag == '"0"'
    answer = await user.ask("PUT", "/v1/config?comment=first", SITE, If_Match='"0"')
    assert user.etag == '"1"'
    assert answer["version"] == 1
    assert [(c["op"], c["kind"], c["name"]) for c in answer["changes"]] == [
        ("create", "server_groups", "g"),
        ("create", "backend_services", "b"),
        ("create", "instances", "i"),
        ("create", "listeners", "web"),
    ]
    assert answer["changes"][3]["new"] == SITE["listeners"][0]
    assert await user.ask("GET", "/v1/config") == SITE
    (entry,) = (await user.ask("GET", "/v1/versions"))["versions"]
    assert (entry["version"], entry["author"], entry["comment"]) == (1, "ann", "first")


async def test_a_dry_run_answers_with_the_plan_alone(user: User) -> None:
    answer = await user.ask("PUT", "/v1/config?dry_run=1", SITE)
    assert (answer["version"], answer["dry_run"], len(answer["changes"])) == (0, True, 4)
    assert await user.ask("GET", "/v1/config") == {}


async def test_a_change_from_an_old_version_is_refused(user: User) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    problem = await user.ask("PUT", "/v1/config", {}, status=412, If_Match='"0"')
    assert problem["current_version"] == 1
    assert "at version 1, not 0" in problem["detail"]
    await user.ask("DELETE", "/v1/listeners/web", status=412, If_Match='"0"')
    await user.ask("PUT", "/v1/config", {}, If_Match="*")
    await user.ask("PUT", "/v1/config", {}, status=400, If_Match="7")


async def test_all_errors_come_at_once(user: User) -> None:
    wrong = {"instances": [{"name": "i", "colour": "red"}], "server_groups": [{"name": "g", "servers": 1}]}
    problem = await user.ask("PUT", "/v1/config", wrong, status=422)
    places = {error["object"] for error in problem["errors"]}
    assert places == {"instances.i.colour", "server_groups.g.servers"}
    assert all(error["why"] for error in problem["errors"])
    assert user.plane.current.version == 0


async def test_one_object_is_created_replaced_and_deleted(user: User) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    await user.ask("PUT", "/v1/instances/j", {"vips": ["192.0.2.9"]})
    assert await user.ask("GET", "/v1/instances/j") == {"name": "j", "vips": ["192.0.2.9"]}
    answer = await user.ask("PUT", "/v1/listeners/web", {**SITE["listeners"][0], "port": 81})
    (change,) = answer["changes"]
    assert (change["op"], change["old"]["port"], change["new"]["port"]) == ("update", 80, 81)
    assert [item["name"] for item in await user.ask("GET", "/v1/instances")] == ["i", "j"]
    answer = await user.ask("DELETE", "/v1/instances/j")
    assert [change["op"] for change in answer["changes"]] == ["delete"]
    await user.ask("GET", "/v1/instances/j", status=404)
    await user.ask("DELETE", "/v1/instances/j", status=404)


async def test_a_rule_is_changed_in_place(user: User) -> None:
    """What it may hold is given back as it was put; a service that it needs stays."""
    await user.ask("PUT", "/v1/config", SITE)
    rule = {
        "name": "r", "listener": "web", "path": "/x", "methods": ["GET"], "priority": 7,
        "headers": [{"name": "X-A", "values": ["1", "2*"]}], "split": [{"backend_service": "b", "weight": 3}],
        "rewrite": {"path": "/y${rest}"}, "response_headers": [{"name": "Server", "action": "remove"}],
        "scheduler": "lc", "sticky_session": {"cookie": "who"},
    }  # fmt: skip
    await user.ask("PUT", "/v1/rules/r", rule)
    assert await user.ask("GET", "/v1/rules/r") == rule
    problem = await user.ask("DELETE", "/v1/backend_services/b", status=409)
    assert "in use by listeners/web, rules/r;" in problem["detail"]
    moved = {"name": "r", "listener": "web", "url": "/x", "redirect": {"status": 308, "host": "b.test"}}
    (change,) = (await user.ask("PUT", "/v1/rules/r", moved))["changes"]
    assert (change["op"], change["kind"], change["new"]) == ("update", "rules", moved)
    problem = await user.ask("PUT", "/v1/rules/s", {**moved, "name": "s"}, status=422)
    assert problem["errors"][0]["why"] == "rule r of the same listener has url '/x' too"


async def test_replacing_keeps_the_order(user: User) -> None:
    await user.ask("PUT", "/v1/config", {"instances": [{"name": name} for name in "abc"]})
    await user.ask("PUT", "/v1/instances/b", {"vips": ["192.0.2.9"]})
    assert [item["name"] for item in await user.ask("GET", "/v1/instances")] == ["a", "b", "c"]


async def test_what_is_in_use_is_not_deleted(user: User) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    problem = await user.ask("DELETE", "/v1/backend_services/b", status=409)
    assert "in use by listeners/web" in problem["detail"]
    assert user.plane.current.version == 1


async def test_an_object_that_breaks_the_whole_is_refused(user: User) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    problem = await user.ask("PUT", "/v1/rules/r", {"listener": "nope", "backend_service": "b"}, status=422)
    assert problem["errors"][0]["object"] == "rules.r.listener"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/config", {"certificates": [{"name": "c", "chain": KEY}]}),
        ("/v1/config", {"rules": [{"name": KEY}]}),
        ("/v1/certificates/c", {"chain": KEY}),
        ("/v1/instances/i", {"x": [KEY]}),
    ],
)
async def test_private_keys_are_refused_and_not_repeated(
    user: User, path: str, body: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        problem = await user.ask("PUT", path, body, status=422)
    assert "private key" in problem["errors"][0]["why"]
    assert "MIGH" not in json.dumps(problem) + caplog.text
    assert user.plane.current.version == 0


async def test_paths_are_refused(user: User) -> None:
    body = {"chain_file": "/etc/c.pem", "key_file": "/etc/k.pem"}
    problem = await user.ask("PUT", "/v1/certificates/c", body, status=422)
    assert {error["object"] for error in problem["errors"]} == {"certificates.c.chain_file", "certificates.c.key_file"}
    problem = await user.ask("PUT", "/v1/certificates/c", {"chain": "garbage"}, status=422)
    assert problem["errors"][0]["object"] == "certificates.c.chain"


async def test_versions_say_what_they_changed(user: User) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    await user.ask("DELETE", "/v1/listeners/web")
    second = await user.ask("GET", "/v1/versions/2")
    assert [(change["op"], change["name"]) for change in second["changes"]] == [("delete", "web")]
    assert "listeners" not in second["config"]
    first = await user.ask("GET", "/v1/versions/1")
    assert first["config"] == SITE
    assert len(first["changes"]) == 4
    await user.ask("GET", "/v1/versions/3", status=404)
    assert len((await user.ask("GET", "/v1/versions?limit=1"))["versions"]) == 1
    await user.ask("GET", "/v1/versions?limit=x", status=400)


async def test_status_shows_the_nodes(user: User) -> None:
    user.plane.report("l7", "l7-1", 0, (3, "no"), {"ready": True})
    document = await user.ask("GET", "/v1/status")
    assert document["version"] == 0
    (node,) = document["nodes"]
    assert (node["role"], node["name"], node["step"], node["facts"]) == ("l7", "l7-1", "in step", {"ready": True})


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer wrong", "Basic YTpi", "Bearer " + "x" * 5000])
async def test_without_a_valid_token_nothing_is_said(user: User, header: str) -> None:
    for method, path in [("GET", "/v1/config"), ("PUT", "/v1/config"), ("GET", "/v1/status"), ("GET", "/nothing")]:
        await user.ask(method, path, status=401, Authorization=header)
        assert user.headers["WWW-Authenticate"].split()[0] == "Bearer"


async def test_healthz_needs_no_token(user: User) -> None:
    assert await user.ask("GET", "/v1/healthz", Authorization="") == {"status": "ok", "version": 0}


@pytest.mark.parametrize(
    ("method", "path", "data", "status"),
    [
        ("PUT", "/v1/config", b"{", 400),
        ("PUT", "/v1/config", b"[" * 100_000, 400),
        ("PUT", "/v1/config", b"[]", 422),
        ("PUT", "/v1/config", b"\xff", 400),
        ("PUT", "/v1/instances/i", b"[]", 400),
        ("PUT", "/v1/instances/i", b'{"name":"j"}', 400),
        ("GET", "/v1/potatoes", None, 404),
        ("GET", "/v2/config", None, 404),
        ("POST", "/v1/config", None, 405),
    ],
)
async def test_bad_requests(user: User, method: str, path: str, data: bytes | None, status: int) -> None:
    await user.ask(method, path, data=data, status=status)
    if status == 405:
        assert "PUT" in user.headers["Allow"]


async def test_a_body_has_a_limit(user: User) -> None:
    await user.ask("PUT", "/v1/config", data=io.BytesIO(b" " * (BODY_LIMIT_BYTES + 1)), status=413)


async def test_a_failure_of_ours_says_nothing_of_itself(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(limit: int) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(user.plane.store, "history", broken)
    problem = await user.ask("GET", "/v1/versions", status=500)
    assert "secret" not in json.dumps(problem)


async def test_a_storage_that_is_away_is_told_of_and_reading_goes_on(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> int:
        raise StoreUnavailableError("no etcd answers; start it")

    monkeypatch.setattr(user.plane.store, "put", away)
    problem = await user.ask("PUT", "/v1/config", SITE, status=503)
    assert problem["detail"] == "no etcd answers; start it"
    assert user.headers["Retry-After"] == "1"
    assert await user.ask("GET", "/v1/config") == {}


async def test_the_request_log_has_no_secrets(user: User, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "control.guard"):
        await user.ask("PUT", "/v1/config?comment=sesame", SITE)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "control.guard"]
    assert line.startswith("ann PUT /v1/config 200")
    assert user.token not in caplog.text
    assert "sesame" not in caplog.text


async def test_the_inventory_the_warnings_and_the_metrics(user: User) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    ends = now + timedelta(days=5)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.test")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now - timedelta(days=80)).not_valid_after(ends)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]), critical=False)
    chain = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    listener = {**SITE["listeners"][0], "protocol": "https", "certificates": ["soon"]}
    spare = {"name": "spare", "domains": ["b.test"]}
    site = {**SITE, "listeners": [listener], "certificates": [{"name": "soon", "chain": chain}, spare]}
    await user.ask("PUT", "/v1/config", site)
    user.plane.report("l7", "l7-1", 1, None, {"problems": ["certificate 'soon': no OCSP answer is stapled: away"]})
    first, second = (await user.ask("GET", "/v1/inventory"))["certificates"]
    assert user.etag == '"1"'
    assert (first["name"], first["names"]) == ("soon", ["a.test"])
    assert (first["issuer"], first["key_type"]) == ("CN=a.test", "ECDSA P-256")
    assert (first["used_by"], first["urgency"]) == (["web"], "urgent")
    assert first["problems"] == ["no OCSP answer is stapled: away"]
    assert (second["name"], second["used_by"], second["problems"]) == ("spare", [], ["there is no chain yet"])
    (warning,) = (await user.ask("GET", "/v1/status"))["warnings"]
    assert warning.startswith("certificate 'soon' expires in ")
    headers = {"Authorization": f"Bearer {user.token}"}
    async with user.client.get("/v1/metrics", headers=headers) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await response.text()
    (found,) = re.findall(r'^paifang_control_certificate_end_timestamp_seconds{certificate="soon"} (.*)$', text, re.M)
    assert float(found) == ends.timestamp()
    async with user.client.get("/v1/metrics") as response:
        assert response.status == 401


async def test_answers_that_several_listeners_share_are_warned_of(user: User) -> None:
    nodes = [{"name": f"l4-{each}", "role": "l4", "address": f"10.0.1.{each}"} for each in (1, 2)]
    listener = {"instance": "dns", "protocol": "udp", "backend_service": "dns"}
    site = {
        "nodes": nodes,
        "server_groups": [{"name": "dns", "servers": [{"address": "10.0.0.9", "port": 53}]}],
        "backend_services": [{"name": "dns", "protocol": "udp", "server_group": "dns"}],
        "instances": [{"name": "dns", "type": "nlb", "vips": ["192.0.2.10"]}],
        "listeners": [{"name": "one", "port": 53, **listener}, {"name": "two", "port": 5353, **listener}],
    }
    await user.ask("PUT", "/v1/config", site)
    (warning,) = (await user.ask("GET", "/v1/status"))["warnings"]
    assert warning.startswith("listener 'two': answers from 10.0.0.9:53 to 192.0.2.10 may be for one of 192.0.2.10")
    await user.ask("DELETE", "/v1/listeners/two")
    assert (await user.ask("GET", "/v1/status"))["warnings"] == []


async def test_an_issuer_tells_what_it_does_and_is_the_only_one(user: User) -> None:
    certificate = {"name": "shop", "domains": ["shop.test"]}
    await user.ask("PUT", "/v1/config", {"certificates": [certificate]})
    told = {"issuer": "one", "certificates": {"shop": {"text": "is being got"}, "gone": {"text": "?"}}}
    headers = {"Authorization": f"Bearer {user.token}"}
    async with user.client.post("/v1/issuance", json=told, headers=headers) as response:
        assert response.status == 204
    (shop,) = (await user.ask("GET", "/v1/inventory"))["certificates"]
    assert shop["issuance"] == {"text": "is being got"}
    assert (await user.ask("GET", "/v1/status"))["warnings"] == []
    failed = {
        "issuer": "one",
        "certificates": {"shop": {"text": "failed: shop.test: no"}, "gone": {"text": "failed: x"}},
    }
    async with user.client.post("/v1/issuance", json=failed, headers=headers) as response:
        assert response.status == 204
    assert (await user.ask("GET", "/v1/status"))["warnings"] == ["certificate 'shop': failed: shop.test: no"]
    problem = await user.ask("POST", "/v1/issuance", {**told, "issuer": "two"}, status=409)
    assert problem["detail"] == "the issuer 'one' is at work; one in a cluster is enough"
    for wrong in ([], {"issuer": "one"}, {"issuer": 1, "certificates": {}}, {"issuer": "", "certificates": {}}):
        await user.ask("POST", "/v1/issuance", wrong, status=400)
