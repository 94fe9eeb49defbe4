from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import Authority
from control.prepare import FILE_LIMIT_BYTES, Document, inline, read
from core.errors import ConfigErrors
from core.model import CaCertificate, Certificate, ErrorPage, Kind, Maintenance
from tests.proxy.client_certs import Authority as ClientAuthority

NOW = datetime.now(UTC)
CERTIFICATE = """# mine
[[certificates]]
name = "c"
chain_file = "c.pem"
"""


def leaf(directory: Path, now: datetime = NOW) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority.init(directory / "ca").issue_leaf(key.public_key(), ["a.test"], now).decode()


def document(directory: Path, text: str) -> Document:
    (directory / "site.toml").write_text(text)
    return read(directory / "site.toml")


def test_chains_are_inlined_relative_to_the_file_and_keys_taken_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.pem").write_text(chain := leaf(tmp_path))
    text = CERTIFICATE.replace("c.pem", "sub/c.pem") + 'key_file = "k.pem"\n'
    text += '[[certificates]]\nname = "dev"\ndomains = ["a.example"]\n'
    text += f'[[certificates]]\nname = "pasted"\nchain = """\n{chain}"""\n'
    prepared = inline(document(tmp_path, text))
    assert prepared.model.certificates == {
        "c": Certificate("c", chain=chain),
        "dev": Certificate("dev", domains=("a.example",)),
        "pasted": Certificate("pasted", chain=chain),
    }
    assert prepared.keys == {"c": tmp_path / "k.pem"}
    assert prepared.warnings == ()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "c.pem: No such file or directory; give a file of PEM certificates, the leaf first"),
        ("", "c.pem: holds no certificate; give a file of PEM"),
        ("garbage", "c.pem: holds no certificate; give a file of PEM"),
        ("schlüssel", "c.pem: is not PEM text; give a file of PEM"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "not a chain of PEM certificates"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\n", "holds a private key; keep it"),
    ],
)
def test_chains_that_cannot_be_used(tmp_path: Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "c.pem").write_text(content)
    with pytest.raises(ConfigErrors) as caught:
        inline(document(tmp_path, CERTIFICATE))
    (error,) = caught.value.errors
    assert str(error).startswith(f"{tmp_path}/site.toml:4: certificates.c.chain_file: ")
    assert why in str(error)
    assert "MHc" not in str(error)


def test_a_chain_in_the_wrong_order_is_refused_at_any_time(tmp_path: Path) -> None:
    chain = leaf(tmp_path)
    (tmp_path / "c.pem").write_text(Authority.load(tmp_path / "ca").ca_pem.decode() + chain)
    with pytest.raises(ConfigErrors, match="the leaf is certificate 2: it has to come first; no node serves it"):
        inline(document(tmp_path, CERTIFICATE))


@pytest.mark.parametrize(("days", "why"), [(-400, "expired on"), (40, "is not valid before")])
def test_a_chain_whose_time_is_not_now_is_worth_a_warning(tmp_path: Path, days: int, why: str) -> None:
    (tmp_path / "c.pem").write_text(chain := leaf(tmp_path, NOW + timedelta(days=days)))
    prepared = inline(document(tmp_path, CERTIFICATE))
    assert prepared.model.certificates["c"].chain == chain
    (warning,) = prepared.warnings
    assert str(warning).startswith(f"{tmp_path}/site.toml:4: certificates.c.chain_file: ")
    assert why in str(warning)
    assert "no node serves it while that is so" in str(warning)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"#\n# \xff", r"f.toml:2: byte 0xff is not UTF-8; save it as UTF-8 text"),
        (b"#" * (FILE_LIMIT_BYTES + 1), "is longer than"),
        (b"x = ", "not TOML"),
        (
            b'[[certificates]]\nname = "c"\nchain = "-----BEGIN PRIVATE KEY-----"\n',
            r"f\.toml:3: .* a private key; keep",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "f.toml").write_bytes(content)
    with pytest.raises(ConfigErrors, match=why):
        read(tmp_path / "f.toml")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none.toml", "none.toml: No such file or directory; give a TOML or JSON file"),
        (".", r"has no file that ends in \.toml; give a file, or another directory"),
        ("/dev/zero", "is longer than"),
    ],
)
def test_what_is_no_file(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigErrors, match=why):
        read(tmp_path / name)


def test_a_file_that_we_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, _mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigErrors, match="Permission denied; make it readable for this user"):
        read(tmp_path / "f.toml")


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_bytes(b'\xef\xbb\xbf[[instances]]\r\nname = "i"\r\n')
    assert list(read(tmp_path / "f.toml").model.instances) == ["i"]
    (tmp_path / "f.json").write_bytes(b'\xef\xbb\xbf{"instances": [{"name": "i"}]}')
    assert list(read(tmp_path / "f.json").model.instances) == ["i"]


