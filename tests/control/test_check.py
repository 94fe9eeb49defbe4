"""`paifang check` on what people really write: each mistake is refused whole, with file, line, reason and remedy."""

import json
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from certs.authority import Authority, private_pem
from control import cli
from control.node.files import write_atomic

FRONT = """[[listeners]]
protocol = "https"
port     = 8443
domains  = ["localhost"]
servers  = ["127.0.0.1:8000"]
"""
SITE = """[[instances]]
name = "shop"
vips = ["192.0.2.10"]

[[server_groups]]
name = "web"
servers = [{ address = "192.0.2.20", port = 8080 }]

[[backend_services]]
name = "web"
protocol = "http"
server_group = "web"

[[listeners]]
name = "web"
instance = "shop"
protocol = "http"
port = 80
backend_service = "web"
"""
ACME = """[acme]
email = "ops@example.com"
agree_tos = true
directory = "https://ca.test/dir"

[[listeners]]
protocol = "https"
port = 443
domains = ["a.test"]
servers = ["127.0.0.1:8000"]
"""
OWN = """[[certificates]]
name = "own"
chain_file = "own.pem"
key_file = "own.key"

[[listeners]]
protocol = "https"
port = 8443
certificates = ["own"]
servers = ["127.0.0.1:8000"]
"""


@dataclass(frozen=True)
class Bad:
    """`old` in `text` replaced by `new`: the first message has `line`, `why` and `remedy`."""

    text: str
    old: str
    new: str
    line: int
    why: str
    remedy: str
    name: str = "f.toml"


