import argparse
from pathlib import Path

import pytest

from control.etcd import Tls
from control.store_choice import EtcdChoice, add_options, open_store, read_options
from control.store_sqlite import SqliteStore


def read(*argv: str) -> EtcdChoice | None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return read_options(parser, parser.parse_args(argv))


def test_sqlite_unless_etcd_is_asked_for() -> None:
    assert read() is None
    assert read("--store", "sqlite") is None


def test_an_etcd_with_all_that_may_be_said() -> None:
    argv = ["--store", "etcd", "--etcd", "https://a:2379", "--etcd", "https://b:2379", "--etcd-prefix", "/other/"]
    argv += ["--etcd-ca", "ca.pem", "--etcd-cert", "c.pem", "--etcd-key", "k.pem"]
    tls = Tls(Path("ca.pem"), Path("c.pem"), Path("k.pem"))
    assert read(*argv) == EtcdChoice(("https://a:2379", "https://b:2379"), "/other/", tls)
    assert read("--store", "etcd", "--etcd", "https://a") == EtcdChoice(("https://a",), "/paifang/", Tls())


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ("--etcd https://a", "--etcd needs --store etcd"),
        ("--store etcd", "--store etcd needs --etcd https://HOST:2379"),
        ("--store etcd --etcd https://a --etcd-cert c", "--etcd-cert and --etcd-key go together"),
        ("--store etcd --etcd https://a --etcd-key k", "--etcd-cert and --etcd-key go together"),
        ("--store files", "invalid choice: 'files'"),
        ("--etcd-ca ca.pem", "--etcd-ca needs --store etcd"),
        ("--etcd-prefix /x/", "--etcd-prefix needs --store etcd"),
    ],
)
def test_what_does_not_go_together(argv: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read(*argv.split())
    assert caught.value.code == 2
    assert why in capsys.readouterr().err


async def test_sqlite_is_in_the_state_directory(tmp_path: Path) -> None:
    store = await open_store(tmp_path, None)
    assert isinstance(store, SqliteStore)
    assert (tmp_path / "control.db").exists()
    await store.close()