def test_faults_have_lines_in_json_as_well(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{"instances":\n[{"name": "i"},\n{"name": "j",\n"vips": []}]}')
    found = read(tmp_path / "f.json")
    assert str(found.error(Kind.INSTANCES, "j", "vips", "why", "remedy")).endswith("4: instances.j.vips: why; remedy")
    assert str(found.error(Kind.INSTANCES, "j", "", "why")).endswith("f.json:3: instances.j: why")


AUTHORITIES = """# whose clients
[[ca_certificates]]
name = "p"
bundle_file = "ca.pem"
crl_file = "crl.pem"
"""


def test_authorities_are_inlined(tmp_path: Path) -> None:
    ours = ClientAuthority()
    (tmp_path / "ca.pem").write_text(ours.pem)
    (tmp_path / "crl.pem").write_text(crl := ours.revoke())
    text = f'{AUTHORITIES}[[ca_certificates]]\nname = "q"\nbundle = """\n{ours.pem}"""\n'
    prepared = inline(document(tmp_path, text))
    assert prepared.model.ca_certificates == {
        "p": CaCertificate("p", bundle=ours.pem, crl=crl),
        "q": CaCertificate("q", bundle=ours.pem),
    }
    assert prepared.warnings == ()


def test_authorities_that_cannot_be_used(tmp_path: Path) -> None:
    ours = ClientAuthority()

    def said() -> list[str]:
        with pytest.raises(ConfigErrors) as caught:
            inline(document(tmp_path, AUTHORITIES))
        return [str(error).removeprefix(str(tmp_path)) for error in caught.value.errors]

    bundle, crl = said()
    assert bundle.startswith("/site.toml:4: ca_certificates.p.bundle_file: ")
    assert bundle.endswith("ca.pem: No such file or directory; give a file of PEM text")
    assert crl.startswith("/site.toml:5: ca_certificates.p.crl_file: ")
    (tmp_path / "ca.pem").write_text(ours.pem)
    (tmp_path / "crl.pem").write_text(ClientAuthority("Others").revoke())
    (crl,) = said()
    assert crl == (
        "/site.toml:5: ca_certificates.p.crl_file: the list of CN=Others, who is not among the authorities; no client "
        "could be verified by it: give certificates of authorities, and lists that they have signed"
    )


def test_a_revocation_list_that_has_run_out_is_worth_a_warning(tmp_path: Path) -> None:
    """Nobody is admitted then; but it is no reason to refuse a change to anything else."""
    ours = ClientAuthority()
    (tmp_path / "ca.pem").write_text(ours.pem)
    (tmp_path / "crl.pem").write_text(ours.revoke(until=timedelta(hours=-1)))
    (warning,) = inline(document(tmp_path, AUTHORITIES)).warnings
    assert warning.line == 5
    assert "the list of CN=Partners ran out on " in str(warning)
    assert str(warning).endswith("; no client of it is admitted while that is so")


ACME = """[acme]
email = "ops@example.com"
agree_tos = true
directory = "https://ca.test/dir"
directory_ca_file = "ca.pem"

[[listeners]]
protocol = "https"
port = 443
domains = ["a.test"]
servers = ["127.0.0.1:1"]
"""


def test_the_acme_table_has_an_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority.init(tmp_path / "ca").ca_pem)
    found = inline(document(tmp_path, ACME)).acme
    assert found is not None
    assert (found.directory_ca_file, found.directory) == (str(tmp_path / "ca.pem"), "https://ca.test/dir")
    assert inline(document(tmp_path, ACME.partition("\n\n")[2])).acme is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "ca.pem: No such file or directory; "),
        ("none", "ca.pem: holds no certificate; "),
        ("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n", "not PEM certificates: "),
    ],
    ids=["missing", "text", "nonsense"],
)
def test_what_vouches_for_the_acme_server_is_looked_at(tmp_path: Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ConfigErrors) as caught:
        inline(document(tmp_path, ACME))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/site.toml:5: acme.directory_ca_file: ")
    assert why in text
    assert text.endswith("; give a file of the CAs that vouch for the ACME server itself")


PAGES = """[[listeners]]
name = "web"
protocol = "http"
port = 80
servers = ["192.0.2.1:80"]
error_pages = [{ status = "5xx", body_file = "sorry.html" }, { status = "404", body = "none" }]
[[rules]]
name = "r"
listener = "web"
backend_service = "web"
error_pages = [{ status = "502", body_file = "sorry.html" }]
[rules.maintenance]
enabled = false
body_file = "sorry.html"
"""


def test_pages_are_inlined(tmp_path: Path) -> None:
    (tmp_path / "sorry.html").write_text("\ufeff<p>${status} \u20ac")
    made = inline(document(tmp_path, PAGES)).model
    assert made.listeners["web"].error_pages == (
        ErrorPage("5xx", body="<p>${status} \u20ac"),
        ErrorPage("404", body="none"),
    )
    assert made.rules["r"].error_pages == (ErrorPage("502", body="<p>${status} \u20ac"),)
    assert made.rules["r"].maintenance == Maintenance(enabled=False, body="<p>${status} \u20ac")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "sorry.html: No such file or directory; give a file of text"),
        (b"", "sorry.html: is empty; give a file of text"),
        (b"\xff", "sorry.html: is not UTF-8 text; give a file of text"),
        (b"x" * 65_537, "sorry.html: is longer than 65,536 characters; give a file of text"),
        (b"${statu}", "sorry.html: ${statu} stands for nothing; did you mean status?"),
    ],
    ids=["missing", "empty", "binary", "long", "variable"],
)
def test_pages_that_cannot_be_used(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "sorry.html").write_bytes(content)
    with pytest.raises(ConfigErrors) as caught:
        inline(document(tmp_path, PAGES))
    listener, rule, closed = map(str, caught.value.errors)
    assert listener.startswith(f"{tmp_path}/site.toml:6: listeners.web.error_pages: ")
    assert rule.startswith(f"{tmp_path}/site.toml:11: rules.r.error_pages: ")
    assert why in listener
    assert why in rule
    assert closed.startswith(f"{tmp_path}/site.toml:12: rules.r.maintenance: ")
    assert why in closed