BAD = {
    # the text itself
    "duplicate key": Bad(FRONT, "port ", "protocol = ''\nport ", 3, "not TOML: Cannot overwrite", "keep one of them"),
    "single brackets": Bad(FRONT, "[[listeners]]", "[listeners]", 1, "not a list of tables", "write [[listeners]]"),
    "colon": Bad(FRONT, "port     =", "port:", 3, "not TOML", "write KEY = VALUE"),
    "no quotes": Bad(FRONT, '"https"', "https", 2, "not TOML: Invalid value", "strings stand in double quotes"),
    "curly quotes": Bad(FRONT, '"https"', "“https”", 2, "not TOML: Invalid value", "strings stand in double quotes"),
    "unclosed list": Bad(FRONT, '"localhost"]', '"localhost"', 5, "not TOML: Unclosed array", "close the list with ]"),
    "unclosed string": Bad(FRONT, '"https"', '"https', 2, "not TOML: Illegal character", "close the string"),
    "JSON by name": Bad(FRONT, FRONT, '{"listeners": []}', 1, "not TOML", "a name that ends in .json"),
    "YAML": Bad(FRONT, FRONT, "listeners:\n  - port: 80\n", 1, "not TOML", "write KEY = VALUE"),
    "TOML by name": Bad(FRONT, "", "", 1, "not JSON", "a name that ends in .toml", "f.json"),
    "empty JSON": Bad(FRONT, FRONT, "", 1, "not JSON", "the file is empty", "f.json"),
    "trailing comma": Bad(FRONT, FRONT, '{"rules": [\n{"name": "a",}]}', 2, "not JSON", "no comma before }", "f.json"),
    "comment in JSON": Bad(FRONT, FRONT, '{\n// mine\n"listeners": []}', 2, "not JSON", "no comments", "f.json"),
    "JSON list": Bad(FRONT, FRONT, "[]", 0, "an empty list is not a table", "give a table of nodes", "f.json"),
    "JSON key twice": Bad(
        FRONT, FRONT, '{"instances": [{"name": "a",\n"name": "b"}]}', 2, "given twice", "keep one", "f.json"
    ),
    # keys
    "unknown kind": Bad(FRONT, "listeners", "listener", 1, "listener: unknown key", "did you mean listeners?"),
    "unknown key": Bad(SITE, "port = 80\n", "port = 80\nmod = 1\n", 19, "mod: unknown key", "did you mean mode?"),
    "unknown key deep": Bad(SITE, "port = 8080", "prot = 8080", 7, "servers[0].prot: unknown", "did you mean port?"),
    "no protocol": Bad(FRONT, 'protocol = "https"\n', "", 1, "protocol is missing", "give tcp, udp, http or https"),
    "no port": Bad(FRONT, "port     = 8443\n", "", 1, "port is missing", "from 1 to 65535"),
    "no servers": Bad(FRONT, 'servers  = ["127.0.0.1:8000"]\n', "", 1, "nowhere to forward to", "backend_service or"),
    "no domains": Bad(FRONT, 'domains  = ["localhost"]\n', "", 1, "without certificates", "or domains to try it"),
    # values
    "port as text": Bad(FRONT, "8443", '"8443"', 3, "'8443' is not a whole number", "from 1 to 65535"),
    "port as fraction": Bad(FRONT, "8443", "8443.0", 3, "8443.0 is not a whole number", "from 1 to 65535"),
    "port as boolean": Bad(FRONT, "8443", "true", 3, "port: true is not a whole", "from 1 to 65535"),
    "port 0": Bad(FRONT, "8443", "0", 3, "0 is out of range", "from 1 to 65535"),
    "port too large": Bad(FRONT, "8443", "84430", 3, "84430 is out of range", "from 1 to 65535"),
    "protocol misspelt": Bad(FRONT, "https", "htps", 2, "'htps' is not known", "did you mean https?"),
    "protocol in capitals": Bad(FRONT, "https", "HTTPS", 2, "'HTTPS' is not known", "did you mean https?"),
    "domain as URL": Bad(FRONT, "localhost", "https://a.test/", 4, "does not fit", "give a host name"),
    "tab in a name": Bad(FRONT, "localhost", "local\\thost", 4, "does not fit", "give a host name"),
    "server as URL": Bad(FRONT, "127", "http://127", 5, "is not an address and port", "such as '127.0.0.1:8000'"),
    "server by name": Bad(FRONT, "127.0.0.1", "localhost", 5, "is not an IP address", "give an IP address"),
    "server of IPv6": Bad(FRONT, "127.0.0.1", "::1", 5, "is not an address and port", "such as '[::1]:8000'"),
    "server without port": Bad(FRONT, ":8000", "", 5, "not an address and port", "such as '127.0.0.1:8000'"),
    "servers not a list": Bad(FRONT, '["127.0.0.1:8000"]', '"127.0.0.1:1"', 5, "is not a list", 'give ["ADDRESS:PORT"'),
    "server twice": Bad(FRONT, '["127', '["127.0.0.1:8000", "127', 5, "in the list already", "remove one"),
    "name with a blank": Bad(SITE, '"shop"', '"my shop"', 2, "does not fit", "letters, digits"),
    "VIP out of range": Bad(SITE, "2.10", "2.300", 3, "is not an IP address", "give an IP address"),
    "VIP of one link": Bad(SITE, "192.0.2.10", "fe80::1", 3, "is link-local", "give an IP address"),
    "weight": Bad(SITE, "port = 8080", "port = 8080, weight = 101", 7, "101 is out of range", "from 0 to 100"),
    "time with a unit": Bad(SITE, "port = 80\n", 'port = 80\nidle_timeout_s = "9s"\n', 19, "'9s' is not", "1 to 60 s"),
    # what does not fit together
    "dangling reference": Bad(SITE, 'group = "web"', 'group = "wbe"', 12, "is named 'wbe'", "did you mean web?"),
    "domains of http": Bad(FRONT, "https", "http", 1, "certificates is for https", "remove it"),
    "domains and certificates": Bad(OWN, "port", 'domains = ["a.test"]\nport', 8, "exclude each other", "give one"),
    "one name twice": Bad(SITE, "", '[[instances]]\nname = "shop"\n', 4, "another of the instances", "rename one"),
    "tcp before http": Bad(SITE, 'protocol = "http"\nport', 'protocol = "tcp"\nport', 16, "needs an instance", "nlb"),
    "scheduler": Bad(SITE, "[[listeners", 'scheduler = "maglev"\n[[listeners', 14, "has no maglev", "give ch, lc"),
    "itself as server": Bad(FRONT, ":8000", ":8443", 1, "where this listener answers itself", "change the listener's"),
    "key without chain": Bad(OWN, 'chain_file = "own.pem"\n', "", 1, "neither a chain nor domains", "give chain_file"),
    # acme
    "no e-mail": Bad(ACME, 'email = "ops@example.com"\n', "", 1, "acme: email is missing", "give an e-mail address"),
    "terms": Bad(ACME, "agree_tos = true\n", "", 1, "wants its terms of service agreed to", "agree_tos = true"),
    "directory": Bad(ACME, "https://ca", "http://ca", 4, "acme.directory: 'http://ca.test/dir' does", "an https URL"),
    "wildcard": Bad(ACME, '"a.test"', '"*.a.test"', 9, "domains[0]: *.a.test: a wildcard can be", "name the hosts"),
    "no port of a CA's": Bad(ACME, "443", "8443", 1, "a CA looks at port 80", "give challenge if a router"),
    "unknown certificate": Bad(OWN, '["own"]', '["won"]', 9, "is named 'won'", "did you mean own?"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_mistake_is_refused_with_its_line_and_a_remedy(
    bad: Bad, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / bad.name
    assert bad.old in bad.text
    file.write_text(bad.text.replace(bad.old, bad.new, 1) if bad.old else bad.new + bad.text)
    assert cli.main(["check", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    first, *others = err.splitlines()
    assert first.startswith(f"{file}:{bad.line}: " if bad.line else f"{file}: "), err
    assert bad.why in first
    assert bad.remedy in first.partition(bad.why)[2]
    for line in (first, *others):
        assert re.fullmatch(rf"{re.escape(str(file))}(:\d+)?: .+; .+", line), line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with own.pem and own.key, which fit, other.key, which does not, and others that cannot be served."""
    made = tmp_path_factory.mktemp("pair")
    authority = Authority.init(made / "ca")
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.now(UTC)
    (made / "own.pem").write_bytes(leaf := authority.issue_leaf(key.public_key(), ["a.test"]))
    (made / "expired.pem").write_bytes(authority.issue_leaf(key.public_key(), ["a.test"], now - timedelta(days=400)))
    (made / "early.pem").write_bytes(authority.issue_leaf(key.public_key(), ["a.test"], now + timedelta(days=2)))
    (made / "order.pem").write_bytes(authority.ca_pem + leaf)
    (made / "node.pem").write_bytes(leaf + leaf)
    (made / "empty.pem").touch()
    write_atomic(made / "own.key", private_pem(key))
    write_atomic(made / "other.key", private_pem(other))
    write_atomic(made / "open.key", private_pem(key), mode=0o644)
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    write_atomic(made / "sealed.key", sealed)
    write_atomic(made / "garbage.key", b"garbage")
    return made


@pytest.mark.parametrize(
    ("chain", "key", "line", "why"),
    [
        ("expired.pem", "own.key", 3, "expired on"),
        ("early.pem", "own.key", 3, "is not valid before"),
        ("order.pem", "own.key", 3, "the leaf is certificate 2: it has to come first"),
        ("node.pem", "own.key", 3, "certificate 2 (CN=a.test) is no CA"),
        ("empty.pem", "own.key", 3, "empty.pem: holds no certificate; give a file of PEM certificates"),
        ("none.pem", "own.key", 3, "none.pem: No such file or directory; give a file of PEM certificates"),
        ("own.key", "own.pem", 3, "holds a private key; keep it from here"),
        ("own.pem", "other.key", 4, "other.key: not the private key of this chain; give the one"),
        ("own.pem", "open.key", 4, "others than its owner may use it (mode 0644); chmod 600 "),
        ("own.pem", "sealed.key", 4, "it is encrypted; give the key server --passphrase-file"),
        ("own.pem", "garbage.key", 4, "no private key in it; give a PEM file with a private key"),
        ("own.pem", "ca", 4, "is a directory; give the file of its private key"),
    ],
)
def test_certificates_that_no_node_would_serve(
    chain: str, key: str, line: int, why: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "site"
    shutil.copytree(made, place)
    (place / "f.toml").write_text(OWN.replace("own.pem", chain).replace('"own.key"', f'"{key}"'))
    if chain == "own.key":  # the two are swapped, and both are complained of where they stand
        (place / "f.toml").write_text(
            OWN.replace("own.pem", "x").replace("own.key", "own.pem").replace('"x"', '"own.key"')
        )
    assert cli.main(["check", str(place / "f.toml")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{place}/f.toml:{line}: certificates.own.{'chain' if line == 3 else 'key'}_file: ")
    assert why in err
    assert "; " in err
    assert "BEGIN" not in err


def test_a_pair_that_fits_and_a_key_that_is_elsewhere(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "site")
    file = tmp_path / "site" / "f.toml"
    file.write_text(OWN)
    assert cli.main(["check", str(file)]) == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "site" / "own.key").unlink()
    assert cli.main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "valid" in out
    assert (
        f"{file}:4: certificates.own.key_file: {tmp_path}/site/own.key is not readable here: `paifang up` needs" in err
    )


def test_all_mistakes_at_once_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.toml"
    file.write_text(FRONT.replace("8443", "0").replace("localhost", "-").replace("127.0.0.1", "here"))
    assert cli.main(["check", "--json", str(file)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is False
    assert [error["line"] for error in document["errors"]] == [3, 4, 5]
    assert all(error["suggestion"] for error in document["errors"])


@pytest.mark.parametrize(
    "text", [FRONT, FRONT.replace("\n", "\r\n"), "\ufeff" + FRONT, FRONT.replace("port", "\tport"), ACME]
)
def test_what_is_no_mistake(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.toml").write_text(text)
    assert cli.main(["check", str(tmp_path / "f.toml")]) == 0
    assert capsys.readouterr().err == ""


UNUSED = """
[[server_groups]]
name = "old"
servers = [{ address = "192.0.2.21", port = 8080 }]

[[access_lists]]
name = "office"
"""


def test_what_nobody_uses_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.toml"
    file.write_text(SITE + UNUSED)
    line = SITE.count("\n") + 2
    assert cli.main(["check", str(file)]) == 0
    captured = capsys.readouterr()
    assert "valid; 2 server_groups" in captured.out
    why = "nobody names it, so that it does nothing; refer to it, or remove it"
    assert captured.err.splitlines() == [
        f"warning: {file}:{line}: server_groups.old: {why}",
        f"warning: {file}:{line + 4}: access_lists.office: {why}",
    ]
    assert cli.main(["check", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["object_path"] for each in found["warnings"]] == ["server_groups.old", "access_lists.office"]
    assert found["valid"]


def test_redirect_maps_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong is said with the line of the map's own file; what leads on and on is a warning."""
    file, csv = tmp_path / "f.toml", tmp_path / "old.csv"
    file.write_text(f'''{SITE}
[[redirect_maps]]
name = "old"
entries_file = "old.csv"

[[redirect_maps]]
name = "here"
entries = """
/a /b
/b /c"""

[[rules]]
name = "old"
listener = "web"
redirect_map = "old"

[[rules]]
name = "here"
listener = "web"
redirect_map = "here"
''')
    line = SITE.count("\n") + 8
    csv.write_text("from,to,status\n/1,/2,302\n/2,/3\n")
    assert cli.main(["check", str(file)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {csv}:2: redirect_maps.old: /1 leads to /2, and line 3 on to /3",
        f"warning: {file}:{line}: redirect_maps.here.entries: line 1: /a leads to /b, and line 2 on to /c",
    ]
    csv.write_text("/1,/2,302\n/2\n/3,/x,999\n")
    assert cli.main(["check", str(file)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{csv}:2: redirect_maps.old: 1 words; write FROM TO, or FROM TO STATUS",
        f"{csv}:3: redirect_maps.old: 999 redirects no request; give 301, 302, 303, 307 or 308",
    ]
    for content, why in ((None, "No such file"), (b"/\xff /x", "is not UTF-8 text")):
        csv.unlink()
        if content is not None:
            csv.write_bytes(content)
        else:
            csv.with_suffix(".x").touch()
        assert cli.main(["check", str(file)]) == 1
        assert f"{file}:{line - 4}: redirect_maps.old.entries_file: {csv}: {why}" in capsys.readouterr().err
        csv.touch()


def test_what_is_used_is_not_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.toml"
    file.write_text(SITE)
    assert cli.main(["check", str(file)]) == 0
    assert capsys.readouterr().err == ""


SHARED = """nodes = [
    { name = "l4-1", role = "l4", address = "10.0.1.1" },
    { name = "l4-2", role = "l4", address = "10.0.1.2" },
]

[[instances]]
name = "dns"
type = "nlb"
vips = ["192.0.2.10"]

[[server_groups]]
name = "dns"
servers = [{ address = "10.0.0.9", port = 53 }]

[[backend_services]]
name = "dns"
protocol = "udp"
server_group = "dns"

[[listeners]]
name = "one"
instance = "dns"
protocol = "udp"
port = 53
backend_service = "dns"

[[listeners]]
name = "two"
instance = "dns"
protocol = "udp"
port = 5353
backend_service = "dns"
"""


def test_answers_of_several_listeners_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dns.toml"
    file.write_text(SHARED)
    assert cli.main(["check", str(file)]) == 0
    told = capsys.readouterr().err
    line = SHARED.count("\n", 0, SHARED.rindex("[[listeners]]")) + 1
    assert f"warning: {file}:{line}: listeners.two: answers from 10.0.0.9:53 to 192.0.2.10 may be for one of" in told
    assert "mode fullnat" in told
    file.write_text(f"{SHARED}enabled = false\n")
    assert cli.main(["check", str(file)]) == 0
    assert capsys.readouterr().err == ""
