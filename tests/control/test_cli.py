"""The `paifang` command against a control plane in a process of its own."""

import asyncio
import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from control import cli
from control.client import Api
from control.node.children import Child
from control.ports import free_port
from control.store_sqlite import SqliteStore
from core.config import from_dict, load

KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----\n"
SITE = """
[[listeners]]
name = "web"
protocol = "http"
port = 8080
servers = ["192.0.2.1:80"]
"""


def first_block(page: str) -> str:
    """The configuration that a page of docs/ begins with."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    return text.partition("```toml\n")[2].partition("```")[0]


class Paifang:
    """Runs the command in this process and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str], api: str, state: Path) -> None:
        self.capsys, self.api, self.state = capsys, api, state
        self.out = self.err = ""

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        local = ["--api", self.api, "--state", str(self.state)] if arguments[0] != "check" else []
        found = cli.main([*map(str, arguments), *local])
        self.out, self.err = self.capsys.readouterr()
        assert found == code, self.out + self.err
        return self.out


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(URL, state directory as `paifang up` lays it out) of a control plane."""
    state = tmp_path_factory.mktemp("state")
    port = free_port()
    argv = [sys.executable, "-m", "control", "--state", str(state / "control"), "--api", f"127.0.0.1:{port}"]
    child = Child.start("control", argv, log=state / "log", notify_dir=state)
    try:
        child.wait_ready(30)
        yield f"http://127.0.0.1:{port}", state
    finally:
        code = child.terminate(10)
    assert code == 0, (state / "log").read_text()


@pytest.fixture
def paifang(
    control: tuple[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Paifang:
    monkeypatch.delenv("PAIFANG_API", raising=False)
    monkeypatch.delenv("PAIFANG_TOKEN", raising=False)
    paifang = Paifang(capsys, *control)
    (tmp_path / "empty.toml").write_text("")
    paifang("apply", tmp_path / "empty.toml")
    (tmp_path / "site.toml").write_text(SITE)
    return paifang


def test_a_file_is_planned_applied_and_got_back(paifang: Paifang, tmp_path: Path) -> None:
    out = paifang("apply", tmp_path / "site.toml", "--dry-run")
    assert "+ create listeners/web" in out
    assert "4 to create" in out
    assert "dry run" in out
    assert paifang("get") == "nothing is configured\n"
    paifang("apply", tmp_path / "site.toml", "--comment", "the first")
    expected = load(SITE, path="x", format="toml")
    assert load(paifang("get", "-o", "toml"), path="x", format="toml") == expected
    assert from_dict(json.loads(paifang("get", "-o", "json"))) == expected
    assert json.loads(paifang("get", "listeners", "web", "-o", "json"))["port"] == 8080
    assert paifang("get", "server_groups").splitlines()[0] == "server_groups"
    assert "192.0.2.1" in paifang("get", "server_groups", "web", "-o", "toml")
    assert "the first" in paifang("history")
    assert "no changes" in paifang("apply", tmp_path / "site.toml")


def test_differences_from_what_runs(paifang: Paifang, tmp_path: Path) -> None:
    out = paifang("diff", tmp_path / "site.toml", code=1)
    assert out.splitlines()[-1] == "4 to create"
    (*_, change) = json.loads(paifang("diff", tmp_path / "site.toml", "--json", code=1))["changes"]
    assert (change["op"], change["name"]) == ("create", "web")
    assert paifang("get") == "nothing is configured\n", "nothing has been changed"
    paifang("apply", tmp_path / "site.toml")
    assert paifang("diff", tmp_path / "site.toml") == "no changes\n"
    assert json.loads(paifang("diff", tmp_path / "site.toml", "--json")) == {"changes": []}


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (["none.toml"], "none.toml: No such file or directory"),
        (["site.toml", "--token", "wrong"], "does not know the token"),
        (["site.toml", "--token", "wrong", "--json"], "does not know the token"),
    ],
)
def test_differences_that_cannot_be_told_are_no_differences(
    paifang: Paifang, tmp_path: Path, words: list[str], err: str
) -> None:
    paifang("diff", tmp_path / words[0], *words[1:], code=2)
    assert err in paifang.err


def test_a_directory_is_applied_and_waited_for(paifang: Paifang, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.toml").write_text(SITE)
    (tmp_path / "d" / "a.toml").write_text('[[nodes]]\nname = "one"\nrole = "l7"\naddress = "192.0.2.77"\n')
    assert "1 nodes" in paifang("check", tmp_path / "d")
    paifang("apply", tmp_path / "d", "--wait", "--timeout", "0", code=1)
    assert "version" in paifang.out
    assert "0 of 1 nodes run it\n  l7 one: has never reported\n" in paifang.err
    assert "not all within 0 s; the change is made" in paifang.err
    paifang("apply", tmp_path / "site.toml", "--wait")
    assert "no nodes are listed, and none report" in paifang.err
    paifang("apply", tmp_path / "d", "--wait", "--dry-run")
    assert paifang.err == "", "there is nothing to wait for"


def test_objects_by_tag_and_reference(paifang: Paifang, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE + 'tags = { team = "web" }\n')
    paifang("apply", tmp_path / "site.toml")
    (found,) = json.loads(paifang("get", "listeners", "--tag", "team=web", "-o", "json"))
    assert found["name"] == "web"
    assert json.loads(paifang("get", "--tag", "team", "-o", "json")).keys() == {"listeners"}
    assert json.loads(paifang("get", "listeners", "--tag", "other", "-o", "json")) == []
    assert json.loads(paifang("get", "listeners", "web", "--tag", "other", "-o", "json")) == []
    assert json.loads(paifang("get", "--refers-to", "server_groups/web", "-o", "json")).keys() == {"backend_services"}
    assert paifang("get", "rules", "--tag", "x") == "no rules are configured like that\n"
    paifang("get", "rules", "--refers-to", "x", code=1)
    assert "give KIND/NAME, such as backend_services/shop" in paifang.err


def test_the_configuration_as_a_file(paifang: Paifang, tmp_path: Path) -> None:
    paifang("apply", tmp_path / "site.toml")
    text = paifang("export")
    version = json.loads(paifang("history", "--limit", "1", "--json"))["versions"][0]["version"]
    (tmp_path / "exported.toml").write_text(text)
    paifang("diff", tmp_path / "exported.toml")
    paifang("apply", tmp_path / "empty.toml")
    assert paifang("export") == ""
    assert paifang("export", "--version", str(version)) == text
    assert "4 to delete" in paifang("history", f"{version}..{version + 1}")
    assert len(json.loads(paifang("history", f"{version + 1}..{version}", "--json"))["changes"]) == 4
    paifang("export", "--version", "9999", code=1)
    assert "there is no version 9999" in paifang.err


def test_servers_are_weighed(paifang: Paifang, tmp_path: Path) -> None:
    paifang("apply", tmp_path / "site.toml")
    out = paifang("weigh", "server_groups", "web", "192.0.2.1:80=0", "--wait")
    assert out.startswith("~ update server_groups/web\n")
    (server,) = json.loads(paifang("get", "server_groups", "web", "-o", "json"))["servers"]
    assert server == {"address": "192.0.2.1", "port": 80, "weight": 0}
    paifang("weigh", "server_groups", "web", "192.0.2.9:80=0", code=1)
    assert "server_groups/web has no server 192.0.2.9:80; it has 192.0.2.1:80" in paifang.err


def test_a_canary_grows_and_ends(paifang: Paifang, tmp_path: Path) -> None:
    """docs/canary.md"""
    (tmp_path / "site.toml").write_text(first_block("canary.md"))
    paifang("apply", tmp_path / "site.toml")
    for weights in (("v2=5", "v1=95", "--wait"), ("v2=25", "v1=75", "--wait"), ("v2=0", "v1=100", "--wait")):
        out = paifang("weigh", "rules", "shop", *weights)
        assert out.startswith(("~ update rules/shop\n", "no changes"))
        split = json.loads(paifang("get", "rules", "shop", "-o", "json"))["split"]
        found = {f"{part['backend_service']}={part.get('weight', 100)}" for part in split}
        assert found == set(weights[:2])
    for kind, weight, why in (
        ("rules", "10.0.0.9:80=0", "rules: give SERVICE=WEIGHT, such as v2=10"),
        ("server_groups", "v2=0", "server_groups: give ADDRESS:PORT=WEIGHT, such as 10.0.0.9:80=0"),
        ("rules", "v3=1", "the split of rules/shop has no part v3; it has v1, v2"),
    ):
        paifang("weigh", kind, "shop", weight, code=1)
        assert why in paifang.err


def test_a_comment_is_kept_with_a_deletion(paifang: Paifang, tmp_path: Path) -> None:
    paifang("apply", tmp_path / "site.toml")
    paifang("delete", "listeners", "web", "--comment", "not needed")
    assert json.loads(paifang("history", "--limit", "1", "--json"))["versions"][0]["comment"] == "not needed"


def test_a_file_for_one_machine_is_not_applied(paifang: Paifang, tmp_path: Path) -> None:
    (tmp_path / "up.toml").write_text(
        '\n[acme]\nemail = "ops@example.com"\nagree_tos = true\n[[listeners]]\nprotocol = "https"\nport = 443\n'
        'domains = ["example.com"]\nservers = ["127.0.0.1:1"]\n'
    )
    paifang("apply", tmp_path / "up.toml", code=1)
    why = (
        f"{tmp_path}/up.toml:2: acme: is for `paifang up` alone; remove it; `paifang keyserver acme` has options for it"
    )
    assert why in paifang.err
    assert paifang("get") == "nothing is configured\n"


def test_a_change_shows_its_fields(paifang: Paifang, tmp_path: Path) -> None:
    paifang("apply", tmp_path / "site.toml")
    (tmp_path / "site.toml").write_text(SITE.replace("8080", "8081"))
    assert "    port: 8080 → 8081" in paifang("apply", tmp_path / "site.toml")


def test_rollback_makes_a_new_version_of_an_old_one(paifang: Paifang, tmp_path: Path) -> None:
    out = paifang("apply", tmp_path / "site.toml")
    version = int(out.splitlines()[-1].split()[1])
    paifang("apply", tmp_path / "empty.toml")
    assert "+ create listeners/web" in paifang("rollback", str(version))
    assert "web" in paifang("get", "listeners")
    assert f"back to version {version}" in paifang("history")
    assert "- delete listeners/web" in paifang("history", str(version + 1))


def test_deleting(paifang: Paifang, tmp_path: Path) -> None:
    paifang("apply", tmp_path / "site.toml")
    paifang("delete", "backend_services", "web", code=1)
    assert "in use by listeners/web" in paifang.err
    assert "- delete listeners/web" in paifang("delete", "listeners", "web", "--dry-run")
    paifang("delete", "listeners", "web")
    paifang("delete", "listeners", "web", code=1)
    assert "there is no listeners/web" in paifang.err
    paifang("delete", "backend_services", "web")


def test_an_unknown_name_is_answered_with_the_nearest(paifang: Paifang, tmp_path: Path) -> None:
    paifang("apply", tmp_path / "site.toml")
    paifang("get", "listeners", "wbe", code=1)
    assert "there is no listeners/wbe; did you mean web?" in paifang.err
    paifang("get", "listeners", "zzz", code=1)
    assert "there is no listeners/zzz; there are web\n" in paifang.err
    paifang("get", "rules", "zzz", code=1)
    assert "there is no rules/zzz; there are no rules\n" in paifang.err
    paifang("rollback", "999999", code=1)
    assert re.search(r"there is no version 999999; \d+ to \d+ are kept\n", paifang.err)


def test_status_without_nodes(paifang: Paifang) -> None:
    assert "no nodes" in paifang("status")
    assert json.loads(paifang("status", "--json"))["nodes"] == []


def test_check_lists_all_errors(paifang: Paifang, tmp_path: Path) -> None:
    assert "valid; 1 server_groups" in paifang("check", tmp_path / "site.toml")
    file = tmp_path / "bad.toml"
    file.write_text(SITE.replace("8080", "80800") + '[[instances]]\nname = "i"\ncolour = "red"\n')
    paifang("check", file, code=1)
    assert f"{file}:5: listeners.web.port: 80800 is out of range" in paifang.err
    assert f"{file}:9: instances.i.colour: unknown key" in paifang.err
    errors = json.loads(paifang("check", file, "--json", code=1))["errors"]
    assert [error["line"] for error in errors] == [5, 9]
    assert json.loads(paifang("check", tmp_path / "site.toml", "--json"))["valid"] is True
    paifang("check", tmp_path / "none.toml", code=1)
    assert "No such file" in paifang.err
    paifang("apply", file, code=1)
    assert f"{file}:5" in paifang.err


def test_a_file_as_json(paifang: Paifang, tmp_path: Path) -> None:
    (tmp_path / "site.json").write_text('{"instances": [{"name": "i"}]}')
    assert "+ create instances/i" in paifang("apply", tmp_path / "site.json")


def test_no_control_plane_and_no_token_are_clear_errors(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PAIFANG_TOKEN", raising=False)
    api = f"http://127.0.0.1:{free_port()}"
    assert cli.main(["get", "--api", api, "--token", "x", "--state", str(tmp_path)]) == 1
    assert "Connection refused; is the control plane running?" in capsys.readouterr().err
    assert cli.main(["get", "--api", api, "--state", str(tmp_path)]) == 1
    assert "give --token or $PAIFANG_TOKEN" in capsys.readouterr().err
    assert cli.main(["get", "--api", "ftp://x", "--token", "x", "--state", str(tmp_path)]) == 1
    assert "give a URL, such as http://127.0.0.1:8470" in capsys.readouterr().err
    assert cli.main(["get", "--api", "127.0.0.1:8470", "--token", "x", "--state", str(tmp_path)]) == 1
    assert "127.0.0.1:8470: give a URL, such as http://127.0.0.1:8470" in capsys.readouterr().err


def test_a_wrong_token(paifang: Paifang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIFANG_TOKEN", "wrong")
    paifang("get", code=1)
    assert f"{paifang.api} does not know the token of $PAIFANG_TOKEN" in paifang.err
    paifang("get", "--token", "wrong", code=1)
    assert "does not know the token of --token" in paifang.err
    monkeypatch.setenv("PAIFANG_TOKEN", "")
    paifang("get")


def test_the_wrong_door(paifang: Paifang) -> None:
    paifang.api = paifang.api.replace("http:", "https:")
    paifang("get", code=1)
    assert "it speaks plain HTTP: give http://HOST:PORT" in paifang.err


def test_a_kind_of_which_there_is_none(paifang: Paifang) -> None:
    assert paifang("get", "rules") == "no rules are configured\n"


def test_status_again_and_again_without_a_terminal_is_plain_text(
    paifang: Paifang, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    def enough(_seconds: float) -> None:
        raise Enough

    monkeypatch.setattr(cli.commands.time, "sleep", enough)
    with pytest.raises(Enough):
        cli.main(["status", "--watch", "--api", paifang.api, "--state", str(paifang.state)])
    assert re.fullmatch(r"version \d+\nno nodes\n", paifang.capsys.readouterr().out)


@pytest.mark.parametrize(("typed", "meant"), [("statsu", "status"), ("keysever", "keyserver"), ("chek", "check")])
def test_an_unknown_command_is_answered_with_the_nearest(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([typed])
    assert caught.value.code == 2
    assert f"did you mean '{meant}'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "the following arguments are required: COMMAND\npaifang --help tells more"),
        (["check"], "the following arguments are required: FILE\npaifang check --help tells more"),
        (["check", "--jsn", "f"], "paifang check: error: '--jsn' is unknown; did you mean --json?"),
        (["check", "f", "--nonsense"], "paifang check: error: '--nonsense' is unknown\n"),
        (["status", "extra"], "paifang status: error: 'extra' is unknown"),
        (["up", "f", "--api"], "argument --api: expected one argument"),
        (["up", "f", "--workers", "0"], "argument --workers: 0: give 1 to 1024"),
        (["up", "f", "--workers", "many"], "argument --workers: 'many': give a number"),
        (["rollback", "last"], "argument N: 'last': give a number"),
        (["history", "--limit", "-1"], "argument --limit: "),
        (["history", "3..x"], "argument N[..M]: 'x': give a number"),
        (["apply", "f", "--timeout", "-1"], "argument --timeout: -1: give seconds, 0 to 86400"),
        (["weigh", "server_groups", "g", "::1:80=0"], "'::1:80=0': give ADDRESS:PORT=WEIGHT"),
        (["weigh", "server_groups", "g", "10.0.0.9:80"], "'10.0.0.9:80': give ADDRESS:PORT=WEIGHT"),
        (["weigh", "server_groups", "g", "10.0.0.9:80=x"], "argument WHAT=WEIGHT: 'x': give a number"),
        (["watch", "--only", "nodes"], "'nodes' is unknown; did you mean 'node'?"),
        (["get", "listener"], "'listener' is unknown; did you mean 'listeners'?"),
        (["delete", "foo", "x"], "invalid choice: 'foo' (choose from"),
    ],
)
def test_a_wrong_command_line_is_explained(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert why in err
    assert err.endswith("--help tells more\n")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"paifang \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "command", ["check", "up", "reload", "apply", "get", "delete", "status", "history", "rollback"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: paifang {command}" in out
    examples = [
        line.split() for line in out.partition("examples:\n")[2].partition("\n\n")[0].splitlines() if "paifang " in line
    ]
    assert examples, "help without an example"
    assert all(command in words for words in examples)


def test_processes_become_python_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    class Replaced(BaseException):
        pass

    def execv(path: str, argv: list[str]) -> None:
        seen.append(argv)
        raise Replaced

    monkeypatch.setattr(cli.os, "execv", execv)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(cli, "missing_for_xdp", lambda: "")
    for name, module in [("l7", "proxy"), ("l4", "l4fast"), ("lab", "deploy.lab")]:
        with pytest.raises(Replaced):
            cli.main([name, "--name", "x", "--", "y"])
        assert seen[-1] == [sys.executable, "-m", module, "--name", "x", "--", "y"]
        assert cli.os.environ["PYTHONSAFEPATH"] == "1", "or a module of the current directory might be run"
    for what in ("init", "issue"):
        with pytest.raises(Replaced):
            cli.main(["certs", what, "x"])
        assert seen[-1] == [sys.executable, "-m", "certs", what, "x"]


def test_what_is_missing_for_xdp_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["l4", "--name", "x"])
    assert caught.value.code == 1
    err = capsys.readouterr().err
    assert "python3-bpfcc" in err
    assert "deploy/setup.sh" in err
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cli.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit):
        cli.main(["lab", "up"])
    assert "need root" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["l4", "ask", "status"], ["l4", "--make-cluster-key", "f"], ["lab", "up", "--help"]])
def test_what_needs_no_bcc_and_no_root_runs_without(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(cli, "missing_for_xdp", lambda: "everything")
    monkeypatch.setattr(cli.os, "execv", lambda path, argv: seen.append(argv))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    with pytest.raises(SystemExit):  # of what comes after an exec that did not happen
        cli.main(words)
    assert [argv[3:] for argv in seen] == [words[1:]]


def test_apply_warns_of_key_files_and_sends_no_key(paifang: Paifang, tmp_path: Path, authority_chain: str) -> None:
    (tmp_path / "c.pem").write_text(authority_chain)
    (tmp_path / "c.key").write_text("is nobody's business here")
    file = tmp_path / "cert.toml"
    file.write_text('[[certificates]]\nname = "c"\nchain_file = "c.pem"\nkey_file = "c.key"\n')
    paifang("apply", file)
    assert f"key_file is not sent; the key server has to hold {tmp_path}/c.key" in paifang.err
    certificate = json.loads(paifang("get", "certificates", "c", "-o", "json"))
    assert certificate == {"name": "c", "chain": authority_chain}
    (tmp_path / "c.pem").write_text(authority_chain + KEY)
    paifang("apply", file, code=1)
    assert "holds a private key" in paifang.err
    assert "MIGH" not in paifang.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api", "0.0.0.0:1"], "it has to have TLS: give --api-tls-cert"),
        (["--api", "nonsense"], "is not HOST:PORT"),
        (["--nodes", "127.0.0.1:0"], "--nodes needs --identity"),
        (["--nodes", "127.0.0.1:0", "--identity", "/nonexistent"], "paifang certs issue"),
    ],
)
def test_the_control_process_explains_wrong_options(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from control import __main__ as process

    monkeypatch.setattr(sys, "argv", ["control", "--state", str(tmp_path / "s"), "--api", "127.0.0.1:0", *options])
    monkeypatch.setattr(process.logs, "setup", lambda *_: None)
    try:
        code = process.main()
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    assert code == 2
    assert message in capsys.readouterr().err


def test_the_control_process_on_a_port_in_use(
    control: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from control import __main__ as process

    monkeypatch.setattr(sys, "argv", ["control", "--state", str(tmp_path), "--api", control[0].removeprefix("http://")])
    monkeypatch.setattr(process.logs, "setup", lambda *_: None)
    assert process.main() == 2
    assert "another process listens there" in capsys.readouterr().err


def test_the_control_process_with_a_configuration_of_another_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from control import __main__ as process

    async def fill() -> None:
        store = await SqliteStore.open(tmp_path / "control.db")
        await store.put(from_dict({"instances": [{"name": "i"}]}), "ann", "", None)
        await store.close()

    asyncio.run(fill())
    with closing(sqlite3.connect(tmp_path / "control.db")) as db, db:
        db.execute("UPDATE versions SET config = ?", ('{"instances": [{"name": "i", "colour": "red"}]}',))
    monkeypatch.setattr(sys, "argv", ["control", "--state", str(tmp_path), "--api", "127.0.0.1:0"])
    monkeypatch.setattr(process.logs, "setup", lambda *_: None)
    assert process.main() == 1
    err = capsys.readouterr().err
    assert f"paifang-control: what {tmp_path}/control.db holds is not valid here:\nversion 1: instances.i.colour" in err
    assert "start the release that wrote it, or give an empty --state" in err


def test_the_first_token_is_made_once_and_private(control: tuple[str, Path]) -> None:
    _, state = control
    token = state / "control" / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text().strip()) >= 43
    assert token.read_text().strip() not in (state / "log").read_text()


@pytest.mark.parametrize(
    ("redirection", "code", "err"), [("| true", 0, ""), ("> /dev/full", 1, "paifang: No space left on device\n")]
)
def test_output_that_goes_nowhere_is_no_traceback(paifang: Paifang, redirection: str, code: int, err: str) -> None:
    command = f"{sys.executable} -m control.cli status --api {paifang.api} --state {paifang.state} {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (code, err)


def test_a_change_that_came_in_between_is_not_overwritten(paifang: Paifang, tmp_path: Path) -> None:
    """What `apply` prints when another has applied since it looked."""
    request = Api.request

    def late(api: Api, method: str, path: str, *arguments: object, **options: object) -> object:
        if method == "PUT":
            request(api, "PUT", "/v1/instances/other", {"vips": []})
        return request(api, method, path, *arguments, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Api, "request", late)
        paifang("apply", tmp_path / "site.toml", code=1)
    assert "not " in paifang.err
    assert list(from_dict(json.loads(paifang("get", "-o", "json"))).instances) == ["other"]


def test_output_into_a_closed_pipe_is_no_traceback(paifang: Paifang, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    replaced: list[tuple[int, int]] = []
    monkeypatch.setattr(cli.os, "dup2", lambda a, b: replaced.append((a, b)))
    stdout = Closed()
    monkeypatch.setattr(stdout, "fileno", lambda: 1)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert cli.main(["get", "--api", paifang.api, "--state", str(paifang.state)]) == 1
    assert replaced


@pytest.mark.parametrize(
    ("words", "process"),
    [
        (["sessions", "--state", "D"], ["l4fast", "ask", "sessions", "--state", "D"]),
        (["sessions", "kill", "--vip", "192.0.2.1"], ["l4fast", "ask", "kill", "--vip", "192.0.2.1"]),
        (["sessions", "--help"], ["l4fast", "ask", "sessions", "--help"]),
    ],
)
def test_sessions_is_short_for_asking_the_l4_node(
    words: list[str], process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(cli, "missing_for_xdp", lambda: "everything")
    monkeypatch.setattr(cli.os, "execv", lambda path, argv: seen.append(argv))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    with pytest.raises(SystemExit):  # of what comes after an exec that did not happen
        cli.main(words)
    assert [argv[2:] for argv in seen] == [process]


def test_certificates_are_listed_and_shown(paifang: Paifang, tmp_path: Path) -> None:
    assert paifang("certs", "list") == "there are no certificates\n"
    key, chain = tmp_path / "web.key", tmp_path / "web.pem"
    issuing = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    hosts = "subjectAltName=DNS:a.test,DNS:b.test,DNS:c.test,DNS:d.test"
    names = ["-days", "90", "-subj", "/CN=a.test", "-addext", hosts]
    subprocess.run([*issuing, *names, "-keyout", key, "-out", chain], check=True, capture_output=True)
    (tmp_path / "site.toml").write_text(
        f'[[certificates]]\nname = "shop"\nchain_file = "{chain}"\n{SITE}certificates = ["shop"]\n'.replace(
            '"http"', '"https"'
        )
    )
    paifang("apply", tmp_path / "site.toml")
    head, line = paifang("certs", "list").splitlines()
    assert head.split() == ["NAME", "NAMES", "ISSUER", "EXPIRES", "KEY", "USED", "BY", "REMARKS"]
    assert re.fullmatch(
        r"shop  a\.test, b\.test, c\.test and 1 more  CN=a\.test  20\d\d-\d\d-\d\d  ECDSA P-256  web", line
    )
    (entry,) = json.loads(paifang("certs", "list", "--json"))
    assert json.loads(paifang("certs", "show", "shop", "--json")) == entry
    assert entry["names"] == ["a.test", "b.test", "c.test", "d.test"]
    text = paifang("certs", "show", "shop")
    assert "  names           a.test, b.test, c.test, d.test\n" in text
    assert f"  chain 1         CN=a.test, until {entry['ends'][:10]}\n" in text
    paifang("certs", "show", "shp", code=1)
    assert "there is no certificate 'shp'; did you mean shop?" in paifang.err
    paifang("apply", tmp_path / "empty.toml")
    paifang("certs", "show", "shop", code=1)
    assert "there are no certificates" in paifang.err


def test_what_certs_does_not_know() -> None:
    done = subprocess.run([sys.executable, "-m", "control.cli", "certs", "lsit"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'lsit' is unknown; did you mean 'list'?" in done.stderr
    done = subprocess.run([sys.executable, "-m", "control.cli", "certs", "issue"], capture_output=True, text=True)
    assert "usage: paifang certs issue" in done.stderr
