"""What the reader finds, and to whom it gives which key."""

import asyncio
import json
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certs.authority import Authority, key_id, private_pem
from control.node.files import write_atomic
from keyserver import reader
from keyserver.encrypt import encrypted_pem
from keyserver.keyfile import PrivateKey
from keyserver.keyring import read_elsewhere
from keyserver.policy import KeyType
from keyserver.reader import Order, ReadFile, Reading, carry_out, chains_of, key_from, mark_of

KINDS = {"p256": "ec-p256", "p384": "ec-p384", "rsa": "rsa", "ed25519": "ed25519"}


class Taker:
    """A worker's end of its key socket: notes what it is given and says `answer`."""

    def __init__(self, answer: bytes = b"ok\n") -> None:
        self.ours, self.theirs = socket.socketpair()
        self.given: list[dict[str, object]] = []
        self._answer = answer
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self.theirs, self.theirs.makefile("rb") as lines:
            for line in lines:
                self.given.append(json.loads(line))
                if not self._answer:
                    return
                self.theirs.sendall(self._answer)

    def close(self) -> None:
        self.ours.shutdown(socket.SHUT_RDWR)
        self.ours.close()
        self._thread.join(10)


@pytest.fixture
def taker() -> Iterator[Callable[..., Taker]]:
    takers: list[Taker] = []

    def make(answer: bytes = b"ok\n") -> Taker:
        takers.append(Taker(answer))
        return takers[-1]

    yield make
    for each in takers:
        each.close()


def test_each_key_goes_to_one_place(key_dir: Path, ids: dict[str, bytes], taker: Callable[..., Taker]) -> None:
    first, second = taker(), taker()
    workers = {each.ours.fileno(): ["rsa"] for each in (first, second)}
    reading = carry_out(Order([str(key_dir)], workers=workers))
    assert {Path(path).name: dict(file.keys) for path, file in reading.files.items()} == {
        f"{name}.key": {ids[name].hex(): kind} for name, kind in KINDS.items()
    }
    assert reading.own.keys() == {ids[name].hex() for name in ("p256", "p384", "ed25519")}
    assert {key_id(key_from(text).public_key()).hex() for text in reading.own.values()} == reading.own.keys()
    assert (list(reading.bad), list(reading.deaf)) == ([], [])
    for each in (first, second):
        (given,) = each.given
        assert given["keep"] == []
        assert isinstance(given["add"], dict)
        assert given["add"].keys() == {ids["rsa"].hex()}
        assert key_id(key_from(given["add"][ids["rsa"].hex()]).public_key()) == ids["rsa"]


