from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from l4fast.settings import MakeClusterKey, Settings, SettingsError, load_secrets, make_key, parse, parse_group
from l4fast.vip_settings import VipSettings

REQUIRED = {
    "--name": "l4-1",
    "--control": "https://10.0.0.9:8471",
    "--identity": "id",
    "--interface": "eth0",
    "--state": "st",
    "--cluster-key": "key",
}


def argv(**changes: str | None) -> list[str]:
    options = REQUIRED | {"--" + name.replace("_", "-"): value for name, value in changes.items()}
    return [word for name, value in options.items() if value is not None for word in (name, value)]


def test_defaults() -> None:
    assert parse(argv()) == Settings(
        "l4-1", "https://10.0.0.9:8471", Path("id"), ("eth0",), Path("st"), Path("key"), "native", "224.0.0.81", 8848,
        0, ("127.0.0.1", 8474), "INFO", VipSettings(),
    )  # fmt: skip


def test_everything_given() -> None:
    settings = parse(argv(xdp="generic", sync="239.1.2.3:99", sync_tcp="8849", log_level="DEBUG"))
    assert isinstance(settings, Settings)
    assert (settings.xdp, settings.sync_group, settings.sync_port) == ("generic", "239.1.2.3", 99)
    assert (settings.sync_tcp, settings.log_level) == (8849, "DEBUG")


@pytest.mark.parametrize(
    ("text", "expected"), [("off", None), ("10.0.0.5:9100", ("10.0.0.5", 9100)), ("[::1]:0", ("::1", 0))]
)
def test_where_metrics_are(text: str, expected: tuple[str, int] | None) -> None:
    settings = parse(argv(metrics=text))
    assert isinstance(settings, Settings)
    assert settings.metrics == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None, "cluster_key": None}, "missing --name, --cluster-key"),
        ({"control": "http://x"}, "--control http://x: the control plane's node API is reached by https://HOST:8471"),
        ({"xdp": "offload"}, "invalid choice: 'offload'"),
        ({"sync": "10.0.0.1:8848"}, "--sync 10.0.0.1:8848: give a multicast group and a port, such as 224"),
        ({"sync": "[2001:db8::1]:8848"}, "--sync [2001:db8::1]:8848: give a multicast group and a port"),
        (
            {"sync": "ff02::81:8848"},
            "--sync ff02::81:8848: give a multicast group and a port, such as 224.0.0.81:8848 or [ff",
        ),
        ({"sync": "[ff02::81%eth0]:8848"}, "--sync [ff02::81%eth0]:8848: give a multicast group"),
        ({"sync": "224.0.0.81"}, "--sync 224.0.0.81: give"),
        ({"sync": "224.0.0.81:0"}, "--sync 224.0.0.81:0: give"),
        ({"sync": "224.0.0.81:x"}, "--sync 224.0.0.81:x: give"),
        ({"sync_tcp": "65536"}, "argument --sync-tcp: '65536' is no port; give 1 to 65535, or 0"),
        ({"sync_tcp": "x"}, "argument --sync-tcp: 'x' is no port"),
        ({"metrics": "9100"}, "argument --metrics: '9100' is not HOST:PORT"),
        ({"nonsense": "1"}, "unrecognized arguments: --nonsense 1"),
    ],
)
def test_refused(changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse(argv(**changes))


def test_several_interfaces() -> None:
    settings = parse([*argv(), "--interface", "eth1"])
    assert isinstance(settings, Settings)
    assert settings.interfaces == ("eth0", "eth1")
    with pytest.raises(SettingsError, match="missing --interface;"):
        parse(argv(interface=None))
    for more in (["eth0"], ["eth1", "eth2", "eth3", "eth4"]):
        with pytest.raises(SettingsError, match=r"--interface eth0, eth.*: give up to 4, each once"):
            parse([*argv(), *(word for name in more for word in ("--interface", name))])


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    assert "--make-cluster-key /etc/paifang/cluster.key" in capsys.readouterr().out


def test_group() -> None:
    assert parse_group("224.0.0.81:8848") == ("224.0.0.81", 8848)
    assert parse_group("[FF02:0::81]:8848") == ("ff02::81", 8848)


def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    assert parse(["--make-cluster-key", str(path)]) == MakeClusterKey(path)
    make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (key,), seed = load_secrets(path).keys, load_secrets(path).seed
    assert seed
    make_key(tmp_path / "other")
    other = load_secrets(tmp_path / "other")
    assert other.keys[0].id != key.id
    assert other.seed != seed
    with pytest.raises(SettingsError, match="exists; remove it first"):
        make_key(path)
    with pytest.raises(SettingsError, match="cannot create it: No such file"):
        make_key(tmp_path / "none" / "key")
    path.chmod(0o640)
    with pytest.raises(SettingsError, match=rf"others may read the cluster key \(mode 0640\); chmod 600 {path}"):
        load_secrets(path)
    path.chmod(0o600)
    path.write_text("abcd\n")
    with pytest.raises(SettingsError, match="line 1: a cluster key has 32 bytes, this one has 2; a line holds 32"):
        load_secrets(path)
    with pytest.raises(SettingsError, match=r"No such file or directory; `paifang l4 --make-cluster-key \S+` makes"):
        load_secrets(tmp_path / "none")
