from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from l4fast.bgp import Neighbour
from l4fast.settings import Settings, SettingsError, parse
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings, locate, password

REQUIRED = (
    "--name l4-1 --control https://10.0.0.9:8471 --identity id --interface eth0 --interface eth1 --state st "
    "--cluster-key key"
)


def vip(words: str) -> VipSettings:
    settings = parse(f"{REQUIRED} {words}".split())
    assert isinstance(settings, Settings)
    return settings.vip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", VipSettings()),
        ("--vip static --vip-grace 5", VipSettings("static", 5)),
        ("--vip vrrp", VipSettings("vrrp", 30)),
        ("--vip vrrp --vip-grace 12.5 --vrrp-interface eth1 --vrrp-ids 51-70",
         VipSettings("vrrp", 12.5, "eth1", (51, 70))),
        ("--vip bgp --bgp-as 65001 --bgp-neighbour 10.0.0.1 65000 --bgp-neighbour FD00::1 4200000000 "
         "--bgp-router-id 10.0.0.11 --bgp-password-file p",
         VipSettings("bgp", local_as=65001, neighbours=(Neighbour("10.0.0.1", 65000), Neighbour("fd00::1", 4200000000)),
                     router_id="10.0.0.11", password_file=Path("p"))),
    ],
)  # fmt: skip
def test_given(words: str, expected: VipSettings) -> None:
    assert vip(words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--vip carp", "invalid choice"),
        ("--vip-grace 0", "give 1 to 3600 seconds"),
        ("--vip vrrp --vrrp-ids 60-51", "give a range within 1-255"),
        ("--vip vrrp --vrrp-ids 0-5", "give a range within 1-255"),
        ("--vip vrrp --vrrp-ids 5", "give a range within 1-255"),
        ("--vrrp-interface eth0", "--vrrp-interface belongs to --vip vrrp, and this is --vip static"),
        ("--vip bgp --vrrp-ids 1-9", "--vrrp-ids belongs to --vip vrrp, and this is --vip bgp"),
        ("--vip vrrp --bgp-as 65001", "--bgp-as belongs to --vip bgp, and this is --vip vrrp"),
        ("--vip vrrp --bgp-neighbour 10.0.0.1 1", "--bgp-neighbour belongs to --vip bgp"),
        ("--vip bgp", "--vip bgp needs --bgp-as AS and --bgp-neighbour ADDRESS AS"),
        ("--vip bgp --bgp-as 65001", "--vip bgp needs"),
        ("--vip bgp --bgp-as 0 --bgp-neighbour 10.0.0.1 1", "give the number of an autonomous system"),
        ("--vip bgp --bgp-as 1 --bgp-neighbour 10.0.0 1", "give a router's address and its AS"),
        ("--vip bgp --bgp-as 1 --bgp-neighbour fe80::1 1", "give a router's address and its AS"),
        ("--vip bgp --bgp-as 1 --bgp-neighbour 10.0.0.1 x", "give a router's address and its AS"),
        ("--vip bgp --bgp-as 1 --bgp-neighbour 10.0.0.1 2 --bgp-neighbour 10.0.0.1 3", "give each router once"),
        ("--vip bgp --bgp-as 1 --bgp-neighbour 10.0.0.1 2 --bgp-router-id x", "give an IPv4 address"),
    ],
)
def test_refused(words: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        vip(words)
    assert message in str(error.value)


def test_a_password_of_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text("s3cret word\n")
    path.chmod(0o600)
    assert password(path) == "s3cret word"
    assert password(None) == ""
    path.chmod(0o640)
    with pytest.raises(VipError, match=r"others may read the BGP password \(mode 0640\); chmod 600"):
        password(path)


@pytest.mark.parametrize("text", ["", 'a"b', "a\\b", "a\nb", "x" * 81, "\x7f"])
def test_a_password_that_bird_or_the_kernel_would_not_take(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(VipError, match="a BGP password is one line"):
        password(path)


def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VipError, match="cannot read the BGP password"):
        password(tmp_path / "p")


@pytest.mark.parametrize(
    ("method", "said"),
    [("vrrp", "needs keepalived.*apt-get install keepalived"), ("bgp", "needs bird.*apt-get install bird2")],
)
def test_a_package_that_is_missing_is_named(method: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l4fast.vip_settings.shutil.which", lambda *_args, **_kwargs: None)
    with pytest.raises(VipError, match=said):
        locate(method)  # type: ignore[arg-type]


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    options = argparse.ArgumentParser()
    from l4fast.vip_settings import add_options

    add_options(options)
    for action in options._actions[1:]:
        assert action.option_strings[0] in text
    assert "paifang l4 --vip vrrp" in text
    assert "paifang l4 --vip bgp" in text
