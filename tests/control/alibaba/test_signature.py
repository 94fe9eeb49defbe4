"""Signatures: the vectors that Alibaba Cloud has published, and that nothing which is not signed has an effect."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.alibaba.errors import SlbError
from control.alibaba.signature import ACS3, FORM, Request, Signed, canonical_query, format_of, read, signature

# "Request syntax and signature method V3", the example of RunInstances.
V3_SIGNATURE = "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
V3_HEADS = {
    "host": "ecs.cn-shanghai.aliyuncs.com", "x-acs-action": "RunInstances",
    "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(), "x-acs-date": "2023-10-26T10:22:32Z",
    "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d", "x-acs-version": "2014-05-26",
}  # fmt: skip
V3_QUERY = "ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai"
# "Signature method", the example of DescribeRegions; the secret is testsecret.
V1 = {
    "Timestamp": "2016-02-23T12:46:24Z", "Format": "XML", "AccessKeyId": "testid", "Action": "DescribeRegions",
    "SignatureMethod": "HMAC-SHA1", "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf", "Version": "2014-05-26",
    "SignatureVersion": "1.0", "Signature": "OLeaidS1JvxuMvnyHOwuJ+uX5qY=",
}  # fmt: skip


def v3(query: str = V3_QUERY, body: bytes = b"", made: str = V3_SIGNATURE, **changes: str) -> Request:
    heads = V3_HEADS | {name.replace("_", "-"): value for name, value in changes.items()}
    names = ";".join(sorted(V3_HEADS))
    line = f"{ACS3} Credential=YourAccessKeyId,SignedHeaders={names},Signature={made}"
    return Request("POST", "/", query, (("Authorization", line), *heads.items()), body)


def v1(method: str = "GET", body: bytes = b"", **changes: str) -> Request:
    return Request(method, "/", urlencode(V1 | changes), (("Content-Type", FORM),) if body else (), body)


def test_the_published_example_of_version_3() -> None:
    found = read(v3())
    assert found.signed_with("YourAccessKeySecret")
    assert not found.signed_with("YourAccessKeySecreT")
    assert (found.key_id, found.action, found.version, found.format) == (
        "YourAccessKeyId", "RunInstances", "2014-05-26", "JSON",
    )  # fmt: skip
    assert found.parameters["RegionId"] == "cn-shanghai"
    assert found.signed_at == 1698315752


def test_the_published_example_of_version_1() -> None:
    found = read(v1())
    assert found.signed_with("testsecret")
    assert not found.signed_with("testsecre")
    assert (found.key_id, found.action, found.format, found.parameters) == ("testid", "DescribeRegions", "XML", {})


@pytest.mark.parametrize("name", sorted(set(V1) - {"Signature"}))
def test_whatever_is_changed_in_version_1_breaks_the_signature(name: str) -> None:
    changed = {"Format": "JSON", "Timestamp": "2016-02-23T12:46:25Z"}.get(name, f"{V1[name]}x")
    with contextlib.suppress(SlbError):  # it may be none that we know
        assert not read(v1(**{name: changed})).signed_with("testsecret")


@pytest.mark.parametrize("name", sorted(V3_HEADS))
def test_whatever_is_changed_in_version_3_breaks_the_signature(name: str) -> None:
    changed = "2023-10-26T10:22:33Z" if name == "x-acs-date" else f"{V3_HEADS[name]}x"
    with contextlib.suppress(SlbError):  # the hash is not the body's
        assert not read(v3(**{name.replace("-", "_"): changed})).signed_with("YourAccessKeySecret")


def test_the_method_and_the_query_are_signed() -> None:
    assert not read(v1("POST")).signed_with("testsecret")
    assert not read(v1(RegionId="elsewhere")).signed_with("testsecret")
    assert not read(v3(V3_QUERY + "&Amount=2")).signed_with("YourAccessKeySecret")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        pytest.param(Request("GET", "/other", "", (), b""), "InvalidAction.NotFound", id="path"),
        pytest.param(Request("PUT", "/", "", (), b""), "UnsupportedHTTPMethod", id="method"),
        pytest.param(Request("GET", "/", "", (), b""), "MissingParameter.Action", id="nothing"),
        pytest.param(v1(SignatureMethod="HMAC-MD5"), "InvalidParameter", id="algorithm"),
        pytest.param(v1(SignatureType="BEARERTOKEN"), "InvalidParameter", id="bearer"),
        pytest.param(v1(SignatureVersion="2.0"), "InvalidParameter", id="version"),
        pytest.param(v1(Timestamp="yesterday"), "InvalidTimeStamp.Format", id="time"),
        pytest.param(v1(SignatureNonce="n" * 129), "InvalidParameter", id="long-nonce"),
        pytest.param(v1(Format="YAML"), "InvalidParameter", id="format"),
        pytest.param(v1("POST", b"Action=DeleteLoadBalancer"), "InvalidParameter", id="twice-in-query-and-body"),
        pytest.param(v3(V3_QUERY + "&RegionId=b"), "InvalidParameter", id="twice-in-query"),
        pytest.param(v3(V3_QUERY + "&Action=RunInstances"), "InvalidParameter", id="action-in-query-too"),
        pytest.param(v3(V3_QUERY + "&Signature=x"), "InvalidSignature", id="signed-twice"),
        pytest.param(v3(V3_QUERY + "&A=%zz"), "InvalidParameter", id="bad-escape"),
        pytest.param(v3(V3_QUERY + "&A=%ff"), "InvalidParameter", id="not-utf-8"),
        pytest.param(v3("&".join(f"a{n}=1" for n in range(501))), "InvalidParameter", id="too-many"),
        pytest.param(v3(x_acs_security_token="t"), "InvalidAuthorization", id="unsigned-head"),
        pytest.param(v3(body=b"A=1"), "UnsupportedMediaType", id="body-without-type"),
        pytest.param(v3(body=b"A=1", content_type=FORM), "InvalidAuthorization", id="unsigned-type"),
        pytest.param(v3(made="0" * 63), "InvalidAuthorization", id="short"),
        pytest.param(v3(x_acs_date=""), "MissingParameter.x-acs-date", id="no-date"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused(request_: Request, code: str) -> None:
    with pytest.raises(SlbError) as caught:
        read(request_)
    assert caught.value.word == code


def test_a_head_that_stands_twice_is_refused() -> None:
    request = v3()
    with pytest.raises(SlbError, match="given twice"):
        read(Request("POST", "/", V3_QUERY, (*request.headers, ("X-Acs-Action", "DeleteLoadBalancer")), b""))


def test_a_body_is_signed_by_its_hash() -> None:
    body = b"A=1"
    names = sorted([*V3_HEADS, "content-type"])
    heads = V3_HEADS | {"content-type": FORM, "x-acs-content-sha256": hashlib.sha256(body).hexdigest()}
    lines = "".join(f"{name}:{heads[name]}\n" for name in names)
    text = f"POST\n/\n\n{lines}\n{';'.join(names)}\n{heads['x-acs-content-sha256']}"
    to_sign = f"{ACS3}\n{hashlib.sha256(text.encode()).hexdigest()}"
    made = hmac.new(b"secret", to_sign.encode(), hashlib.sha256).hexdigest()
    line = f"{ACS3} Credential=id,SignedHeaders={';'.join(names)},Signature={made}"
    found = read(Request("POST", "/", "", (("authorization", line), *heads.items()), body))
    assert found.signed_with("secret")
    assert found.parameters == {"A": "1"}
    with pytest.raises(SlbError, match="SHA-256"):
        read(Request("POST", "/", "", (("authorization", line), *heads.items()), b"A=2"))


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=12)
TEXTS = st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=20), max_size=6)


@given(parameters=TEXTS)
def test_what_is_signed_is_what_the_action_gets(parameters: dict[str, str]) -> None:
    """However a query was encoded, names and values come out as they were signed."""
    own = {name: value for name, value in parameters.items() if name not in V1 and name != "SignatureType"}
    common = {name: value for name, value in V1.items() if name != "Signature"}
    to_sign = f"GET&%2F&{quote(canonical_query(own | common), safe='~')}"
    made = base64.b64encode(hmac.new(b"s&", to_sign.encode(), hashlib.sha1).digest()).decode()
    for query in (urlencode(own | common | {"Signature": made}), canonical_query(own | common | {"Signature": made})):
        found = read(Request("GET", "/", query, (), b""))
        assert found.signed_with("s")
        assert found.parameters == own


@given(first=TEXTS, second=TEXTS)
def test_different_parameters_are_different_texts(first: dict[str, str], second: dict[str, str]) -> None:
    assert (canonical_query(first) == canonical_query(second)) is (first == second)


@given(
    st.builds(
        Request, st.sampled_from(["GET", "POST"]), st.just("/"), st.text(max_size=60),
        st.lists(st.tuples(st.sampled_from([*V3_HEADS, "authorization"]), st.text(max_size=40)), max_size=9),
        st.binary(max_size=40),
    )
)  # fmt: skip
def test_whatever_comes_is_read_or_refused(request: Request) -> None:
    with contextlib.suppress(SlbError):  # and nothing else escapes
        assert isinstance(read(request), Signed)


def test_the_format_of_what_could_not_be_read() -> None:
    assert [format_of(query, "XML") for query in ("Format=json&a=1", "a=1&Format=JSON", "aFormat=JSON", "")] == [
        "JSON", "JSON", "XML", "XML",
    ]  # fmt: skip
    assert signature("a", "b", True) != signature("a", "b", False)