def test_what_has_not_changed_is_not_opened(
    key_dir: Path, ids: dict[str, bytes], taker: Callable[..., Taker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = taker()
    workers = {worker.ours.fileno(): ["rsa"]}
    before = carry_out(Order([str(key_dir)], workers=workers))
    (key_dir / "p384.key").touch()
    opened: list[str] = []
    load = reader.load
    monkeypatch.setattr(reader, "load", lambda path, *rest: (opened.append(path.name), load(path, *rest))[1])
    again = carry_out(Order([str(key_dir)], workers=workers, known=before.files))
    assert opened == ["p384.key"]
    assert again.own.keys() == {ids["p384"].hex()}
    assert {path: file.keys for path, file in again.files.items()} == {p: f.keys for p, f in before.files.items()}
    assert worker.given[-1] == {"keep": [ids["rsa"].hex()], "add": {}}


def test_nothing_is_handed_out_if_a_file_is_bad(key_dir: Path, taker: Callable[..., Taker]) -> None:
    worker = taker()
    write_atomic(key_dir / "x.key", b"x")
    (key_dir / "p256.key").chmod(0o644)
    reading = carry_out(Order([str(key_dir)], workers={worker.ours.fileno(): ["rsa"]}))
    assert [Path(path).name for path, _, _ in reading.bad] == ["p256.key", "x.key"]
    assert (reading.files, reading.own, worker.given) == ({}, {}, [])


def test_chains_that_stand_with_the_keys(
    key_dir: Path, ca: Authority, keys: dict[str, PrivateKey], ids: dict[str, bytes]
) -> None:
    beside = ca.issue_leaf(keys["p256"].public_key(), ["a.test", "*.a.test"])
    (key_dir / "beside.pem").write_bytes(beside.replace(b"\n", b"\r\n"))
    inside = ca.issue_leaf(keys["rsa"].public_key(), ["b.test"])
    write_atomic(key_dir / "rsa.key", private_pem(keys["rsa"]) + inside)
    (key_dir / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    reading = carry_out(Order([str(key_dir)]))
    found = {chain.key_id: chain for chain in chains_of(reading.files.values())}
    assert found.keys() == {ids["p256"], ids["rsa"]}
    assert found[ids["p256"]].names == ("a.test", "*.a.test")
    assert found[ids["p256"]].pem == beside.decode()
    assert found[ids["rsa"]].pem == inside.decode()
    assert "PRIVATE" not in found[ids["rsa"]].pem


def test_a_new_worker_gets_what_was_in_force(key_dir: Path, ids: dict[str, bytes], taker: Callable[..., Taker]) -> None:
    worker = taker()
    write_atomic(key_dir / "x.key", b"x")
    order = Order([str(key_dir)], workers={worker.ours.fileno(): ["rsa", "ec-p384"]}, wanted=[ids["rsa"].hex()])
    reading = carry_out(order)
    assert [Path(path).name for path, _, _ in reading.bad] == ["x.key"]
    assert reading.own == {}
    (given,) = worker.given
    assert given["keep"] == []
    assert isinstance(given["add"], dict)
    assert given["add"].keys() == {ids["rsa"].hex()}


@pytest.mark.parametrize("answer", [b"no\n", b""])
def test_workers_that_do_not_take_their_keys(key_dir: Path, taker: Callable[..., Taker], answer: bytes) -> None:
    good, bad = taker(), taker(answer)
    workers = {each.ours.fileno(): ["rsa"] for each in (bad, good)}
    reading = carry_out(Order([str(key_dir)], workers=workers))
    assert reading.deaf == [bad.ours.fileno()]
    assert len(good.given) == 1
    assert len(reading.files) == 4


def test_a_passphrase_that_cannot_be_read(key_dir: Path, tmp_path: Path, taker: Callable[..., Taker]) -> None:
    worker = taker()
    workers = {worker.ours.fileno(): ["rsa"]}
    reading = carry_out(Order([str(key_dir)], passphrase_files=[str(tmp_path / "none")], workers=workers))
    assert reading.bad == [(str(tmp_path / "none"), "No such file or directory", "check the path")]
    assert (list(reading.deaf), worker.given) == (list(workers), [])


def test_orders_and_readings_as_json() -> None:
    file = ReadFile((1, 2, 3), True, {"00": "rsa"}, ["00", ["a.test"], 5, "pem"])
    order = Order(["a"], ["b"], ["c"], ["d"], True, {"a": file}, {7: ["rsa"]}, ["00"])
    assert reader.order_from_json(reader.to_json(order)) == order
    plain = Order(["a"], [], [], [])
    assert reader.order_from_json(reader.to_json(plain)) == plain
    reading = Reading({"a": file}, {"00": "key"}, [("a", "why", "remedy")], [7])
    assert reader.reading_from_json(reader.to_json(reading)) == reading
    assert "secret" not in repr(Order(["a"], passphrases=["secret"]))
    assert "secret" not in repr(Reading({}, {"00": "secret"}))


async def test_the_process(tmp_path: Path, keys: dict[str, PrivateKey], taker: Callable[..., Taker]) -> None:
    worker = taker()
    write_atomic(tmp_path / "a.key", encrypted_pem(keys["rsa"], b"a passphrase"))
    write_atomic(tmp_path / "b.key", encrypted_pem(keys["p256"], b"a passphrase"))
    passphrase = b64encode(b"a passphrase").decode()
    order = Order([str(tmp_path)], passphrases=[passphrase], workers={worker.ours.fileno(): [KeyType.RSA]})
    reading = await read_elsewhere(order)
    assert [file.in_the_clear for file in reading.files.values()] == [False, False]
    assert reading.files[str(tmp_path / "a.key")].mark == mark_of(tmp_path / "a.key")
    assert len(reading.own) == len(worker.given) == 1
    await asyncio.sleep(0)
